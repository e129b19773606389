package failover

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/linbit/linstor-rwx/ci/lab/bench"
)

// Result is what one run of a scenario showed. Times are in seconds.
type Result struct {
	Scenario string `json:"scenario"`
	// WriterStall is the longest time that a write to an open file took, on any
	// client that was to survive; OpenerStall the same of creating a file.
	WriterStall float64 `json:"writerStallSeconds"`
	OpenerStall float64 `json:"openerStallSeconds"`
	// MendStall is the same as WriterStall for the time in which the fault was
	// mended: a node booted, a network came back.
	MendStall float64 `json:"mendStallSeconds"`
	// Parts are the durations of what made the stall, as far as they are known:
	// see PartNames.
	Parts map[string]float64 `json:"parts"`
	// LocksLost counts the locks that a living client had and did not get back;
	// LocksStolen those that another client got meanwhile.
	LocksLost   int `json:"locksLost"`
	LocksStolen int `json:"locksStolen"`
	// AcknowledgedWritesLost counts lines that were on stable storage and are not
	// in the file any more.
	AcknowledgedWritesLost int `json:"acknowledgedWritesLost"`
	// StaleHandles counts ESTALE.
	StaleHandles int `json:"staleHandles"`
	// DoublePrimaries counts what DRBD would have called a split brain.
	DoublePrimaries int `json:"doublePrimaries"`
	// From and To are the serving nodes before and after; Starts counts the servers
	// that were started meanwhile, on any node.
	From   string `json:"from"`
	To     string `json:"to"`
	Starts int    `json:"starts"`
	// Problems are other things that must not happen, in words.
	Problems []string `json:"problems,omitempty"`
	// Took is how long the run took with all that it waited for.
	Took float64 `json:"tookSeconds"`
}

// Broken lists the promises that were not kept, in words.
func (r Result) Broken() []string {
	var broken []string
	for _, count := range []struct {
		what  string
		found int
	}{
		{"locks lost", r.LocksLost}, {"locks stolen", r.LocksStolen}, {"acknowledged writes lost", r.AcknowledgedWritesLost},
		{"stale handles", r.StaleHandles}, {"double Primaries", r.DoublePrimaries},
	} {
		if count.found > 0 {
			broken = append(broken, fmt.Sprintf("%d %s", count.found, count.what))
		}
	}
	return append(broken, r.Problems...)
}

// Parts is how long each part of a stall took, the median of the runs in which
// it was known; null in none.
type Parts struct {
	Detect    *float64 `json:"detect"`
	Promote   *float64 `json:"promote"`
	Mount     *float64 `json:"mount"`
	Start     *float64 `json:"start"`
	Probe     *float64 `json:"probe"`
	Endpoint  *float64 `json:"endpoint"`
	Reconnect *float64 `json:"reconnect"`
	Grace     *float64 `json:"grace"`
}

// The parts of a stall, in their order: from the fault until a node knows;
// DRBD's promotion; checks and mounts; start of ganesha; until it answers; until
// the Service leads to it; until the first client writes again; until new opens
// are granted.
const (
	Detect    = "detect"
	Promote   = "promote"
	Mount     = "mount"
	Start     = "start"
	Probe     = "probe"
	Endpoint  = "endpoint"
	Reconnect = "reconnect"
	Grace     = "grace"
)

// PartNames lists the parts in their order.
var PartNames = []string{Detect, Promote, Mount, Start, Probe, Endpoint, Reconnect, Grace}

// field returns where the part of that name is kept.
func (p *Parts) field(name string) **float64 {
	return map[string]**float64{
		Detect: &p.Detect, Promote: &p.Promote, Mount: &p.Mount, Start: &p.Start,
		Probe: &p.Probe, Endpoint: &p.Endpoint, Reconnect: &p.Reconnect, Grace: &p.Grace,
	}[name]
}

// Summary is what all runs of a scenario showed: counts are sums.
type Summary struct {
	Scenario               string            `json:"scenario"`
	Variant                string            `json:"variant"`
	Runs                   int               `json:"runs"`
	WriterStallSeconds     bench.Percentiles `json:"writerStallSeconds"`
	OpenerStallSeconds     bench.Percentiles `json:"openerStallSeconds"`
	Parts                  Parts             `json:"parts"`
	LocksLost              int               `json:"locksLost"`
	LocksStolen            int               `json:"locksStolen"`
	AcknowledgedWritesLost int               `json:"acknowledgedWritesLost"`
	StaleHandles           int               `json:"staleHandles"`
	DoublePrimaries        int               `json:"doublePrimaries"`
}

// Summarize sums the results of a scenario's runs up.
func Summarize(scenario, variant string, results []Result) Summary {
	s := Summary{Scenario: scenario, Variant: variant, Runs: len(results)}
	var writers, openers []float64
	parts := map[string][]float64{}
	for _, r := range results {
		writers, openers = append(writers, r.WriterStall), append(openers, r.OpenerStall)
		for name, seconds := range r.Parts {
			parts[name] = append(parts[name], seconds)
		}
		s.LocksLost += r.LocksLost
		s.LocksStolen += r.LocksStolen
		s.AcknowledgedWritesLost += r.AcknowledgedWritesLost
		s.StaleHandles += r.StaleHandles
		s.DoublePrimaries += r.DoublePrimaries
	}
	s.WriterStallSeconds, s.OpenerStallSeconds = bench.PercentilesOf(writers), bench.PercentilesOf(openers)
	for _, name := range PartNames {
		if values := parts[name]; len(values) > 0 {
			median := bench.Round(bench.Percentile(values, 50))
			*s.Parts.field(name) = &median
		}
	}
	return s
}

// WriteSummaries replaces a file of summaries at once, see bench.WriteJSON.
func WriteSummaries(path string, summaries []Summary) error { return bench.WriteJSON(path, summaries) }

// PrintTable writes the summaries for people.
func PrintTable(out io.Writer, summaries []Summary) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "scenario\tvariant\truns\twriter p50\tp95\tmax\topener p50\tp95\tmax\tlocks lost\tstolen\twrites lost\tstale\tPrimaries\t")
	for _, s := range summaries {
		if s.Runs == 0 {
			fmt.Fprintf(table, "%s\t%s\t0\t%s\n", s.Scenario, s.Variant, strings.Repeat("-\t", 11))
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%d\t%d\t%d\t%d\t\n", s.Scenario, s.Variant, s.Runs,
			s.WriterStallSeconds.P50, s.WriterStallSeconds.P95, s.WriterStallSeconds.Max,
			s.OpenerStallSeconds.P50, s.OpenerStallSeconds.P95, s.OpenerStallSeconds.Max,
			s.LocksLost, s.LocksStolen, s.AcknowledgedWritesLost, s.StaleHandles, s.DoublePrimaries)
	}
	_ = table.Flush()
	fmt.Fprintln(out, "\nParts of the stall, medians in seconds:")
	fmt.Fprintln(table, "scenario\tvariant\t"+strings.Join(PartNames, "\t")+"\t")
	for _, s := range summaries {
		fmt.Fprintf(table, "%s\t%s\t", s.Scenario, s.Variant)
		for _, name := range PartNames {
			if value := *s.Parts.field(name); value != nil {
				fmt.Fprintf(table, "%.2f", *value)
			} else {
				fmt.Fprint(table, "-")
			}
			fmt.Fprint(table, "\t")
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush()
}
