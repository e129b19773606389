package filesystem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrNotBlank is returned by FormatBlank for a device that carries anything.
var ErrNotBlank = errors.New("the device is not blank")

// Identity is what a device carries.
type Identity struct {
	// FSType is the type of the filesystem; "" only if the device is blank.
	FSType string
	// UUID is the UUID of the filesystem.
	UUID string
}

// Blank says that the device carries nothing.
func (i Identity) Blank() bool { return i.FSType == "" }

// blkid's exit codes (blkid(8)).
const (
	blkidFound   = 0
	blkidNothing = 2
)

// Identify says what the device carries. The answer "blank" is given only if
// blkid finds no signature and the first and the last MiB read as zeros.
// Anything that is not a filesystem and not blank is an error, of errors.Is
// ErrNotBlank if it could be read.
func (m *Manager) Identify(ctx context.Context, device string) (Identity, error) {
	identity, err := m.identify(ctx, device)
	if err != nil {
		return Identity{}, fmt.Errorf("identify the content of %s: %w", device, err)
	}
	return identity, nil
}

func (m *Manager) identify(ctx context.Context, device string) (Identity, error) {
	// First, because blkid ends with code 2 also for a device that it cannot read.
	zero, err := edgesAreZero(ctx, device)
	if err != nil {
		return Identity{}, err
	}
	r, err := m.run(ctx, "blkid", "--probe", "--output", "export", device)
	if err != nil {
		return Identity{}, err
	}
	switch r.code {
	case blkidFound:
		return identityFrom(r.output)
	case blkidNothing:
		if r.output != "" {
			return Identity{}, r.failure("blkid")
		}
		if !zero {
			return Identity{}, fmt.Errorf("%w: it has no known signature, but its first or last MiB is not zero", ErrNotBlank)
		}
		return Identity{}, nil
	default:
		return Identity{}, r.failure("blkid")
	}
}

// identityFrom reads what blkid exported, joined by oneLine.
func identityFrom(exported string) (Identity, error) {
	tags := map[string]string{}
	for tag := range strings.SplitSeq(exported, "; ") {
		key, value, _ := strings.Cut(tag, "=")
		tags[key] = value
	}
	if tags["USAGE"] != "filesystem" || tags["TYPE"] == "" {
		return Identity{}, fmt.Errorf("%w: blkid found something that is not a filesystem: %s", ErrNotBlank, exported)
	}
	return Identity{FSType: tags["TYPE"], UUID: tags["UUID"]}, nil
}

// edge is how much of both ends of a device must be zero.
const edge = 1 << 20

// edgesAreZero reads both ends of the device. It returns when ctx ends, also if
// the read still hangs.
func edgesAreZero(ctx context.Context, device string) (bool, error) {
	type answer struct {
		zero bool
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		zero, err := readEdges(device)
		done <- answer{zero, err}
	}()
	select {
	case a := <-done:
		return a.zero, a.err
	case <-ctx.Done():
		return false, fmt.Errorf("the device cannot be read in time: %w", ctx.Err())
	}
}

func readEdges(device string) (bool, error) {
	file, err := os.Open(device)
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if size == 0 {
		return false, errors.New("the device has no size")
	}
	length := min(size, edge)
	buffer := make([]byte, length)
	zeros := make([]byte, length)
	zero := true
	for _, offset := range []int64{0, size - length} {
		// A short read is an error, of io.EOF.
		if _, err := file.ReadAt(buffer, offset); err != nil {
			return false, fmt.Errorf("read %d bytes at %d: %w", length, offset, err)
		}
		zero = zero && bytes.Equal(buffer, zeros)
	}
	return zero, nil
}

// FormatBlank makes a filesystem of fsType with this label, which is cut to what
// the filesystem can hold. It refuses with ErrNotBlank unless Identify says that
// the device is blank.
func (m *Manager) FormatBlank(ctx context.Context, device, fsType, label string) error {
	if err := m.formatBlank(ctx, device, fsType, label); err != nil {
		return fmt.Errorf("make a filesystem on %s: %w", device, err)
	}
	return nil
}

func (m *Manager) formatBlank(ctx context.Context, device, fsType, label string) error {
	if err := checkType(fsType); err != nil {
		return err
	}
	identity, err := m.identify(ctx, device)
	if err != nil {
		return err
	}
	if !identity.Blank() {
		return fmt.Errorf("%w: it carries %s, UUID %s", ErrNotBlank, identity.FSType, identity.UUID)
	}
	// Neither program is forced: both refuse a device that is in use, and
	// mkfs.xfs one with a signature.
	if fsType == XFS {
		return m.runOK(ctx, "mkfs.xfs", "-q", "-L", cut(label, 12), device)
	}
	return m.runOK(ctx, "mkfs.ext4", "-q", "-m", "0", "-L", cut(label, 16), device)
}

func cut(label string, length int) string { return label[:min(len(label), length)] }
