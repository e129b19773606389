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
// it, it looks every o.every whether it still has it: Linux's NFS client answers EIO to a
// process whose lock the server lost. Only a write tells: it carries the lock to
// the server, while a read may be answered from the client's memory.
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
	o.duration = o.hold
	err = hold(ctx, o, file, say)
	if errors.Is(err, errBroken) && o.goOn {
		// Who takes the lock now takes it from this program, which would not
		// know without looking: it does not make room by closing the file.
		<-ctx.Done()
	}
	if err == nil {
		say("released", fields{"type": o.lockType})
	}
	return err
}

// hold writes into the locked file until ctx or o.duration ends.
func hold(ctx context.Context, o options, file *os.File, say reporter) error {
	held := time.Now()
	return steps(ctx, o, say, func(int) error {
		before := time.Now()
		_, err := file.WriteAt([]byte("h"), 0)
		if err == nil {
			err = file.Sync()
		}
		if errors.Is(err, syscall.EIO) {
			say("lost", fields{"type": o.lockType, "heldUntil": timestamp(held)})
			return errBroken
		}
		if err != nil {
			return fmt.Errorf("use the locked file: %w", err)
		}
		held = before
		return nil
	})
}

// steal tries again and again to take a lock that another process holds. That it
// gets it is the broken promise; if it goes on, it gives the lock back at once.
func steal(ctx context.Context, o options, say reporter) error {
	file, err := openToLock(o.arguments[0])
	if err != nil {
		return err
	}
	defer file.Close()
	say("stealing", fields{"type": o.lockType})
	return steps(ctx, o, say, func(step int) error {
		acquired, err := takeLock(ctx, file, o.lockType, true)
		if err != nil || !acquired {
			return err
		}
		say("stolen", fields{"type": o.lockType, "step": step})
		if !o.goOn {
			return errBroken
		}
		return giveLock(file, o.lockType)
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

// giveLock releases what takeLock took.
func giveLock(file *os.File, kind string) error {
	var err error
	if kind == "flock" {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
	} else {
		err = syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_UNLCK, Whence: io.SeekStart})
	}
	if err != nil {
		return fmt.Errorf("give a lock back with %s: %w", kind, err)
	}
	return nil
}
