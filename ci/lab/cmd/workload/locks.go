package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// lock takes an exclusive lock on the whole file, and holds it. While it holds
// it, it looks whether it still has it: Linux's NFS client answers EIO to a
// process whose lock the server lost.
func lock(ctx context.Context, o options, say reporter) error {
	file, err := openToLock(o.arguments[0])
	if err != nil {
		return err
	}
	defer file.Close()
	asked := time.Now()
	acquired, err := takeLock(ctx, file, o.lockType, o.try)
	if err != nil {
		return err
	}
	waited := fields{"type": o.lockType, "waited": time.Since(asked).Seconds()}
	if !acquired {
		say("denied", waited)
		return errBroken
	}
	say("acquired", waited)

	var over <-chan time.Time
	if o.hold > 0 {
		over = time.After(o.hold)
	}
	look := time.NewTicker(250 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			say("released", fields{"type": o.lockType})
			return nil
		case <-over:
			say("released", fields{"type": o.lockType})
			return nil
		case <-look.C:
			_, err := file.ReadAt(make([]byte, 1), 0)
			if errors.Is(err, syscall.EIO) {
				say("lost", fields{"type": o.lockType})
				return errBroken
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("use the locked file: %w", err)
			}
		}
	}
}

// steal tries again and again to take a lock that another process holds. That it
// gets it is the broken promise.
func steal(ctx context.Context, o options, say reporter) error {
	file, err := openToLock(o.arguments[0])
	if err != nil {
		return err
	}
	defer file.Close()
	say("stealing", fields{"type": o.lockType})
	return steps(ctx, o, say, func(step int) error {
		acquired, err := takeLock(ctx, file, o.lockType, true)
		if err != nil {
			return err
		}
		if acquired {
			say("stolen", fields{"type": o.lockType, "step": step})
			return errBroken
		}
		return nil
	})
}

func openToLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("open the file to lock: %w", err)
	}
	return file, nil
}

// takeLock takes an exclusive lock; false means that another process has it.
// Unless it only tries, it waits, by asking again: a program that sits in the
// system call could not be told to end.
func takeLock(ctx context.Context, file *os.File, kind string, try bool) (bool, error) {
	for {
		var err error
		switch kind {
		case "fcntl":
			err = syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart})
		case "flock":
			err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		default:
			return false, fmt.Errorf("take a lock: there is no kind %q", kind)
		}
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES):
			return false, fmt.Errorf("take a lock with %s: %w", kind, err)
		case try:
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait for a lock: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
