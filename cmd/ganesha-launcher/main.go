// ganesha-launcher is PID 1 of the ganesha container: it starts, stops, lists
// and reaps one ganesha.nfsd per export on the request of the supervisor in the
// container beside it. An init container installs it, so that the image of
// ganesha needs no change.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/ganesha/launcher"
)

const usage = `usage:
  ganesha-launcher install DESTINATION   copy this program
  ganesha-launcher serve [flags]         start ganesha processes on request`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ganesha-launcher:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "install":
		return launcher.Install(args[1])
	case len(args) >= 1 && args[0] == "serve":
		return serve(args[1:])
	default:
		return errors.New(usage)
	}
}

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	options := launcher.Options{Programs: []string{ganesha.Program}, Output: os.Stdout}
	flags.StringVar(&options.Socket, "socket", "/run/linstor-rwx/launcher.sock", "unix socket to listen at")
	flags.DurationVar(&options.DrainTimeout, "drain-timeout", 45*time.Second,
		"how long to go on after SIGTERM while processes run: the supervisor hands over what they serve and stops them")
	flags.DurationVar(&options.StopTimeout, "stop-timeout", 10*time.Second,
		"how long processes that are left then may take to end, before they are killed; with drain-timeout less than the pod's terminationGracePeriodSeconds")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return errors.New(usage)
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read the host name: %w", err)
	}
	if err := launcher.Prepare("/", hostname); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return launcher.Serve(ctx, options)
}
