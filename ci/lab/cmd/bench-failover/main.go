// Command bench-failover measures what clients notice when a served volume is
// broken: it brings a laboratory up, plays every scenario of package failover
// several times, with the product as it is and with the settings of the LINSTOR
// CSI driver's own NFS template, prints a table and writes failover.json.
//
// Environment: SCENARIO narrows the scenarios (names, separated by commas), RUNS
// is how often each is played (10), BASELINE=0 leaves the comparison out, KEEP=1
// leaves the laboratory running.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/failover"
)

// measureArgument makes the program only measure, in the laboratory that is up
// and inside its network.
const measureArgument = "measure"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench-failover: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	settings, err := settingsFromEnvironment()
	if err != nil {
		return err
	}
	if len(arguments) == 2 && arguments[0] == measureArgument {
		settings.directory = arguments[1]
		laboratory, err := lab.Attach()
		if err != nil {
			return err
		}
		return measure(ctx, laboratory, settings)
	}
	if len(arguments) != 1 {
		return errors.New("say in which folder the results shall be: bench-failover [measure] FOLDER")
	}
	return bench(ctx, arguments[0], os.Getenv("KEEP") == "1")
}

// bench brings everything up, measures, and takes everything down.
func bench(ctx context.Context, directory string, keep bool) (err error) {
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
	return laboratory.Run(ctx, os.Stdout, "/proc/self/exe", measureArgument, directory)
}

// settings say what to measure.
type settings struct {
	scenarios []failover.Scenario
	runs      int
	baseline  bool
	directory string
}

func settingsFromEnvironment() (settings, error) {
	s := settings{runs: 10, baseline: os.Getenv("BASELINE") != "0"}
	var err error
	if s.scenarios, err = failover.Find(strings.FieldsFunc(os.Getenv("SCENARIO"), func(r rune) bool { return r == ',' || r == ' ' })...); err != nil {
		return s, fmt.Errorf("read SCENARIO: %w", err)
	}
	if text := os.Getenv("RUNS"); text != "" {
		if s.runs, err = strconv.Atoi(text); err != nil || s.runs < 1 {
			return s, fmt.Errorf("read RUNS: %q is no number of runs", text)
		}
	}
	return s, nil
}
