// Command workload is what runs in the consumer pods of the laboratory: it uses
// a volume as applications do and says what it saw, one JSON object a line, each
// with "time" and "event". Nothing in it knows about NFS.
//
//	workload serve                                     sleep; for kubectl exec
//	workload write FILE [--every D] [--for D]          append numbered lines, fsync each
//	workload read  FILE [--every D] [--for D]          follow a file that write makes
//	workload check FILE                                is every line there, once, in order?
//	workload lock  FILE [--type T] [--hold D] [--try] [--every D] [--jitter D]  take an exclusive lock, hold it
//	workload steal FILE [--type T] [--every D] [--for D]  try to take a lock that another holds
//	workload open-loop DIR [--every D] [--for D]       create and remove files
//	workload walk  DIR [--files N]                     create, list, stat and read many files
//	workload browse DIR [--files N] [--every D] [--for D]  list and stat the same files, again and again
//	workload df    DIR [--every D] [--for D]           how large the filesystem is, each time that changes
//	workload use   DIR --name N [--rivals N,N]         all of that at once, until told to end
//	workload detach FILE SUBCOMMAND...                 start a subcommand whose output goes to FILE, and leave it
//
// With --progress, subcommands that repeat a step say how far they are. With
// --go-on they report what went wrong and try again, instead of ending.
//
// Exit status: 0 what was promised was seen, 1 it was not (lock denied or lost,
// lock stolen, lines missing), 2 the operating system reported an error.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// options of all subcommands; each uses those that its line above names.
type options struct {
	every    time.Duration
	jitter   time.Duration
	duration time.Duration
	gap      time.Duration
	hold     time.Duration
	lockType string
	try      bool
	files    int
	progress time.Duration
	goOn     bool
	// acknowledged is the last number that a writer was told is stable; -1 if
	// check is not to care.
	acknowledged int
	name         string
	rivals       []string
	arguments    []string
}

// errBroken ends the program with status 1: a promise was not kept. What it was
// has been said.
var errBroken = errors.New("a promise was not kept")

var commands = map[string]struct {
	run       func(ctx context.Context, o options, say reporter) error
	arguments int
}{
	"serve":     {serve, 0},
	"write":     {write, 1},
	"read":      {read, 1},
	"check":     {check, 1},
	"lock":      {lock, 1},
	"steal":     {steal, 1},
	"open-loop": {openLoop, 1},
	"walk":      {walk, 1},
	"browse":    {browse, 1},
	"df":        {space, 1},
	"use":       {use, 1},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	say := newReporter(os.Stdout, time.Now)
	err := run(ctx, os.Args[1:], say)
	switch {
	case err == nil:
	case errors.Is(err, errBroken):
		os.Exit(1)
	default:
		say("error", fields{"error": err.Error(), "errno": errorName(err)})
		os.Exit(2)
	}
}

// run chooses the subcommand and calls it.
func run(ctx context.Context, arguments []string, say reporter) error {
	if len(arguments) > 0 && arguments[0] == "detach" {
		// Before the flags: they are the subcommand's.
		return detach(arguments[1:], say)
	}
	var o options
	flags := pflag.NewFlagSet("workload", pflag.ContinueOnError)
	flags.DurationVar(&o.every, "every", 100*time.Millisecond, "time from one step to the next")
	flags.DurationVar(&o.jitter, "jitter", 0, "up to so much more time to the next step, at random")
	flags.DurationVar(&o.duration, "for", 0, "end after this time; 0 means when told to")
	flags.DurationVar(&o.gap, "gap", 500*time.Millisecond, "report steps that took longer")
	flags.DurationVar(&o.hold, "hold", 0, "how long lock holds; 0 means until told to end")
	flags.StringVar(&o.lockType, "type", "fcntl", "kind of lock: fcntl or flock")
	flags.BoolVar(&o.try, "try", false, "do not wait for the lock")
	flags.IntVar(&o.files, "files", 1000, "number of files that walk or browse makes")
	flags.DurationVar(&o.progress, "progress", 0, "say how far it is at most so often; 0 means never")
	flags.BoolVar(&o.goOn, "go-on", false, "report what went wrong and try again, instead of ending")
	flags.IntVar(&o.acknowledged, "acknowledged", -1, "the last line that a writer knows to be stable, for check")
	flags.StringVar(&o.name, "name", "", "name of this user among several, for use")
	flags.StringSliceVar(&o.rivals, "rivals", nil, "names of the users whose locks to steal")
	if err := flags.Parse(arguments); err != nil {
		return fmt.Errorf("read the command line: %w", err)
	}
	if flags.NArg() == 0 {
		return errors.New("read the command line: no subcommand")
	}
	command, known := commands[flags.Arg(0)]
	if !known {
		return fmt.Errorf("read the command line: no subcommand %q", flags.Arg(0))
	}
	o.arguments = flags.Args()[1:]
	if len(o.arguments) != command.arguments {
		return fmt.Errorf("read the command line: %s takes %d arguments, not %q", flags.Arg(0), command.arguments, strings.Join(o.arguments, " "))
	}
	return command.run(ctx, o, say)
}

// serve sleeps until it is told to end. As process 1 of a container it inherits
// the orphans of what was executed there, and buries them.
func serve(ctx context.Context, _ options, say reporter) error {
	children := make(chan os.Signal, 16)
	signal.Notify(children, syscall.SIGCHLD)
	say("serving", nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-children:
			for {
				var status syscall.WaitStatus
				if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

// steps calls step every o.every, and up to o.jitter later, until ctx ends, o.duration is over, or step
// fails. A step that took long is reported, and the next one follows at once.
func steps(ctx context.Context, o options, say reporter, step func(number int) error) error {
	started := time.Now()
	var longest time.Duration
	var said time.Time
	number := 0
	for ; ctx.Err() == nil && (o.duration == 0 || time.Since(started) < o.duration); number++ {
		before := time.Now()
		err := step(number)
		took := time.Since(before)
		if err != nil && (!o.goOn || errors.Is(err, errBroken)) {
			return err
		}
		longest = max(longest, took)
		if took > o.gap {
			say("gap", fields{"seconds": took.Seconds(), "step": number, "begin": timestamp(before)})
		}
		switch {
		case err != nil:
			say("failed", fields{"error": err.Error(), "errno": errorName(err), "step": number})
		case o.progress > 0 && time.Since(said) >= o.progress:
			said = time.Now()
			say("progress", fields{"steps": number + 1})
		}
		select {
		case <-ctx.Done():
		case <-time.After(o.every - took + jitter(o.jitter)):
		}
	}
	say("done", fields{"steps": number, "longest": longest.Seconds(), "seconds": time.Since(started).Seconds()})
	return nil
}

// jitter is a random time from 0 to most.
func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}
