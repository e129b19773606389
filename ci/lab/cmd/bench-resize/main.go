// Command bench-resize measures how long a claim takes to grow under load, and
// whether it ever shows a size that its clients do not have yet: it brings a
// laboratory up, grows claims with ext4 and xfs again and again while clients on two
// nodes write, prints what it saw and writes resize.json.
//
// Environment: RUNS is how many growths there are, on all filesystems together (50),
// KEEP=1 leaves the laboratory running.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/linbit/linstor-rwx/ci/lab"
)

// measureArgument makes the program only measure, in the laboratory that is up
// and inside its network.
const measureArgument = "measure"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench-resize: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	runs, err := runsFromEnvironment()
	if err != nil {
		return err
	}
	if len(arguments) == 2 && arguments[0] == measureArgument {
		laboratory, err := lab.Attach()
		if err != nil {
			return err
		}
		return measure(ctx, laboratory, runs, arguments[1])
	}
	if len(arguments) != 1 {
		return errors.New("say in which folder the results shall be: bench-resize [measure] FOLDER")
	}
	return bringUp(ctx, arguments[0], os.Getenv("KEEP") == "1")
}

func runsFromEnvironment() (int, error) {
	text := os.Getenv("RUNS")
	if text == "" {
		return 50, nil
	}
	runs, err := strconv.Atoi(text)
	if err != nil || runs < 1 {
		return 0, fmt.Errorf("read RUNS: %q is no number of runs", text)
	}
	return runs, nil
}

// bringUp brings everything up, measures, and takes everything down.
func bringUp(ctx context.Context, directory string, keep bool) (err error) {
	laboratory, err := lab.Up(ctx, lab.Options{Progress: os.Stdout})
	if err != nil {
		return err
	}
	defer func() {
		if keep {
			return
		}
		err = errors.Join(err, lab.Down(lab.Options{}))
	}()
	if err := laboratory.Install(ctx, os.Stdout); err != nil {
		return err
	}
	return laboratory.Run(ctx, os.Stdout, "/proc/self/exe", measureArgument, directory)
}
