package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fields are what an event says beside its name and time.
type fields map[string]any

// reporter writes one event.
type reporter func(event string, more fields)

// newReporter returns a reporter that writes JSON lines. It may be called from
// several goroutines.
func newReporter(output io.Writer, now func() time.Time) reporter {
	var mutex sync.Mutex
	return func(event string, more fields) {
		line := fields{"time": timestamp(now()), "event": event}
		maps.Copy(line, more)
		text, err := json.Marshal(line)
		if err != nil {
			text = []byte(fmt.Sprintf(`{"event":"error","error":%q}`, err))
		}
		mutex.Lock()
		defer mutex.Unlock()
		fmt.Fprintf(output, "%s\n", text)
	}
}

// of returns a reporter whose events carry the kind of work that they are
// about.
func (say reporter) of(kind string) reporter {
	return func(event string, more fields) {
		with := fields{"kind": kind}
		maps.Copy(with, more)
		say(event, with)
	}
}

// timestamp is how events write a time.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// errorName returns the system's name of an error, for instance ESTALE, or ""
// if it is not an error of the operating system.
func errorName(err error) string {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return ""
	}
	return unix.ErrnoName(number)
}
