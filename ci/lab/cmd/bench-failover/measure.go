package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/failover"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// variant is a way to configure the product.
type variant struct {
	name string
	// values are files of ci/lab that are installed on top of its values.yaml.
	values []string
	// parameters of the class.
	parameters map[string]string
	// deaf says that its supervisors have no heartbeat: they hand nothing over.
	deaf bool
}

var (
	product = variant{name: "product"}
	// baseline: the LINSTOR CSI driver's template has ganesha's default lease, 60
	// s, and 60 s of grace. Grace must be twice the lease here. 30 s are the same
	// for what is measured: ganesha looks at its grace every min(10, lease/2) s.
	baseline = variant{
		name:       "baseline",
		values:     []string{"baseline-values.yaml"},
		parameters: map[string]string{names.Prefix + "lease": "30s", names.Prefix + "grace": "60s"},
		deaf:       true,
	}
	// without has what each part of the product brings: the product without it.
	without = map[string]variant{
		"heartbeat":   {name: "without-heartbeat", values: []string{"without/heartbeat.yaml"}, deaf: true},
		"reconnector": {name: "without-reconnector", values: []string{"without/reconnector.yaml"}},
		"silence":     {name: "without-silence", values: []string{"without/silence.yaml"}},
		"source-nat":  {name: "without-source-nat", values: []string{"without/source-nat.yaml"}},
	}
)

// measure plays all scenarios with each variant. Results are written after each
// run, so that whoever interrupts it keeps them. It fails at the end if a run
// with the product as it is failed or broke a promise; the others may do both.
func measure(ctx context.Context, laboratory *lab.Lab, s settings) error {
	report := &report{directory: s.directory}
	if err := report.begin(); err != nil {
		return err
	}
	var failures []error
	for _, v := range s.variants {
		runs := s.runs
		if v.name == baseline.name {
			runs = s.comparisons
		}
		fmt.Printf("\n%s: install the chart\n", v.name)
		if err := laboratory.Install(ctx, io.Discard, v.values...); err != nil {
			return err
		}
		err := v.measure(ctx, laboratory, s.scenarios, runs, report)
		if v.name == product.name || ctx.Err() != nil {
			failures = append(failures, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	failover.PrintTable(os.Stdout, report.summaries)
	return errors.Join(failures...)
}

// measure plays all scenarios on one volume of the variant's own, in rounds: the
// same fault again and again within a minute is another fault, to which the
// supervisor answers otherwise.
func (v variant) measure(ctx context.Context, laboratory *lab.Lab, scenarios []failover.Scenario, runs int, report *report) (err error) {
	namespace := fmt.Sprintf("bench-%s-%d", v.name, os.Getpid())
	cluster, err := scenario.Connect(ctx, namespace)
	if err != nil {
		return err
	}
	class := scenario.Class{Name: namespace, Parameters: map[string]string{names.Driver + "/placementCount": failover.Replicas}}
	for key, value := range v.parameters {
		class.Parameters[key] = value
	}
	if err := cluster.CreateClass(ctx, class); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		err = errors.Join(err, cluster.Clear(ctx), cluster.DeleteClass(ctx, class.Name))
	}()
	say := func(format string, arguments ...any) { fmt.Printf("  %s\n", fmt.Sprintf(format, arguments...)) }
	bench, err := failover.New(ctx, laboratory, cluster, class.Name, say)
	if err != nil {
		return err
	}
	bench.Evidence = report.evidence(v.name)
	var tallies []*tally
	for _, scenario := range scenarios {
		if scenario.HandsOver && v.deaf {
			fmt.Printf("%s: %s: cannot be played, nothing hands over there\n", v.name, scenario.Name)
			continue
		}
		tallies = append(tallies, &tally{scenario: scenario})
	}
	for round := range runs {
		fmt.Printf("\n%s: round %d of %d\n", v.name, round+1, runs)
		for _, tally := range tallies {
			if err := v.play(ctx, bench, tally, report, say); err != nil {
				return err
			}
		}
	}
	var failures []error
	for _, tally := range tallies {
		failures = append(failures, tally.failures...)
	}
	return errors.Join(failures...)
}

// tally is what became of one scenario so far.
type tally struct {
	scenario failover.Scenario
	results  []failover.Result
	// failures are what failed, and the promises that were broken; inRow counts the
	// last runs of which none succeeded.
	failures []error
	inRow    int
	ended    time.Time
}

// patience is how many runs of a scenario may fail in a row: what fails takes
// minutes, and what was refused twice will be refused again.
const patience = 2

// play plays the scenario of a tally once. An error means that nothing more can be
// played.
func (v variant) play(ctx context.Context, bench *failover.Bench, t *tally, report *report, say func(string, ...any)) error {
	if t.inRow == patience {
		return nil
	}
	if t.scenario.Restarts {
		select {
		case <-time.After(time.Until(t.ended.Add(failover.RestartPause))):
		case <-ctx.Done():
		}
	}
	result, err := bench.Run(ctx, t.scenario)
	t.ended = time.Now()
	if ctx.Err() != nil {
		return errors.Join(append(t.failures, err)...)
	}
	if err != nil {
		say("%s failed: %v", t.scenario.Name, err)
		t.failures = append(t.failures, err)
		t.inRow++
		return report.sum(failover.Summarize(t.scenario.Name, v.name, t.results))
	}
	t.inRow = 0
	t.results = append(t.results, result)
	say("%s: %s", t.scenario.Name, describe(result))
	if broken := result.Broken(); len(broken) > 0 {
		t.failures = append(t.failures, fmt.Errorf("scenario %s: %q", t.scenario.Name, broken))
	}
	if err := report.add(v.name, result); err != nil {
		return err
	}
	return report.sum(failover.Summarize(t.scenario.Name, v.name, t.results))
}

func describe(r failover.Result) string {
	text := fmt.Sprintf("%s -> %s, writer %.1f s, opener %.1f s", r.From, r.To, r.WriterStall, r.OpenerStall)
	for _, name := range failover.PartNames {
		if seconds, known := r.Parts[name]; known {
			text += fmt.Sprintf(", %s %.2f", name, seconds)
		}
	}
	text += fmt.Sprintf(", mending %.1f s, starts %d, took %.0f s", r.MendStall, r.Starts, r.Took)
	if broken := r.Broken(); len(broken) > 0 {
		text += fmt.Sprintf(", BROKEN: %q", broken)
	}
	return text
}

// report keeps the results in files: failover.json has what the runs of each
// scenario amount to, failover-runs.jsonl one line for each run.
type report struct {
	directory string
	summaries []failover.Summary
}

func (r *report) begin() error {
	if err := os.MkdirAll(r.directory, 0o755); err != nil {
		return fmt.Errorf("make the folder for the results: %w", err)
	}
	old, err := filepath.Glob(r.evidence("*"))
	if err != nil {
		return fmt.Errorf("find the last results: %w", err)
	}
	for _, path := range append(old, r.runsFile()) {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove the last results: %w", err)
		}
	}
	return nil
}

// evidence is where logs of runs are kept that failed or broke a promise.
func (r *report) evidence(variant string) string {
	return filepath.Join(r.directory, "evidence-"+variant)
}

func (r *report) runsFile() string { return filepath.Join(r.directory, "failover-runs.jsonl") }

// add appends one run.
func (r *report) add(variant string, result failover.Result) error {
	line, err := json.Marshal(struct {
		Variant string `json:"variant"`
		failover.Result
	}{variant, result})
	if err != nil {
		return fmt.Errorf("render a result: %w", err)
	}
	file, err := os.OpenFile(r.runsFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the results: %w", err)
	}
	_, err = file.Write(append(line, '\n'))
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write a result: %w", err)
	}
	return nil
}

// sum puts what the runs of a scenario amount to into failover.json.
func (r *report) sum(summary failover.Summary) error {
	at := slices.IndexFunc(r.summaries, func(s failover.Summary) bool {
		return s.Scenario == summary.Scenario && s.Variant == summary.Variant
	})
	if at < 0 {
		r.summaries = append(r.summaries, summary)
	} else {
		r.summaries[at] = summary
	}
	return failover.WriteSummaries(filepath.Join(r.directory, "failover.json"), r.summaries)
}
