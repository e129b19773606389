// Command bench-failover measures what clients notice when a served volume is
// broken: it brings a laboratory up, plays every scenario of package failover
// several times, with the product as it is and with the settings of the LINSTOR
// CSI driver's own NFS template, prints a table and writes failover.json.
//
// Environment: SCENARIO narrows the scenarios (names, separated by commas), RUNS
// is how often each is played (10), BASELINE how often for comparison (as RUNS; 0:
// not at all), WITHOUT names parts of the product (separated by commas), without
// each of which they are played in place of the whole; KEEP=1 leaves the laboratory
// running.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
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
	// runs is how often each is played with the product as it is, comparisons how
	// often with the settings of the baseline.
	runs, comparisons int
	variants          []variant
	directory         string
}

func settingsFromEnvironment() (settings, error) {
	s := settings{}
	var err error
	if s.scenarios, err = failover.Find(namesFromEnvironment("SCENARIO")...); err != nil {
		return s, fmt.Errorf("read SCENARIO: %w", err)
	}
	if s.runs, err = countFromEnvironment("RUNS", 10); err != nil {
		return s, err
	}
	if s.comparisons, err = countFromEnvironment("BASELINE", s.runs); err != nil {
		return s, err
	}
	for _, name := range namesFromEnvironment("WITHOUT") {
		v, known := without[name]
		if !known {
			return s, fmt.Errorf("read WITHOUT: %q is none of %v", name, slices.Sorted(maps.Keys(without)))
		}
		s.variants = append(s.variants, v)
	}
	if s.runs > 0 && len(s.variants) == 0 {
		s.variants = append(s.variants, product)
	}
	if s.comparisons > 0 {
		s.variants = append(s.variants, baseline)
	}
	if len(s.variants) == 0 {
		return s, errors.New("read RUNS and BASELINE: nothing is to be played")
	}
	return s, nil
}

func namesFromEnvironment(name string) []string {
	return strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' || r == ' ' })
}

func countFromEnvironment(name string, otherwise int) (int, error) {
	text := os.Getenv(name)
	if text == "" {
		return otherwise, nil
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 {
		return 0, fmt.Errorf("read %s: %q is no number of runs", name, text)
	}
	return count, nil
}
