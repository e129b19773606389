package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// NodeLock decides which supervisor of a node acts, while a rollout of the
// DaemonSet runs two: the old pod's until it ends, then the new pod's. Each export
// thereby moves once, into the new pod on its own node, with its volumes mounted
// and Primary all the time.
type NodeLock interface {
	// Acquire waits until no other supervisor of this node acts, or ctx ends.
	Acquire(ctx context.Context) error
	// InLine says whether Acquire has got the lock, or has said that it waits.
	InLine() bool
	// Release lets the next supervisor act.
	Release()
	// Awaited says whether another supervisor waits.
	Awaited() bool
}

// FileLock is a NodeLock by locks on two files in a directory of the node, which
// the kernel gives back when a process ends, however it ends.
type FileLock struct {
	directory string
	held      *os.File
	inLine    atomic.Bool
}

// NewFileLock returns a lock in directory, which all supervisors of the node see.
func NewFileLock(directory string) *FileLock { return &FileLock{directory: directory} }

const (
	activeFile = "active.lock"
	nextFile   = "next.lock"
	lockPause  = 50 * time.Millisecond
)

// Acquire implements NodeLock. Who waits says so by the lock on a second file.
func (l *FileLock) Acquire(ctx context.Context) error {
	next, err := l.wait(ctx, nextFile)
	if err != nil {
		return err
	}
	defer func() { _ = next.Close() }()
	l.inLine.Store(true)
	l.held, err = l.wait(ctx, activeFile)
	return err
}

// wait polls, for a process that sits in flock cannot be told to end.
func (l *FileLock) wait(ctx context.Context, name string) (*os.File, error) {
	if err := os.MkdirAll(l.directory, 0o755); err != nil {
		return nil, fmt.Errorf("lock the node's supervisor: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(l.directory, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the node's supervisor: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, ctx.Err()
		case <-time.After(lockPause):
		}
	}
}

// InLine implements NodeLock.
func (l *FileLock) InLine() bool { return l.inLine.Load() }

// Release implements NodeLock.
func (l *FileLock) Release() {
	if l.held != nil {
		_ = l.held.Close()
		l.held = nil
	}
}

// Awaited implements NodeLock.
func (l *FileLock) Awaited() bool {
	return LocalHost{}.Locked(filepath.Join(l.directory, nextFile))
}

// becomeActive waits for its turn among the supervisors of this node.
func (a *Agent) becomeActive(ctx context.Context) {
	if a.nodeLock != nil {
		if err := a.nodeLock.Acquire(ctx); err != nil {
			if ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "This supervisor cannot know whether another one acts on this node, and does nothing")
			}
			return
		}
	}
	a.active.Store(true)
	klog.FromContext(ctx).Info("Supervisor of this node is active")
	a.TriggerAll()
}

// Ready says why this supervisor does not act on its node and is not known to wait
// for that either, or nil. A pod must not count as ready before: the rollout would
// end the old pod, which would find nobody to leave its exports to.
func (a *Agent) Ready() error {
	if a.active.Load() || a.nodeLock == nil || a.nodeLock.InLine() {
		return nil
	}
	return errors.New("it is not this supervisor's turn yet")
}

// stepBack lets the next supervisor of this node act. This one only still tells
// its clients when they may reconnect.
func (a *Agent) stepBack(ctx context.Context) {
	if !a.active.Swap(false) {
		return
	}
	klog.FromContext(ctx).Info("The next supervisor of this node takes over")
	a.nodeLock.Release()
}
