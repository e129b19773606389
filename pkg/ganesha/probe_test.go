package ganesha

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// What the probe does with servers that do not serve. That it succeeds with one
// that does, and what it leaves there, is proven by ganeshatest.

// server listens and lets serve handle every connection.
func server(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = connection.Close() }()
				serve(connection)
			}()
		}
	}()
	return listener.Addr().String()
}

// answering is a server that answers every RPC with what reply makes of it:
// words after the transaction id.
func answering(t *testing.T, reply func(procedure uint32) []uint32) string {
	return server(t, func(connection net.Conn) {
		for {
			var mark [4]byte
			if _, err := io.ReadFull(connection, mark[:]); err != nil {
				return
			}
			call := make([]byte, binary.BigEndian.Uint32(mark[:])&^(1<<31))
			if _, err := io.ReadFull(connection, call); err != nil {
				return
			}
			words := reply(binary.BigEndian.Uint32(call[20:]))
			answer := binary.BigEndian.AppendUint32(nil, 1<<31|uint32(4+4*len(words)))
			answer = append(answer, call[:4]...)
			for _, word := range words {
				answer = binary.BigEndian.AppendUint32(answer, word)
			}
			if _, err := connection.Write(answer); err != nil {
				return
			}
		}
	})
}

func TestProbeFailsForWhateverIsNotAnExport(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, closed.Close())

	accepted := func(words ...uint32) []uint32 { return append([]uint32{1, 0, 0, 0, 0}, words...) }
	for name, c := range map[string]struct{ address, says string }{
		"nobody listens":   {closed.Addr().String(), "refused"},
		"silence":          {server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "timeout"},
		"hangs up":         {server(t, func(net.Conn) {}), ""},
		"another protocol": {server(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }), "not NFS"},
		"endless fragments": {server(t, func(c net.Conn) {
			for {
				if _, err := c.Write([]byte{0, 1, 0, 0}); err != nil {
					return
				}
				if _, err := c.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}), "not NFS"},
		// Portmappers, proxies and half-started servers answer NULL.
		"only NULL": {answering(t, func(procedure uint32) []uint32 {
			if procedure == 0 {
				return accepted()
			}
			return []uint32{1, 0, 0, 0, 3} // PROC_UNAVAIL
		}), "accept_stat 3"},
		"denied":             {answering(t, func(uint32) []uint32 { return []uint32{1, 1, 1, 1} }), "denies"},
		"nothing in it":      {answering(t, func(uint32) []uint32 { return accepted() }), "too short"},
		"only NFSv4.0":       {answering(t, func(uint32) []uint32 { return accepted(10021, 0, 0) }), "MINOR_VERS"},
		"other operation":    {answering(t, func(uint32) []uint32 { return accepted(0, 0, 1, 24, 0) }), "EXCHANGE_ID"},
		"operation left out": {answering(t, func(uint32) []uint32 { return accepted(0, 0, 0) }), "left it out"},
		"too many results":   {answering(t, func(uint32) []uint32 { return accepted(0, 0, 2, 42, 0) }), "more results"},
		"endless opaque":     {answering(t, func(uint32) []uint32 { return accepted(0, 0xffffffff, 1, 42, 0) }), "too short"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			start := time.Now()
			err := Probe(ctx, c.address, "/pvc-1")
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "probe export /pvc-1 at "+c.address) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestProbeEndsWhenItIsCancelled(t *testing.T) {
	silent := server(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	if err := Probe(ctx, silent, "/pvc-1"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}
