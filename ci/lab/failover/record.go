package failover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The kinds of work of the workload program's subcommand use. A thief's kind
// ends with the name of the client whose lock it wants.
const (
	writer      = "writer"
	opener      = "opener"
	browser     = "browser"
	fcntlHolder = "holder-fcntl"
	flockHolder = "holder-flock"
	fcntlThief  = "thief-fcntl-"
	flockThief  = "thief-flock-"
)

// event is one line that the workload program wrote.
type event struct {
	Time  time.Time `json:"time"`
	Kind  string    `json:"kind"`
	Event string    `json:"event"`
	// Begin and Seconds belong to a "gap".
	Begin   time.Time `json:"begin"`
	Seconds float64   `json:"seconds"`
	// Steps belongs to "progress", First to "writing", Last to "written", Lost to
	// the verdict of a check.
	Steps int `json:"steps"`
	First int `json:"first"`
	Last  int `json:"last"`
	Lost  int `json:"lost"`
	// HeldUntil belongs to "lost".
	HeldUntil time.Time `json:"heldUntil"`
	Error     string    `json:"error"`
	Errno     string    `json:"errno"`
}

// record is what one client has said so far, in its order.
type record []event

// parseRecord reads the output of a program that may still be writing: an end
// without newline is left for the next time.
func parseRecord(output []byte) (record, error) {
	var all record
	complete := output[:bytes.LastIndexByte(output, '\n')+1]
	for line := range bytes.Lines(complete) {
		var one event
		if err := json.Unmarshal(line, &one); err != nil {
			return nil, fmt.Errorf("read %q of a workload: %w", line, err)
		}
		all = append(all, one)
	}
	return all, nil
}

// has says whether a kind of work said something.
func (r record) has(kind, name string) bool { return r.count(kind, name) > 0 }

func (r record) count(kind, name string) int {
	found := 0
	for _, e := range r {
		if e.Kind == kind && e.Event == name {
			found++
		}
	}
	return found
}

// progressed is when a kind of work was last known to have done a step.
func (r record) progressed(kind string) time.Time {
	for _, e := range slices.Backward(r) {
		if e.Kind == kind && e.Event == "progress" {
			return e.Time
		}
	}
	return time.Time{}
}

// over says whether a kind of work has ended although nobody told it to.
func (r record) over(kind string) bool {
	return r.has(kind, "error") || r.has(kind, "lost")
}

// failure is why the program ended without having been told to, before it began
// to work; empty if it did not.
func (r record) failure() string {
	for _, e := range r {
		if e.Kind == "" && e.Event == "error" {
			return e.Error
		}
	}
	return ""
}

// longest returns the step of a kind of work that took longest, of those that
// ended after from and began before until; nil if none took long.
func (r record) longest(kind string, from, until time.Time) *event {
	var longest *event
	for at, e := range r {
		if e.Kind == kind && e.Event == "gap" && e.Time.After(from) && e.Begin.Before(until) && (longest == nil || e.Seconds > longest.Seconds) {
			longest = &r[at]
		}
	}
	return longest
}

// stall returns how long that step took. Work that ended by itself since from
// stalls until the end.
func (r record) stall(kind string, from, until time.Time) time.Duration {
	var took time.Duration
	if longest := r.longest(kind, from, until); longest != nil {
		took = time.Duration(longest.Seconds * float64(time.Second))
	}
	if !r.over(kind) {
		return took
	}
	return max(took, until.Sub(later(from, r.progressed(kind))))
}

// acknowledged is the number of the last line that the writer knows to be
// stable, -1 if there is none.
func (r record) acknowledged() int {
	first, last := 0, -1
	for _, e := range r {
		if e.Kind != writer {
			continue
		}
		switch e.Event {
		case "writing":
			first, last = e.First, e.First-1
		case "progress":
			last = first + e.Steps - 1
		case "written":
			last = e.Last
		}
	}
	return last
}

// lostLocks returns the kinds of locks that the server did not give back.
func (r record) lostLocks() []string {
	return r.kinds("lost", func(string) bool { return true })
}

// stolenLocks returns the thieves that got a lock.
func (r record) stolenLocks() []string {
	return r.kinds("stolen", func(kind string) bool { return strings.HasPrefix(kind, "thief-") })
}

func (r record) kinds(name string, wanted func(kind string) bool) []string {
	var found []string
	for _, e := range r {
		if e.Event == name && wanted(e.Kind) && !slices.Contains(found, e.Kind) {
			found = append(found, e.Kind)
		}
	}
	return found
}

// errors returns what the operating system refused, apart from stale handles,
// which are counted.
func (r record) errors() (stale int, others []string) {
	for _, e := range r {
		if e.Event != "failed" && e.Event != "error" {
			continue
		}
		if e.Errno == "ESTALE" {
			stale++
			continue
		}
		if text := e.Kind + ": " + e.Error; !slices.Contains(others, text) {
			others = append(others, text)
		}
	}
	return stale, others
}

// work lists the kinds of work that a client with these rivals does.
func work(rivals []string) []string {
	kinds := []string{writer, opener, browser, fcntlHolder, flockHolder}
	for _, rival := range rivals {
		kinds = append(kinds, fcntlThief+rival, flockThief+rival)
	}
	return kinds
}

// idle returns the kinds of work that have not progressed since a time, and are
// not over.
func (r record) idle(kinds []string, since time.Time) []string {
	var found []string
	for _, kind := range kinds {
		if !r.over(kind) && r.progressed(kind).Before(since) {
			found = append(found, kind)
		}
	}
	return found
}
