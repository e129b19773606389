// Command demo shows the main job of linstor-rwx on real parts: it brings a
// laboratory up, installs the chart, and lets pods on two nodes share a volume.
// It prints what a person would look at, with the time of each step.
//
// KEEP=1 leaves the laboratory running.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab"
)

// storyArgument makes the program tell only the story, in the laboratory that
// is up and inside its network.
const storyArgument = "story"

// startVariable hands the start of the timeline on to the process that tells
// the story.
const startVariable = "LINSTOR_RWX_DEMO_START"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == storyArgument {
		err = tell(ctx)
	} else {
		err = run(ctx, os.Getenv("KEEP") == "1")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// tell plays the story.
func tell(ctx context.Context) error {
	out := &timeline{started: time.Now()}
	if start, err := strconv.ParseInt(os.Getenv(startVariable), 10, 64); err == nil {
		out.started = time.UnixMilli(start)
	}
	laboratory, err := lab.Attach()
	if err != nil {
		return err
	}
	story, err := newStory(ctx, laboratory, out)
	if err != nil {
		return err
	}
	return story.play(ctx)
}

// run brings everything up, plays the story, and takes everything down.
func run(ctx context.Context, keep bool) (err error) {
	out := &timeline{started: time.Now()}
	out.step("bring the laboratory up (the first time compiles Kubernetes and its tools: up to half an hour)")
	laboratory, err := lab.Up(ctx, lab.Options{Progress: os.Stdout})
	if err != nil {
		return err
	}
	defer func() {
		if keep {
			fmt.Printf("\nThe laboratory stays up. Look around with\n  bin/lab kubectl get nfsx,pvc,pods -A\n  bin/lab exec n1 drbdsetup status\nand take it down with\n  make lab-down\n")
			return
		}
		out.step("take the laboratory down")
		if downErr := lab.Down(lab.Options{}); err == nil {
			err = downErr
		}
		out.done()
	}()
	out.step("install the chart")
	if err := laboratory.Install(ctx, os.Stdout); err != nil {
		return err
	}
	out.done()
	os.Setenv(startVariable, strconv.FormatInt(out.started.UnixMilli(), 10))
	return laboratory.Run(ctx, os.Stdout, "/proc/self/exe", storyArgument)
}

// timeline prints steps with the time they took.
type timeline struct {
	started time.Time
	begun   time.Time
	current string
}

// step ends the current step and begins the next.
func (l *timeline) step(text string) {
	l.done()
	l.begun, l.current = time.Now(), text
	fmt.Printf("\n[%6.1fs] %s\n", time.Since(l.started).Seconds(), text)
}

// done ends the current step.
func (l *timeline) done() {
	if l.current != "" {
		fmt.Printf("          done in %.1fs\n", time.Since(l.begun).Seconds())
		l.current = ""
	}
}
