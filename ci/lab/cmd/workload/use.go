package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// How often each kind of work of use does its step: often enough to see a short
// stall, seldom enough for a node with one processor.
const (
	writeEvery   = 40 * time.Millisecond
	openEvery    = 60 * time.Millisecond
	stealEvery   = 200 * time.Millisecond
	holdEvery    = 200 * time.Millisecond
	browseEvery  = 250 * time.Millisecond
	useGap       = 100 * time.Millisecond
	useProgress  = 250 * time.Millisecond
	browsedFiles = 12
)

// part is one of the kinds of work that use does at the same time.
type part struct {
	kind    string
	run     func(ctx context.Context, o options, say reporter) error
	options options
	// holds marks those that end when locks are to be released.
	holds bool
}

// use does what applications do, all at once, until it is told to end: SIGUSR1
// makes it release its locks, SIGTERM ends it. The events of each kind of work
// carry its name as "kind"; the last event of all is "ended".
func use(ctx context.Context, o options, say reporter) error {
	if o.name == "" {
		return errors.New("read the command line: use needs --name")
	}
	if _, err := os.Stat(o.arguments[0]); err != nil {
		return fmt.Errorf("find the folder to use: %w", err)
	}
	holding, release := signal.NotifyContext(ctx, syscall.SIGUSR1)
	defer release()
	var running sync.WaitGroup
	var lock sync.Mutex
	var failures []error
	for _, part := range parts(o) {
		running.Add(1)
		go func() {
			defer running.Done()
			ctx := ctx
			if part.holds {
				ctx = holding
			}
			say := say.of(part.kind)
			say("begun", nil)
			err := part.run(ctx, part.options, say)
			if err != nil && !errors.Is(err, errBroken) {
				say("error", fields{"error": err.Error(), "errno": errorName(err)})
			}
			lock.Lock()
			defer lock.Unlock()
			failures = append(failures, err)
		}()
	}
	running.Wait()
	say("ended", nil)
	for _, failure := range failures {
		if failure != nil {
			return errBroken // what it was has been said
		}
	}
	return nil
}

// parts says what use does.
func parts(o options) []part {
	path := func(name string) string { return filepath.Join(o.arguments[0], name) }
	with := func(every time.Duration, argument string, goOn bool) options {
		return options{every: every, gap: useGap, progress: useProgress, goOn: goOn, files: browsedFiles, arguments: []string{argument}}
	}
	all := []part{
		// A writer that failed does not know which lines are there.
		{kind: "writer", run: write, options: with(writeEvery, path(o.name+".lines"), false)},
		{kind: "opener", run: openLoop, options: with(openEvery, o.arguments[0], true)},
		{kind: "browser", run: browse, options: with(browseEvery, path(o.name+".tree"), true)},
	}
	for _, lockType := range []string{"fcntl", "flock"} {
		holder := part{kind: "holder-" + lockType, run: lock, options: with(holdEvery, path(lockFile(o.name, lockType)), true), holds: true}
		holder.options.lockType = lockType
		all = append(all, holder)
		for _, rival := range o.rivals {
			thief := part{kind: fmt.Sprintf("thief-%s-%s", lockType, rival), run: steal, options: with(stealEvery, path(lockFile(rival, lockType)), true)}
			thief.options.lockType = lockType
			all = append(all, thief)
		}
	}
	return all
}

func lockFile(name, lockType string) string { return name + ".lock-" + lockType }

// detach starts this program again with arguments[1:], in a session of its own
// and with its output in the file arguments[0], and does not wait for it. Nothing
// then depends on whoever executed this: the connection of an exec, which goes
// through the API server and kubelet, may break.
func detach(arguments []string, say reporter) error {
	if len(arguments) < 2 {
		return errors.New("read the command line: detach takes a file and a subcommand")
	}
	output, err := os.Create(arguments[0])
	if err != nil {
		return fmt.Errorf("make the file for the output: %w", err)
	}
	defer output.Close()
	command := exec.Command("/proc/self/exe", arguments[1:]...)
	command.Args[0] = "workload" // by which it is found among the processes
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start the subcommand: %w", err)
	}
	say("detached", fields{"pid": command.Process.Pid})
	return command.Process.Release()
}
