package nfs

import (
	"encoding/binary"
	"errors"
)

// encoder appends XDR (RFC 4506).
type encoder struct{ buf []byte }

func (e *encoder) uint32(v uint32) { e.buf = binary.BigEndian.AppendUint32(e.buf, v) }
func (e *encoder) uint64(v uint64) { e.buf = binary.BigEndian.AppendUint64(e.buf, v) }

// fixed appends opaque data whose length both sides know.
func (e *encoder) fixed(v []byte) {
	e.buf = append(e.buf, v...)
	for len(e.buf)%4 != 0 {
		e.buf = append(e.buf, 0)
	}
}

// opaque appends opaque data of variable length.
func (e *encoder) opaque(v []byte) {
	e.uint32(uint32(len(v)))
	e.fixed(v)
}

var errShort = errors.New("the reply is too short")

// decoder takes XDR from a reply. After the first error it returns zeros: the
// caller checks err once, at the end.
type decoder struct {
	buf []byte
	err error
}

func (d *decoder) take(n int) []byte {
	padded := (n + 3) &^ 3
	if d.err != nil || n < 0 || padded < n || padded > len(d.buf) {
		if d.err == nil {
			d.err = errShort
		}
		return nil
	}
	v := d.buf[:n]
	d.buf = d.buf[padded:]
	return v
}

func (d *decoder) uint32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (d *decoder) opaque() []byte {
	n := d.uint32()
	if n > uint32(len(d.buf)) {
		if d.err == nil {
			d.err = errShort
		}
		return nil
	}
	return d.take(int(n))
}
