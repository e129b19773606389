// Package filesystem makes, checks, mounts, grows and unmounts filesystems. Its
// first rule is that data is never destroyed: a filesystem is made only on a
// device that is proven to be blank, and everything that is not certain is an
// error.
//
// It opens the devices. On a DRBD device that is Secondary even a reader blocks
// the promotion of the other nodes: promote first.
package filesystem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/utils/exec"
)

// The filesystems that can be served.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// RecoveryOptions are the mount options of the recovery volume. ganesha does not
// fsync its records of clients; with dirsync a record is on the disk when the
// call that made it returns.
var RecoveryOptions = []string{"dirsync", "noatime"}

// Manager does the work of this package through the system's programs.
type Manager struct {
	exec exec.Interface
}

// New returns a Manager that runs programs by exec.
func New(exec exec.Interface) *Manager { return &Manager{exec: exec} }

// result is what a program printed and how it ended.
type result struct {
	output string
	code   int
}

// killTimeout is how long a program may take to die after its context ended.
const killTimeout = time.Second

// run is the one place that runs a program and waits for it. An exit code other
// than 0 is not an error here: many programs answer by it.
//
// A program that hangs on a device whose I/O is suspended cannot even be
// killed. Then run returns nevertheless, and the program ends when its I/O
// does: `drbdsetup secondary --force` makes it fail.
func (m *Manager) run(ctx context.Context, program string, args ...string) (result, error) {
	type ended struct {
		output []byte
		err    error
	}
	done := make(chan ended, 1)
	command := m.exec.CommandContext(ctx, program, args...)
	command.SetEnv([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"})
	go func() {
		output, err := command.CombinedOutput()
		done <- ended{output, err}
	}()
	var end ended
	select {
	case end = <-done:
	case <-ctx.Done():
		select {
		case end = <-done:
		case <-time.After(killTimeout):
		}
		return result{}, fmt.Errorf("%s did not end in time: %w", program, ctx.Err())
	}
	output := oneLine(string(end.output))
	if end.err == nil {
		return result{output, 0}, nil
	}
	var exit exec.ExitError
	if errors.As(end.err, &exit) && exit.Exited() {
		return result{output, exit.ExitStatus()}, nil
	}
	return result{}, fmt.Errorf("run %s: %w", program, end.err)
}

// runOK is run for a program that must end with code 0.
func (m *Manager) runOK(ctx context.Context, program string, args ...string) error {
	r, err := m.run(ctx, program, args...)
	if err != nil {
		return err
	}
	if r.code != 0 {
		return r.failure(program)
	}
	return nil
}

func (r result) failure(program string) error {
	return fmt.Errorf("%s ended with code %d: %s", program, r.code, r.output)
}

func oneLine(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func checkType(fsType string) error {
	if fsType != Ext4 && fsType != XFS {
		return fmt.Errorf("filesystem type %q is neither %s nor %s", fsType, Ext4, XFS)
	}
	return nil
}
