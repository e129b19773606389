// Package nbd serves block devices by the transmission phase of the NBD
// protocol (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
//
// The handshake is not NBD's: server and client are both the laboratory's, so
// a line says which export is meant and a line answers with its size (Hello).
// The kernel then takes over the socket.
package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
)

// Protocol numbers of the transmission phase.
const (
	requestMagic = 0x25609513
	replyMagic   = 0x67446698

	commandRead        = 0
	commandWrite       = 1
	commandDisconnect  = 2
	commandFlush       = 3
	commandTrim        = 4
	commandWriteZeroes = 6

	flagForceUnitAccess = 1 << 0
)

// TransmissionFlags are what the server can do: flush, FUA, trim, zeroes.
const TransmissionFlags = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6

// maxRequest bounds one request's payload; the kernel sends at most 32 MiB.
const maxRequest = 32 << 20

// Backend is one export. Its methods may block for as long as the device is
// meant to hang, until ctx ends, which it does when the connection is lost.
// A syscall.Errno is reported to the client as it is, other errors as EIO.
type Backend interface {
	// SizeBytes is the size now; requests beyond it are refused.
	SizeBytes() int64
	Read(ctx context.Context, p []byte, offset int64) error
	Write(ctx context.Context, p []byte, offset int64) error
	// Zero makes the range read as zeroes.
	Zero(ctx context.Context, offset, length int64) error
	// Flush returns when all acknowledged writes are durable.
	Flush(ctx context.Context) error
}

// Open finds the backend for what the client's hello line names.
type Open func(export string) (Backend, error)

// Serve answers connections until ctx ends or the listener fails. Requests
// that hang end with their connection.
func Serve(ctx context.Context, listener net.Listener, open Open) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept block connection: %w", err)
		}
		go func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			_ = serveConnection(ctx, conn, open)
		}()
	}
}

// serveConnection does the hello and then requests until the client leaves.
func serveConnection(ctx context.Context, conn net.Conn, open Open) error {
	reader := bufio.NewReaderSize(conn, 64<<10)
	line, err := reader.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	backend, err := open(strings.TrimSpace(line))
	if err != nil {
		_, _ = fmt.Fprintf(conn, "error %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		return err
	}
	if _, err := fmt.Fprintf(conn, "ok %d\n", backend.SizeBytes()); err != nil {
		return fmt.Errorf("answer hello: %w", err)
	}
	return transmit(ctx, conn, reader, backend)
}

// Hello names the export on a fresh connection and returns its size. It reads
// not a byte more than the answer, so that the kernel can have the socket.
func Hello(conn net.Conn, export string) (sizeBytes int64, err error) {
	if _, err := fmt.Fprintf(conn, "%s\n", export); err != nil {
		return 0, fmt.Errorf("say hello: %w", err)
	}
	var line []byte
	for one := make([]byte, 1); ; {
		if _, err := conn.Read(one); err != nil {
			return 0, fmt.Errorf("read answer to hello: %w", err)
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	if text, refused := strings.CutPrefix(string(line), "error "); refused {
		return 0, fmt.Errorf("export %s refused: %s", export, text)
	}
	if _, err := fmt.Sscanf(string(line), "ok %d", &sizeBytes); err != nil {
		return 0, fmt.Errorf("understand answer %q: %w", line, err)
	}
	return sizeBytes, nil
}

// request is one request without its payload.
type request struct {
	flags, command uint16
	cookie         uint64
	offset         uint64
	length         uint32
}

// transmit executes requests concurrently, so that one that hangs holds up
// neither the others nor a disconnection.
func transmit(ctx context.Context, conn net.Conn, reader io.Reader, backend Backend) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var replies sync.Mutex
	for {
		req, err := readRequest(reader)
		if err != nil {
			return err
		}
		var payload []byte
		switch req.command {
		case commandDisconnect:
			return nil
		case commandWrite:
			if req.length > maxRequest {
				return fmt.Errorf("write of %d bytes is too large", req.length)
			}
			payload = make([]byte, req.length)
			if _, err := io.ReadFull(reader, payload); err != nil {
				return fmt.Errorf("read payload: %w", err)
			}
		}
		running.Go(func() {
			data, err := execute(ctx, backend, req, payload)
			if ctx.Err() != nil {
				return // nobody waits for the answer any more
			}
			replies.Lock()
			defer replies.Unlock()
			if writeReply(conn, req.cookie, err, data) != nil {
				_ = conn.Close()
			}
		})
	}
}

func readRequest(reader io.Reader) (request, error) {
	var head [28]byte
	if _, err := io.ReadFull(reader, head[:]); err != nil {
		return request{}, fmt.Errorf("read request: %w", err)
	}
	if magic := binary.BigEndian.Uint32(head[0:]); magic != requestMagic {
		return request{}, fmt.Errorf("request with magic %#x", magic)
	}
	return request{
		flags:   binary.BigEndian.Uint16(head[4:]),
		command: binary.BigEndian.Uint16(head[6:]),
		cookie:  binary.BigEndian.Uint64(head[8:]),
		offset:  binary.BigEndian.Uint64(head[16:]),
		length:  binary.BigEndian.Uint32(head[24:]),
	}, nil
}

// execute does one request and returns what was read.
func execute(ctx context.Context, backend Backend, req request, payload []byte) ([]byte, error) {
	offset, length := int64(req.offset), int64(req.length)
	if req.command != commandFlush && (offset < 0 || offset+length > backend.SizeBytes()) {
		return nil, syscall.ENOSPC
	}
	var err error
	switch req.command {
	case commandRead:
		if length > maxRequest {
			return nil, syscall.EOVERFLOW
		}
		data := make([]byte, length)
		return data, backend.Read(ctx, data, offset)
	case commandWrite:
		err = backend.Write(ctx, payload, offset)
	case commandTrim, commandWriteZeroes:
		err = backend.Zero(ctx, offset, length)
	case commandFlush:
		return nil, backend.Flush(ctx)
	default:
		return nil, syscall.EINVAL
	}
	if err == nil && req.flags&flagForceUnitAccess != 0 {
		err = backend.Flush(ctx)
	}
	return nil, err
}

func writeReply(conn io.Writer, cookie uint64, err error, data []byte) error {
	var head [16]byte
	binary.BigEndian.PutUint32(head[0:], replyMagic)
	binary.BigEndian.PutUint32(head[4:], uint32(errno(err)))
	binary.BigEndian.PutUint64(head[8:], cookie)
	if err != nil {
		data = nil
	}
	_, werr := conn.Write(append(head[:], data...))
	return werr
}

// errno maps an error to the numbers NBD knows, which are Linux's.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return syscall.EIO
}
