// Package nfs is as much of an NFSv4.1 client (RFC 8881) as it takes to prove
// that a server serves an export: it makes a session, looks up a path, reads
// attributes, and takes session and client id down again. It never opens a file
// and holds no state that a server would have to keep over a restart.
package nfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// OwnerPrefix begins the client owner (RFC 8881, 2.4) of every session of ours,
// by which leftover records of interrupted ones are told from those of clients.
const OwnerPrefix = "linstor-rwx-probe"

// The operations we use (RFC 8881, 18).
const (
	opGetattr         = 9
	opGetfh           = 10
	opLookup          = 15
	opPutrootfh       = 24
	opExchangeID      = 42
	opCreateSession   = 43
	opDestroySession  = 44
	opSequence        = 53
	opDestroyClientID = 57
	opReclaimComplete = 58
)

var opNames = map[uint32]string{
	opGetattr: "GETATTR", opGetfh: "GETFH", opLookup: "LOOKUP", opPutrootfh: "PUTROOTFH",
	opExchangeID: "EXCHANGE_ID", opCreateSession: "CREATE_SESSION", opDestroySession: "DESTROY_SESSION",
	opSequence: "SEQUENCE", opDestroyClientID: "DESTROY_CLIENTID", opReclaimComplete: "RECLAIM_COMPLETE",
}

const minorVersion = 1

// Some values of nfsstat4 (RFC 8881, 15.1).
var statusNames = map[uint32]string{
	1: "PERM", 2: "NOENT", 5: "IO", 13: "ACCESS", 20: "NOTDIR", 22: "INVAL", 30: "ROFS", 63: "NAMETOOLONG",
	70: "STALE", 10001: "BADHANDLE", 10006: "SERVERFAULT", 10008: "DELAY", 10013: "GRACE",
	10016: "WRONGSEC", 10018: "RESOURCE", 10021: "MINOR_VERS_MISMATCH", 10022: "STALE_CLIENTID",
	10052: "BADSESSION", 10071: "OP_NOT_IN_SESSION", 10074: "CLIENTID_BUSY",
}

const statusDelay = 10008

// StatusError is a status other than NFS4_OK that the server gave to one
// operation.
type StatusError struct {
	Operation string
	// Status is the nfsstat4 (RFC 8881, 15.1).
	Status uint32
}

func (e *StatusError) Error() string {
	name, known := statusNames[e.Status]
	if !known {
		name = "status"
	}
	return fmt.Sprintf("%s: the server answers %s (%d)", e.Operation, name, e.Status)
}

// operation is one operation of a COMPOUND: its arguments, and what to do with
// its results.
type operation struct {
	code   uint32
	args   func(*encoder)
	result func(*decoder)
}

// compound sends operations as one COMPOUND and hands the results of each to
// it. It stops at the first that fails.
func (c *connection) compound(operations ...operation) error {
	e := &encoder{}
	e.opaque(nil) // tag
	e.uint32(minorVersion)
	e.uint32(uint32(len(operations)))
	for _, op := range operations {
		e.uint32(op.code)
		if op.args != nil {
			op.args(e)
		}
	}
	d, err := c.call(procCompound, e.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", opNames[operations[len(operations)-1].code], err)
	}
	status := d.uint32()
	d.opaque()
	count := d.uint32()
	if d.err != nil {
		return fmt.Errorf("%s: %w", opNames[operations[len(operations)-1].code], d.err)
	}
	if count == 0 && status != 0 {
		return &StatusError{Operation: "COMPOUND", Status: status}
	}
	if int(count) > len(operations) {
		return errors.New("the reply has more results than the call had operations")
	}
	for _, op := range operations[:count] {
		code, opStatus := d.uint32(), d.uint32()
		if d.err != nil {
			return d.err
		}
		if code != op.code {
			return fmt.Errorf("%s: the reply is to operation %d", opNames[op.code], code)
		}
		if opStatus != 0 {
			return &StatusError{Operation: opNames[op.code], Status: opStatus}
		}
		if op.result != nil {
			op.result(d)
		}
		if d.err != nil {
			return fmt.Errorf("%s: %w", opNames[op.code], d.err)
		}
	}
	if int(count) < len(operations) {
		return fmt.Errorf("%s: the server left it out", opNames[operations[count].code])
	}
	return nil
}

// Session is an NFSv4.1 session with one slot. It is not safe for concurrent
// use.
type Session struct {
	conn     *connection
	clientID uint64
	id       []byte
	sequence uint32
}

// Connect makes a client id and a session at address ("host:port"), as a client
// that nobody has seen before: a server must not take it for another
// incarnation of one that it knows, and throw that one's session away.
// Everything that is done in the session ends when ctx does, except Close; see
// Follow.
func Connect(ctx context.Context, address string) (*Session, error) {
	return ConnectAs(ctx, address, fmt.Sprintf("%s-%016x", OwnerPrefix, rand.Uint64()))
}

// ConnectAs is Connect as the client of this name (RFC 8881, 2.4,
// co_ownerid), which may have been here before. Tests of grace need it.
func ConnectAs(ctx context.Context, address, owner string) (*Session, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	s := &Session{conn: conn}
	if err := s.establish(owner); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Session) establish(owner string) error {
	var sequence uint32
	err := s.conn.compound(operation{opExchangeID, func(e *encoder) {
		e.uint64(rand.Uint64()) // verifier: of this incarnation
		e.opaque([]byte(owner))
		e.uint32(0) // flags
		e.uint32(0) // SP4_NONE
		e.uint32(0) // no implementation id
	}, func(d *decoder) {
		s.clientID = d.uint64()
		sequence = d.uint32()
		d.uint32() // flags
		if how := d.uint32(); how != 0 {
			d.err = errors.New("the server wants state protection")
		}
		d.uint64() // server owner
		d.opaque()
		d.opaque() // server scope
		for range min(d.uint32(), 1) {
			d.opaque()
			d.opaque()
			d.take(12)
		}
	}})
	if err != nil {
		return err
	}
	return s.conn.compound(operation{opCreateSession, func(e *encoder) {
		e.uint64(s.clientID)
		e.uint32(sequence)
		e.uint32(0) // neither persistent nor with a back channel
		for range 2 {
			e.uint32(0)         // header padding
			e.uint32(64 * 1024) // largest request
			e.uint32(64 * 1024) // largest response
			e.uint32(4 * 1024)  // largest cached response
			e.uint32(16)        // operations
			e.uint32(1)         // slots
			e.uint32(0)         // no RDMA
		}
		e.uint32(0x40000000) // callback program, never called
		e.uint32(1)
		e.uint32(authNone)
	}, func(d *decoder) {
		s.id = append([]byte(nil), d.take(16)...)
		d.uint32() // sequence
		d.uint32() // flags
		for range 2 {
			d.take(6 * 4)
			for range min(d.uint32(), 1) {
				d.uint32()
			}
		}
	}})
}

// Follow makes ctx the context of what is done in the session from now on.
func (s *Session) Follow(ctx context.Context) { s.conn.follow(ctx) }

// inSession sends operations in our slot.
func (s *Session) inSession(operations ...operation) error {
	s.sequence++
	return s.conn.compound(append([]operation{{opSequence, func(e *encoder) {
		e.fixed(s.id)
		e.uint32(s.sequence)
		e.uint32(0) // slot
		e.uint32(0) // highest slot
		e.uint32(0) // do not cache the reply
	}, func(d *decoder) {
		d.take(16)
		d.take(5 * 4)
	}}}, operations...)...)
}

// Directory is what a server says about a directory.
type Directory struct {
	// Handle is its file handle.
	Handle []byte
	// FSID is the fsid attribute, (major, minor).
	FSID [2]uint64
	// SpaceTotal is the size of its filesystem in bytes.
	SpaceTotal uint64
}

// ReclaimComplete says that we have nothing to reclaim any more.
func (s *Session) ReclaimComplete() error {
	return s.inSession(operation{opReclaimComplete, func(e *encoder) { e.uint32(0) }, nil})
}

// Abandon closes the connection and leaves session and client id to the server,
// as a client does that dies.
func (s *Session) Abandon() { s.conn.close() }

// The attributes that we read (RFC 8881, 5.8).
const (
	attrType       = 1
	attrFSID       = 8
	attrSpaceTotal = 44
	typeDirectory  = 2
)

// Lookup looks up path, which begins with "/", from the root of the server. It
// returns the fsid of that root, and the directory.
func (s *Session) Lookup(path string) (rootFSID [2]uint64, directory Directory, err error) {
	operations := []operation{
		{code: opPutrootfh},
		getattr(map[int]func(*decoder){attrFSID: decodeFSID(&rootFSID)}),
	}
	for _, name := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) {
		operations = append(operations, operation{opLookup, func(e *encoder) { e.opaque([]byte(name)) }, nil})
	}
	var kind uint32
	operations = append(operations,
		operation{opGetfh, nil, func(d *decoder) { directory.Handle = append([]byte(nil), d.opaque()...) }},
		getattr(map[int]func(*decoder){
			attrType:       func(d *decoder) { kind = d.uint32() },
			attrFSID:       decodeFSID(&directory.FSID),
			attrSpaceTotal: func(d *decoder) { directory.SpaceTotal = d.uint64() },
		}))
	if err := s.inSession(operations...); err != nil {
		return rootFSID, directory, err
	}
	if kind != typeDirectory {
		return rootFSID, directory, fmt.Errorf("%s is not a directory (nfs_ftype4 %d)", path, kind)
	}
	return rootFSID, directory, nil
}

func decodeFSID(fsid *[2]uint64) func(*decoder) {
	return func(d *decoder) { fsid[0], fsid[1] = d.uint64(), d.uint64() }
}

// getattr asks for the attributes of wanted, all below 64, and decodes them. An
// attribute that the server does not give is an error.
func getattr(wanted map[int]func(*decoder)) operation {
	var bits [2]uint32
	for attribute := range wanted {
		bits[attribute/32] |= 1 << (attribute % 32)
	}
	return operation{opGetattr, func(e *encoder) {
		e.uint32(2)
		e.uint32(bits[0])
		e.uint32(bits[1])
	}, func(d *decoder) {
		var given [2]uint32
		for i := range d.uint32() {
			word := d.uint32()
			if d.err != nil {
				return
			}
			if i < 2 {
				given[i] = word
			}
		}
		if given != bits {
			d.err = fmt.Errorf("attributes %x are missing of %x", given, bits)
			return
		}
		values := &decoder{buf: d.opaque()}
		for attribute := range 64 {
			if decode := wanted[attribute]; decode != nil {
				decode(values)
			}
		}
		if d.err == nil {
			d.err = values.err
		}
	}}
}

// closeTimeout bounds Close when the context of the session has ended.
const closeTimeout = time.Second

// Close takes the session and the client id down and closes the connection. A
// server that does not answer forgets both after its lease. The error says that
// they may still be there.
func (s *Session) Close() error {
	defer s.conn.close()
	if s.clientID == 0 {
		return nil
	}
	s.conn.extend(closeTimeout)
	if s.id != nil {
		if err := s.conn.compound(operation{opDestroySession, func(e *encoder) { e.fixed(s.id) }, nil}); err != nil {
			return err
		}
	}
	err := s.conn.compound(operation{opDestroyClientID, func(e *encoder) { e.uint64(s.clientID) }, nil})
	var status *StatusError
	for attempt := 0; errors.As(err, &status) && status.Status == statusDelay && attempt < 5; attempt++ {
		time.Sleep(20 * time.Millisecond)
		err = s.conn.compound(operation{opDestroyClientID, func(e *encoder) { e.uint64(s.clientID) }, nil})
	}
	return err
}
