package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/bench"
)

// Result is what resize.json holds.
type Result struct {
	Runs int `json:"runs"`
	// Seconds from the patch of the claim to its new status.capacity.
	Seconds bench.Percentiles `json:"seconds"`
	// Lies counts the clients for whom a claim was ahead of df: df still showed less
	// when it was asked after the claim's capacity had changed.
	Lies int `json:"lies"`
	// IOErrors counts what the clients were refused, or what they wrote and is not
	// there.
	IOErrors int `json:"ioErrors"`
	// WriterStallSecondsMax is the longest time that one write with fsync took, on any
	// client.
	WriterStallSecondsMax float64 `json:"writerStallSecondsMax"`
}

// growth is one growth of a claim, from one capacity to another.
type growth struct {
	asked, shown time.Time
	from, to     int64
}

// saw is one line that the workload program wrote.
type saw struct {
	Event string `json:"event"`
	// Bytes, Asked and Before belong to "size".
	Bytes  int64     `json:"bytes"`
	Asked  time.Time `json:"asked"`
	Before time.Time `json:"before"`
	// Longest and Steps belong to "done".
	Longest float64 `json:"longest"`
	Steps   int     `json:"steps"`
	Error   string  `json:"error"`
}

// parse reads the output of a program that has ended.
func parse(output []byte) ([]saw, error) {
	var all []saw
	for line := range bytes.Lines(output) {
		var one saw
		if err := json.Unmarshal(line, &one); err != nil {
			return nil, fmt.Errorf("read %q of a workload: %w", line, err)
		}
		all = append(all, one)
	}
	return all, nil
}

// lies returns the growths of which the client learned after the claim showed them,
// in words. until ends the last one. What a claim promises a client is what df shows
// in the end: a filesystem may need several steps, and never shows all of its device.
func lies(growths []growth, sizes []saw, until time.Time) []string {
	var found []string
	for i, g := range growths {
		end := until
		if i+1 < len(growths) {
			end = growths[i+1].asked
		}
		start, final := sizeAt(sizes, g.asked), sizeAt(sizes, end)
		switch {
		case final.Bytes-start.Bytes < (g.to-g.from)/2:
			found = append(found, fmt.Sprintf("growth %d: df went from %d to %d when the claim went from %d to %d", i+1, start.Bytes, final.Bytes, g.from, g.to))
		case final.Before.After(g.shown):
			found = append(found, fmt.Sprintf("growth %d: df was still behind %s after the claim had changed", i+1, final.Before.Sub(g.shown)))
		}
	}
	return found
}

// sizeAt is the last size that was asked for before a time.
func sizeAt(sizes []saw, when time.Time) saw {
	var last saw
	for _, s := range sizes {
		if s.Event == "size" && s.Asked.Before(when) {
			last = s
		}
	}
	return last
}

// refused lists what the operating system refused.
func refused(output []saw) []string {
	var found []string
	for _, s := range output {
		if s.Event == "error" || s.Event == "failed" {
			found = append(found, s.Error)
		}
	}
	return found
}

// longest is the longest step of work that has ended, and how many there were; false
// if it has not. Work that ended by an error says neither.
func longest(output []saw) (seconds float64, steps int, ended bool) {
	for _, s := range output {
		if s.Event == "done" || s.Event == "error" {
			return s.Longest, s.Steps, true
		}
	}
	return 0, 0, false
}

// seconds are the durations of growths.
func seconds(growths []growth) []float64 {
	var values []float64
	for _, g := range growths {
		values = append(values, g.shown.Sub(g.asked).Seconds())
	}
	return values
}
