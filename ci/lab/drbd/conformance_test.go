package drbd

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The conformance tests replay situations that were recorded on the real DRBD
// (testdata, trimmed) and compare what drbdsetup printed and returned: texts
// byte by byte but for what differs by nature (devices, addresses, secrets,
// process ids, times, counters), JSON by structure and values, durations
// loosely. Every recorded command must be replayed, in order.
//
// Not modelled, and therefore not replayed: creation of meta data, StandAlone
// and split brain (a violation instead), the errors of open(2) on a Secondary
// (its requests fail instead), down, resource-options and
// peer-device-options, verification, --show-defaults, activity log and bitmap
// counters, traffic counters, dbdt1 and eta, the transient states Attaching
// and Detaching, an outdated mark kept for an absent peer.

// recorded is one command of a transcript.
type recorded struct {
	node, command  string
	stdout, stderr string
	exit           int
	duration       time.Duration
}

var recordedPattern = regexp.MustCompile(`(?s)### \S+ (n\d)\$ drbdsetup ?([^\n]*)\n--- stdout\n(.*?)--- stderr\n(.*?)--- exit (\d+), duration ([\d.]+) s`)

func readTranscript(t *testing.T, name string) []recorded {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	var list []recorded
	for _, m := range recordedPattern.FindAllStringSubmatch(string(content), -1) {
		exit, err := strconv.Atoi(m[5])
		if err != nil {
			t.Fatal(err)
		}
		duration, err := time.ParseDuration(m[6] + "s")
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, recorded{m[1], m[2], m[3], m[4], exit, duration})
	}
	if len(list) == 0 || len(list) != strings.Count(string(content), "\n### ") {
		t.Fatalf("transcript %s is not understood: %d commands", name, len(list))
	}
	return list
}

// replay is a transcript being replayed.
type replay struct {
	*lab
	left []recorded
}

// step runs the next recorded command, which must be this one.
func (r *replay) step(node, command string) {
	r.t.Helper()
	if len(r.left) == 0 {
		r.t.Fatalf("%s$ drbdsetup %s: transcript has ended", node, command)
	}
	want := r.left[0]
	r.left = r.left[1:]
	if want.node != node || want.command != command {
		r.t.Fatalf("%s$ drbdsetup %s: transcript has %s$ drbdsetup %s", node, command, want.node, want.command)
	}
	var out, diag bytes.Buffer
	start := time.Now()
	code := r.Run(r.t.Context(), node, strings.Fields(command), &out, &diag)
	took := time.Since(start)
	title := node + "$ drbdsetup " + command
	if code != want.exit {
		r.t.Errorf("%s: exit code %d, real one %d", title, code, want.exit)
	}
	if got, real := normal(diag.String()), normal(want.stderr); got != real {
		r.t.Errorf("%s: stderr\n%sreal one\n%s", title, got, real)
	}
	// The recorded times include the program's start.
	if slack := 300 * time.Millisecond; took > want.duration+slack || took < want.duration-slack {
		r.t.Errorf("%s: took %v, real one %v", title, took, want.duration)
	}
	if strings.HasPrefix(strings.TrimSpace(want.stdout), "[\n{") || strings.HasPrefix(strings.TrimSpace(want.stdout), "[\n {") {
		r.compareJSON(title, out.String(), want.stdout)
		return
	}
	if got, real := normal(out.String()), normal(want.stdout); got != real {
		r.t.Errorf("%s: stdout\n%sreal one\n%s", title, got, real)
	}
}

var normalizations = []struct{ pattern, replacement string }{
	{`/dev/(loop\d+|lab/\S+_\d{5})`, "BACKING"},
	{`s3cr3t|laboratory`, "SECRET"},
	{`(10\.99\.0\.\d+):7\d00`, "$1:PORT"},
	{`\(pid \d+\) at \d{4}-\S+ \d\d:\d\d:\d\d\.\d+`, "(pid N) at TIME"},
	{`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00 `, "TIME "},
	{`\b(read|written|al-writes|bm-writes|upper-pending|lower-pending|received|sent|out-of-sync|pending|unacked|ap-in-flight):\d+`, "$1:N"},
}

func normal(text string) string {
	for _, n := range normalizations {
		text = regexp.MustCompile(n.pattern).ReplaceAllString(text, n.replacement)
	}
	return text
}

// counters are fields whose values are not compared.
var counters = map[string]bool{
	"read": true, "written": true, "al-writes": true, "bm-writes": true, "upper-pending": true, "lower-pending": true,
	"ap-in-flight": true, "rs-in-flight": true, "received": true, "sent": true, "out-of-sync": true, "pending": true,
	"unacked": true, "has-sync-details": true, "has-online-verify-details": true, "percent-in-sync": true,
}

// compareJSON compares values; of a transcript that was not trimmed also the
// presence of the counters and, counters aside, every byte.
func (r *replay) compareJSON(title, got, want string) {
	r.t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		r.t.Errorf("%s: %v in\n%s", title, err, got)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		r.t.Fatalf("%s: transcript: %v", title, err)
	}
	if strings.Contains(want, `"percent-in-sync"`) {
		zero := regexp.MustCompile(`("(?:read|written|al-writes|bm-writes|received|sent|out-of-sync)"): \d+`)
		if a, b := zero.ReplaceAllString(got, "$1: N"), zero.ReplaceAllString(want, "$1: N"); a != b {
			r.t.Errorf("%s: JSON\n%s\nreal one\n%s", title, a, b)
		}
	}
	if a, b := withoutCounters(g), withoutCounters(w); !reflect.DeepEqual(a, b) {
		x, _ := json.MarshalIndent(a, "", " ")
		y, _ := json.MarshalIndent(b, "", " ")
		r.t.Errorf("%s: JSON differs:\n%s", title, lineDifferences(string(x), string(y)))
	}
}

func lineDifferences(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	var lines []string
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			lines = append(lines, "line "+strconv.Itoa(i+1)+": "+strings.TrimSpace(x)+"   real one: "+strings.TrimSpace(y))
		}
	}
	return strings.Join(lines, "\n")
}

func withoutCounters(value any) any {
	switch value := value.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, v := range value {
			if !counters[key] {
				kept[key] = withoutCounters(v)
			}
		}
		return kept
	case []any:
		list := make([]any, len(value))
		for i, v := range value {
			list[i] = withoutCounters(v)
		}
		return list
	default:
		return value
	}
}

// conform runs a scenario against a transcript in synthetic time.
func conform(t *testing.T, transcript string, options ResourceOptions, scenario func(*replay)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		options.AutoPromote = true // as in the recorded resource
		r := &replay{lab: newLab(t, options), left: readTranscript(t, transcript)}
		defer r.Close()
		scenario(r)
		if len(r.left) > 0 {
			t.Errorf("%d recorded commands were not replayed, next: %s$ drbdsetup %s", len(r.left), r.left[0].node, r.left[0].command)
		}
		for _, violation := range r.Violations() {
			t.Errorf("violation: %s", violation)
		}
	})
}

const (
	statusJSONCommand = "status --json pvc-a"
	primaryCommand    = "primary pvc-a"
	secondaryCommand  = "secondary pvc-a"
	forceCommand      = "secondary --force pvc-a"
	eventsCommand     = "events2 --now --statistics pvc-a"
)

func (r *replay) steps(command string, nodes ...string) {
	r.t.Helper()
	for _, node := range nodes {
		r.step(node, command)
	}
}

func TestUnknownResourcesAndBadUsageAnswerAsTheRealOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := New(Options{})
		defer cluster.Close()
		cluster.AddNode("n0")
		r := &replay{lab: &lab{Cluster: cluster, t: t}, left: readTranscript(t, "unknown")}
		for len(r.left) > 0 {
			r.step(r.left[0].node, r.left[0].command)
		}
	})
}

func TestHealthyResourceIsShownAsTheRealOne(t *testing.T) {
	conform(t, "initial", majority, func(r *replay) {
		for len(r.left) > 0 {
			r.step(r.left[0].node, r.left[0].command)
		}
	})
}

func TestRolesChangeAsTheRealOnes(t *testing.T) {
	conform(t, "roles", majority, func(r *replay) {
		r.step("n0", primaryCommand)
		r.steps(statusJSONCommand, "n0", "n1", "n2")
		r.step("n0", "status --verbose --statistics pvc-a")
		r.step("n0", primaryCommand)
		r.steps(primaryCommand, "n1", "n2")
		r.step("n1", "primary --force pvc-a")
		r.step("n0", secondaryCommand)
		r.steps(statusJSONCommand, "n0", "n1")
		r.step("n0", secondaryCommand)

		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.driver.open("n0", 1000, "mount")
		r.steps(statusJSONCommand, "n0", "n1")
		r.step("n0", secondaryCommand) // refused
		r.driver.open("n0", 1000, "")
		r.step("n0", statusJSONCommand)
		r.step("n0", "role pvc-a")
		r.step("n0", secondaryCommand)
		r.step("n0", statusJSONCommand)

		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.driver.open("n0", 1000, "mount")
		r.step("n0", forceCommand)
		r.steps(statusJSONCommand, "n0", "n1")
		r.step("n0", eventsCommand)
		r.step("n0", primaryCommand) // refused
		r.step("n1", primaryCommand)
		r.step("n1", secondaryCommand)
		r.driver.open("n0", 1000, "")
		r.wait(2 * closePoll)
		r.step("n0", statusJSONCommand)
	})
}

func TestOpeningPromotesAndTheLastCloseDemotesAsInTheRealOne(t *testing.T) {
	conform(t, "auto-promote", majority, func(r *replay) {
		opens := func(node string, minor int) {
			r.t.Helper()
			r.driver.open(node, minor, "mount")
			r.wantIO(node, false, "ok")
			r.wantIO(node, true, "ok")
		}
		closes := func(node string, minor int) {
			r.driver.open(node, minor, "")
			r.wait(2 * autoPoll)
		}
		opens("n0", 1000)
		r.steps(statusJSONCommand, "n0", "n1", "n2")
		r.step("n0", eventsCommand)
		r.driver.open("n1", 1000, "mount")
		start := time.Now()
		if err := <-r.startIO("n1", 0, false); err == nil {
			r.t.Error("a second node reads")
		}
		if took := time.Since(start); took < 2*time.Second || took > 2200*time.Millisecond {
			r.t.Errorf("mount was refused after %v, real one 2.09 s", took)
		}
		r.wantIO("n1", false, "EIO") // mount(2) reads more than once
		r.driver.open("n1", 1000, "")
		r.step("n1", primaryCommand) // refused
		r.driver.open("n0", 1001, "mount")
		r.step("n0", statusJSONCommand)
		closes("n0", 1000)
		r.step("n0", "role pvc-a")
		r.step("n0", statusJSONCommand)
		closes("n0", 1001)
		r.step("n0", "role pvc-a")
		r.step("n0", statusJSONCommand)

		opens("n0", 1000)
		r.step("n0", secondaryCommand) // refused
		r.step("n0", primaryCommand)
		closes("n0", 1000)
		r.step("n0", "role pvc-a")
		r.step("n0", statusJSONCommand)
		r.step("n0", secondaryCommand)

		r.driver.openReading("n1", 1000, "sleep")
		r.wantIO("n1", false, "ok")
		r.step("n1", "role pvc-a")
		r.step("n1", statusJSONCommand)
		r.step("n0", primaryCommand) // refused
		r.driver.open("n1", 1000, "")

		opens("n2", 1000)
		r.steps(statusJSONCommand, "n0", "n1", "n2")
		closes("n2", 1000)
		r.step("n2", "role pvc-a")
		opens("n0", 1000)
		r.step("n0", "role pvc-a")
		closes("n0", 1000) // killed
		r.step("n0", "role pvc-a")
	})
}

func TestReaderOnThePeerIsRefusedAsByTheRealOne(t *testing.T) {
	conform(t, "reader", majority, func(r *replay) {
		r.driver.open("n1", 1000, "sleep")
		r.step("n0", primaryCommand)
	})
}

func TestIdlePowerOffIsNoticedAsByTheRealOne(t *testing.T) {
	conform(t, "poweroff-idle", majority, func(r *replay) {
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.steps(statusJSONCommand, "n1", "n2")
		cut := time.Now()
		r.PowerOff("n0")
		r.delayDetection("n2", "n0") // n1 was first when it was recorded
		r.waitFor("n1", func(s State) bool { return s.Connections[0].State == stateConnecting })
		if took := time.Since(cut); took < 8*time.Second || took > 11*time.Second {
			r.t.Errorf("loss noticed after %v", took)
		}
		r.steps(statusJSONCommand, "n1", "n2")
		r.waitFor("n2", func(s State) bool { return s.Connections[0].State == stateConnecting })
		r.step("n2", statusJSONCommand)
		r.step("n1", primaryCommand)
		r.steps(statusJSONCommand, "n1", "n2")
	})
}

func TestPromotionAfterPowerOffTakesOneCallAsWithTheRealOne(t *testing.T) {
	conform(t, "poweroff-primary", majority, func(r *replay) {
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.PowerOff("n0")
		r.step("n1", primaryCommand)
	})
}

func TestCutOffPrimaryFailsItsIOAsTheRealOne(t *testing.T) {
	conform(t, "cut-io-error", majority, func(r *replay) {
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.driver.open("n0", 1000, "mount")
		cut := time.Now()
		r.Partition([]string{"n1", "n2"})
		r.waitFor("n0", func(s State) bool { return !s.Volumes[0].Quorum })
		if took := time.Since(cut); took < 8*time.Second || took > 11*time.Second {
			r.t.Errorf("quorum lost after %v", took)
		}
		r.wait(time.Second)
		r.step("n0", statusJSONCommand)
		r.step("n0", eventsCommand)
		r.step("n1", statusJSONCommand)
		r.step("n1", primaryCommand)
		r.step("n1", statusJSONCommand)
		r.step("n0", primaryCommand) // succeeds, and means nothing
		r.step("n0", secondaryCommand)
		r.step("n0", forceCommand)
		r.step("n0", statusJSONCommand)
		r.driver.open("n0", 1000, "")
		r.wait(2 * closePoll)
		r.step("n0", statusJSONCommand)
		r.step("n0", eventsCommand)
		r.step("n0", primaryCommand)
	})
}

func TestCutOffPrimarySuspendsItsIOAsTheRealOne(t *testing.T) {
	conform(t, "cut-suspend-io", majoritySuspend, func(r *replay) {
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.driver.open("n0", 1001, "dd")
		r.step("n0", statusJSONCommand)
		r.Partition([]string{"n1", "n2"})
		r.waitFor("n0", func(s State) bool { return !s.Volumes[0].Quorum })
		r.wait(time.Second)
		r.step("n0", statusJSONCommand)
		r.step("n0", eventsCommand)
		r.steps(statusJSONCommand, "n1", "n2")
		r.step("n1", primaryCommand)
		r.steps(statusJSONCommand, "n1", "n2")
		r.step("n0", primaryCommand)
		r.step("n0", secondaryCommand)
		r.step("n0", forceCommand)
		r.step("n0", statusJSONCommand)
		r.driver.open("n0", 1001, "")
		r.wait(2 * closePoll)
		r.step("n0", statusJSONCommand)
		r.step("n0", eventsCommand)
		r.step("n0", primaryCommand)
	})
}

func TestShortCutHealsAsTheRealOne(t *testing.T) {
	conform(t, "cut-suspend-short", majoritySuspend, func(r *replay) {
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.Partition([]string{"n1", "n2"})
		r.waitFor("n0", func(s State) bool { return s.SuspendedQuorum })
		r.wait(time.Second) // n1 may notice 0.3 s later, and then asks for 0.5 s
		r.steps(statusJSONCommand, "n0", "n1")
		heal := time.Now()
		r.Heal()
		r.waitFor("n0", func(s State) bool { return !s.SuspendedQuorum })
		if took := time.Since(heal); took < 1900*time.Millisecond || took > 4200*time.Millisecond {
			r.t.Errorf("healed after %v", took)
		}
		r.wait(3 * time.Second)
		r.step("n0", statusJSONCommand)
	})
}

func TestSuspensionByTheUserIsShownAsByTheRealOne(t *testing.T) {
	conform(t, "suspend-user", majority, func(r *replay) {
		suspend := func(command string) {
			if code := r.Run(r.t.Context(), "n0", []string{command, "1000"}, os.Stderr, os.Stderr); code != 0 {
				r.t.Fatalf("%s: exit code %d", command, code)
			}
		}
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.driver.open("n0", 1000, "mount")
		suspend("suspend-io")
		r.steps(statusJSONCommand, "n0", "n1", "n2")
		r.step("n0", eventsCommand)
		r.step("n0", secondaryCommand)
		r.step("n1", primaryCommand)
		suspend("resume-io")
		r.step("n0", statusJSONCommand)
		r.step("n0", "suspend-io 1001") // concerns the whole resource
		r.step("n0", statusJSONCommand)
		r.must(r.Demote(r.t.Context(), "n0", "pvc-a", true))
		r.step("n0", statusJSONCommand)
		suspend("resume-io")
		r.driver.open("n0", 1000, "")
		r.wait(2 * closePoll)
		r.step("n0", statusJSONCommand)
		suspend("suspend-io")
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		suspend("resume-io")
		r.must(r.Demote(r.t.Context(), "n0", "pvc-a", false))
		r.step("n0", statusJSONCommand)
	})
}

func TestDetachedDisksAreShownAsByTheRealOne(t *testing.T) {
	conform(t, "detach", majority, func(r *replay) {
		r.must(r.Promote(r.t.Context(), "n0", "pvc-a", false))
		r.step("n0", "detach --force 1000")
		r.steps(statusJSONCommand, "n0", "n1", "n2")
		r.step("n0", eventsCommand)
		r.must(r.Demote(r.t.Context(), "n0", "pvc-a", false))
		r.must(r.AttachDisk("n0", "pvc-a", 0))
		r.wait(time.Second)
		r.steps(statusJSONCommand, "n0", "n1")
		r.step("n1", "detach 1000")
		r.step("n1", statusJSONCommand)
		r.step("n0", "detach 1000")
		r.step("n0", statusJSONCommand)
		if err := r.Promote(r.t.Context(), "n0", "pvc-a", false); err == nil {
			r.t.Error("promoted without any UpToDate disk")
		}
		r.must(r.AttachDisk("n0", "pvc-a", 0))
		r.must(r.AttachDisk("n1", "pvc-a", 0))
		r.wait(time.Second)
		r.steps(statusJSONCommand, "n0", "n1")
	})
}

func TestOutdatedDisksRefuseAsTheRealOnes(t *testing.T) {
	conform(t, "outdated", majority, func(r *replay) {
		r.step("n0", "outdate 1000")
		r.step("n0", "outdate 1001")
		r.steps(statusJSONCommand, "n0", "n1")
		r.must(r.Promote(r.t.Context(), "n1", "pvc-a", false))
		r.Partition([]string{"n1", "n2"})
		r.steps(statusJSONCommand, "n0", "n1")
		r.waitFor("n0", func(s State) bool {
			return s.Connections[0].State == stateConnecting && s.Connections[1].State == stateConnecting
		})
		r.step("n0", statusJSONCommand)
		r.step("n0", primaryCommand)
		r.must(r.Register(r.t.Context(), "n0", "boot2"))
		r.step("n0", "status pvc-a")
		r.step("n0", primaryCommand)
		r.step("n0", statusJSONCommand)
		r.must(r.Demote(r.t.Context(), "n1", "pvc-a", false))
		r.PowerOff("n1")
		r.Heal()
		r.waitFor("n2", func(s State) bool { return s.Connections[0].State == stateConnected })
		// The real tiebreaker found out about n1 as n0 connected.
		r.waitFor("n2", func(s State) bool { return s.Connections[1].State == stateConnecting })
		r.steps(statusJSONCommand, "n0", "n2")
		r.steps(primaryCommand, "n0", "n2")
		r.steps("status pvc-a", "n0", "n2")
	})
}

func TestInconsistentDiskAloneRefusesAsTheRealOne(t *testing.T) {
	conform(t, "inconsistent", majority, func(r *replay) {
		r.must(r.HoldResync("n0", "pvc-a", true))
		r.must(r.Resync("n0", "pvc-a", 0, 0))
		r.PowerOff("n1")
		r.step("n0", primaryCommand)
		r.wait(100 * time.Millisecond)
		r.step("n0", "events2 --now pvc-a")
		r.step("n0", statusJSONCommand)
	})
}

// delayDetection keeps the node from noticing a loss by itself.
func (r *replay) delayDetection(node, peer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.after(r.resources["pvc-a"].replicas[node].links[peer], timerDetect, time.Minute, func() {})
}

// waitFor lets time pass until the node knows something.
func (r *replay) waitFor(node string, condition func(State) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		s, err := r.State(node, "pvc-a")
		r.must(err)
		if condition(s) {
			return
		}
	}
	r.t.Fatalf("%s: waited in vain", node)
}
