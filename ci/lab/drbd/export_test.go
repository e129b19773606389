package drbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/nbd"
)

// ask sends one NBD request as the kernel does and returns its error number
// and data.
func ask(t *testing.T, conn net.Conn, command uint16, offset uint64, length uint32, payload []byte) (uint32, []byte) {
	t.Helper()
	head := make([]byte, 28)
	binary.BigEndian.PutUint32(head[0:], 0x25609513)
	binary.BigEndian.PutUint16(head[6:], command)
	binary.BigEndian.PutUint64(head[8:], 42)
	binary.BigEndian.PutUint64(head[16:], offset)
	binary.BigEndian.PutUint32(head[24:], length)
	if _, err := conn.Write(append(head, payload...)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	reply := make([]byte, 16)
	if _, err := io.ReadFull(conn, reply); err != nil {
		t.Fatalf("command %d: %v", command, err)
	}
	if magic, cookie := binary.BigEndian.Uint32(reply), binary.BigEndian.Uint64(reply[8:]); magic != 0x67446698 || cookie != 42 {
		t.Fatalf("command %d: magic %#x, cookie %d", command, magic, cookie)
	}
	number := binary.BigEndian.Uint32(reply[4:])
	var data []byte
	if command == 0 && number == 0 {
		data = make([]byte, length)
		if _, err := io.ReadFull(conn, data); err != nil {
			t.Fatal(err)
		}
	}
	return number, data
}

func TestBlockExportServesThePrimaryAndRefusesTheSecondary(t *testing.T) {
	l := newLab(t, majority)
	defer l.finish()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	l.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = l.ServeBlocks(ctx, listener) }()
	dial := func(node string) net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		l.must(err)
		t.Cleanup(func() { _ = conn.Close() })
		size, err := nbd.Hello(conn, node+" pvc-a 0")
		l.must(err)
		if size != size0 {
			t.Errorf("size %d, want %d", size, size0)
		}
		return conn
	}
	l.must(l.Promote(ctx, "n0", "pvc-a", false))
	primary, secondary := dial("n0"), dial("n1")
	content := bytes.Repeat([]byte("x"), 8192)
	if number, _ := ask(t, primary, 1, 4096, 8192, content); number != 0 {
		t.Errorf("write: error %d", number)
	}
	if number, data := ask(t, primary, 0, 4096, 8192, nil); number != 0 || !bytes.Equal(data, content) {
		t.Errorf("read: error %d", number)
	}
	if number, _ := ask(t, primary, 3, 0, 0, nil); number != 0 {
		t.Errorf("flush: error %d", number)
	}
	if number, _ := ask(t, primary, 4, 0, size0, nil); number != 0 {
		t.Errorf("trim: error %d", number)
	}
	if number, data := ask(t, primary, 0, 4096, 8192, nil); number != 0 || !bytes.Equal(data, make([]byte, 8192)) {
		t.Errorf("read after trim: error %d", number)
	}
	if number, _ := ask(t, primary, 1, size0-4096, 8192, content); number != 28 {
		t.Errorf("write beyond the end: error %d, want ENOSPC", number)
	}
	for _, command := range []uint16{0, 3, 4, 6} {
		if number, _ := ask(t, secondary, command, 0, 4096, nil); number != 5 {
			t.Errorf("command %d on a Secondary: error %d, want EIO", command, number)
		}
	}
	if number, _ := ask(t, secondary, 1, 0, 4096, content[:4096]); number != 5 {
		t.Errorf("write on a Secondary: error %d, want EIO", number)
	}
	conn, err := net.Dial("tcp", listener.Addr().String())
	l.must(err)
	defer conn.Close()
	if _, err := nbd.Hello(conn, "n0 pvc-b 0"); err == nil {
		t.Error("an export that does not exist was served")
	}
}
