package nfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// ONC RPC (RFC 5531) over TCP.
const (
	rpcVersion   = 2
	rpcCall      = 0
	rpcReply     = 1
	rpcAccepted  = 0
	rpcSuccess   = 0
	authNone     = 0
	authSys      = 1
	programNFS   = 100003
	versionNFS   = 4
	procNull     = 0
	procCompound = 1

	lastFragment = 1 << 31
	// maxReply bounds what we believe of a length that the peer sends.
	maxReply = 1 << 20
)

// connection sends one call after the other.
type connection struct {
	conn net.Conn
	xid  uint32
	// unfollow ends the dependence on the context.
	unfollow func() bool
}

// dial connects to address, for calls within ctx.
func dial(ctx context.Context, address string) (*connection, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &connection{conn: conn, xid: 1, unfollow: func() bool { return true }}
	c.follow(ctx)
	return c, nil
}

// follow makes the calls from now on end at ctx's deadline, and at once when ctx
// is cancelled.
func (c *connection) follow(ctx context.Context) {
	c.unfollow()
	deadline, _ := ctx.Deadline() // the zero time is none
	_ = c.conn.SetDeadline(deadline)
	c.unfollow = context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
}

// extend lets calls go on for a while although the context may have ended.
func (c *connection) extend(timeout time.Duration) {
	c.unfollow()
	_ = c.conn.SetDeadline(time.Now().Add(timeout))
}

func (c *connection) close() {
	c.unfollow()
	_ = c.conn.Close()
}

// call sends one request and returns the results of its reply.
func (c *connection) call(procedure uint32, args []byte) (*decoder, error) {
	c.xid++
	e := &encoder{buf: make([]byte, 4, 128+len(args))}
	e.uint32(c.xid)
	e.uint32(rpcCall)
	e.uint32(rpcVersion)
	e.uint32(programNFS)
	e.uint32(versionNFS)
	e.uint32(procedure)
	// The export admits AUTH_SYS only. Root needs no permission to look at the
	// root of an export, whatever its mode and squash are: LOOKUP checks the
	// pseudo directories only, which everybody may search.
	credential := &encoder{}
	credential.uint32(0)
	credential.opaque([]byte("linstor-rwx"))
	credential.uint32(0)
	credential.uint32(0)
	credential.uint32(0)
	e.uint32(authSys)
	e.opaque(credential.buf)
	e.uint32(authNone)
	e.uint32(0)
	e.buf = append(e.buf, args...)
	binary.BigEndian.PutUint32(e.buf, lastFragment|uint32(len(e.buf)-4))
	if _, err := c.conn.Write(e.buf); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	d, err := c.reply()
	if err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	status := d.uint32()
	if status != rpcAccepted {
		return nil, errors.New("the server denies the call: RPC version or credential")
	}
	d.uint32() // flavour of the verifier
	d.opaque()
	if accept := d.uint32(); d.err == nil && accept != rpcSuccess {
		return nil, fmt.Errorf("the server does not accept the call (RFC 5531 accept_stat %d)", accept)
	}
	return d, d.err
}

// reply reads the reply to the last call. The reply to an earlier one, which was
// given up at its deadline, may still come before it.
func (c *connection) reply() (*decoder, error) {
	for {
		record, err := c.readRecord()
		if err != nil {
			return nil, err
		}
		d := &decoder{buf: record}
		xid, kind := d.uint32(), d.uint32()
		if d.err != nil {
			return nil, d.err
		}
		if kind != rpcReply {
			return nil, errors.New("the server sent something else than a reply")
		}
		if xid == c.xid {
			return d, nil
		}
	}
}

// readRecord reads one record (RFC 5531, section 11), which may come in
// fragments.
func (c *connection) readRecord() ([]byte, error) {
	var record []byte
	for {
		var header [4]byte
		if _, err := io.ReadFull(c.conn, header[:]); err != nil {
			return nil, err
		}
		mark := binary.BigEndian.Uint32(header[:])
		size := int(mark &^ lastFragment)
		if size+len(record) > maxReply {
			return nil, fmt.Errorf("a reply of %d bytes is not NFS", size+len(record))
		}
		fragment := make([]byte, size)
		if _, err := io.ReadFull(c.conn, fragment); err != nil {
			return nil, err
		}
		record = append(record, fragment...)
		if mark&lastFragment != 0 {
			return record, nil
		}
	}
}
