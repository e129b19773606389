package drbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/exec"
)

// answer is one recorded call: what was asked, and what came back.
type answer struct {
	node, command  string
	stdout, stderr string
	code           int
}

// readTranscript reads a recording of real DRBD (testdata says of which).
func readTranscript(t *testing.T, file string) []answer {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var answers []answer
	var current answer
	var into *string
	scanner := bufio.NewScanner(strings.NewReader(string(data)))
	for scanner.Scan() {
		line := scanner.Text()
		switch {
		case strings.HasPrefix(line, "### "):
			head, command, _ := strings.Cut(line, "$ ")
			current = answer{node: head[strings.LastIndex(head, " ")+1:], command: command}
			into = nil
		case line == "--- stdout":
			into = &current.stdout
		case line == "--- stderr":
			into = &current.stderr
		case strings.HasPrefix(line, "--- exit "):
			code, _, _ := strings.Cut(strings.TrimPrefix(line, "--- exit "), ",")
			if current.code, err = strconv.Atoi(code); err != nil {
				t.Fatal(err)
			}
			answers = append(answers, current)
			into = nil
		case into != nil:
			*into += line + "\n"
		}
	}
	if len(answers) == 0 {
		t.Fatalf("%s has no recorded calls", file)
	}
	return answers
}

// replaying runs a script in place of drbdsetup.
type replaying struct {
	exec.Interface
	script string
}

func (r replaying) CommandContext(ctx context.Context, program string, args ...string) exec.Cmd {
	if program != "drbdsetup" {
		panic("the package ran " + program)
	}
	return r.Interface.CommandContext(ctx, r.script, args...)
}

// toolWithScript returns a Tool whose drbdsetup is this shell script.
func toolWithScript(t *testing.T, script string) *Tool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drbdsetup")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	tool := New(replaying{exec.New(), path})
	tool.restartDelay = 10 * time.Millisecond
	return tool
}

// toolAnswering returns a Tool that gets this answer, to exactly this call.
func toolAnswering(t *testing.T, a answer) *Tool {
	t.Helper()
	directory := t.TempDir()
	for name, content := range map[string]string{"stdout": a.stdout, "stderr": a.stderr} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return toolWithScript(t, fmt.Sprintf(`
if [ "drbdsetup $*" != "%s" ]; then echo "asked for: $*" >&2; exit 99; fi
cat %[2]s/stdout; cat %[2]s/stderr >&2; exit %[3]d`, a.command, directory, a.code))
}

func TestRefusalsCarryTheCodeOfDRBD(t *testing.T) {
	ctx := t.Context()
	seen := map[int]bool{}
	for _, a := range readTranscript(t, "answers.txt") {
		if !strings.Contains(a.stderr, "State change failed") {
			continue
		}
		t.Run(a.command, func(t *testing.T) {
			tool := toolAnswering(t, a)
			var err error
			switch a.command {
			case "drbdsetup primary pvc-a":
				err = tool.Primary(ctx, "pvc-a")
			case "drbdsetup secondary pvc-a":
				err = tool.Secondary(ctx, "pvc-a")
			default:
				t.Fatalf("nothing calls %s", a.command)
			}
			var refused *RefusedError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a refusal", err)
			}
			seen[refused.Code] = true
			if !strings.Contains(a.stderr, fmt.Sprintf("(%d) ", refused.Code)) || refused.Resource != "pvc-a" {
				t.Errorf("got %+v of %q", refused, a.stderr)
			}
			if strings.Contains(a.stderr, "opened by") && !strings.Contains(err.Error(), "opened by") {
				t.Errorf("the error does not say who holds the device open: %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
	for _, code := range []int{TwoPrimaries, NoUpToDateDisk, RefusedByPeer, HeldOpen, NoQuorum} {
		if !seen[code] {
			t.Errorf("the recording has no refusal %d", code)
		}
	}
}

func TestUnknownResourceIsToldFromOtherFailures(t *testing.T) {
	ctx := t.Context()
	calls := map[string]func(*Tool) error{
		"drbdsetup status --json nosuch":     func(tool *Tool) error { _, err := tool.Status(ctx, "nosuch"); return err },
		"drbdsetup primary nosuch":           func(tool *Tool) error { return tool.Primary(ctx, "nosuch") },
		"drbdsetup secondary nosuch":         func(tool *Tool) error { return tool.Secondary(ctx, "nosuch") },
		"drbdsetup secondary --force nosuch": func(tool *Tool) error { return tool.ForceSecondary(ctx, "nosuch") },
	}
	tried := 0
	for _, a := range readTranscript(t, "answers.txt") {
		call := calls[a.command]
		if call == nil {
			continue
		}
		tried++
		if err := call(toolAnswering(t, a)); !errors.Is(err, ErrUnknownResource) {
			t.Errorf("%s: got %v", a.command, err)
		}
	}
	if tried != len(calls) {
		t.Errorf("%d of %d calls are in the recording", tried, len(calls))
	}
	for _, stderr := range []string{"", "pvc-a: Failure: (127) Device minor not allocated"} {
		err := toolAnswering(t, answer{command: "drbdsetup primary pvc-a", stderr: stderr, code: 10}).Primary(ctx, "pvc-a")
		var refused *RefusedError
		if err == nil || errors.Is(err, ErrUnknownResource) || errors.As(err, &refused) {
			t.Errorf("%q: got %v", stderr, err)
		}
	}
}

func TestNothingConfiguredIsNoError(t *testing.T) {
	for _, a := range readTranscript(t, "answers.txt") {
		if a.command == "drbdsetup status --json" {
			resources, err := toolAnswering(t, a).StatusAll(t.Context())
			if err != nil || len(resources) != 0 {
				t.Errorf("got %v, %v", resources, err)
			}
			return
		}
	}
	t.Error("the recording has no status of nothing")
}

// drbdsetup computes may_promote for events2 only. Our rule must come to the
// same result from the status that was recorded with it.
func TestMayPromoteAgreesWithEvents2(t *testing.T) {
	answers := readTranscript(t, "status-and-events.txt")
	seen := map[bool]int{}
	for i := 0; i+1 < len(answers); i += 2 {
		status, events := answers[i], answers[i+1]
		if !strings.HasPrefix(status.command, "drbdsetup status") || status.node != events.node {
			t.Fatalf("answers %d and %d are no pair", i, i+1)
		}
		resources, err := parseStatus([]byte(status.stdout))
		if err != nil || len(resources) != 1 {
			t.Fatalf("got %v, %v of %s", resources, err, status.stdout)
		}
		want := strings.Contains(events.stdout, "may_promote:yes")
		if strings.Contains(events.stdout, "force-io-failures:yes") {
			// drbd-utils 9.22 says yes, newer ones no; DRBD refuses with -12.
			want = false
		}
		may, why := resources[0].MayPromote()
		if may != want || may != (why == "") {
			t.Errorf("pair %d: got %v (%s), events2 says %s", i/2, may, why, events.stdout)
		}
		seen[want]++
	}
	if seen[true] == 0 || seen[false] < 8 {
		t.Errorf("the recordings prove little: %v", seen)
	}
}

func TestStatusIsReadWhole(t *testing.T) {
	var suspended, withoutQuorum, diskless, forced bool
	for _, a := range readTranscript(t, "status-and-events.txt") {
		if !strings.HasPrefix(a.command, "drbdsetup status") {
			continue
		}
		r, err := toolAnswering(t, a).Status(t.Context(), "pvc-a")
		if err != nil {
			t.Fatal(err)
		}
		if r.Name != "pvc-a" || len(r.Devices) != 2 || len(r.Connections) == 0 {
			t.Fatalf("got %+v", r)
		}
		device, ok := r.Device(1)
		if !ok || device.Minor != 1001 || device.SizeBytes != 16344*1024 || device.Path() != "/dev/drbd1001" {
			t.Errorf("got %+v", device)
		}
		for _, c := range r.Connections {
			if c.Name == "" || c.State == "" || c.PeerRole == "" || len(c.PeerDevices) != 2 {
				t.Errorf("got connection %+v", c)
			}
			for _, p := range c.PeerDevices {
				if p.DiskState == "" || p.Replication == "" || p.Client != (c.Name == "n2") {
					t.Errorf("got peer device %+v of %s", p, c.Name)
				}
			}
		}
		suspended = suspended || r.Suspended.Quorum
		withoutQuorum = withoutQuorum || !r.HasQuorum()
		diskless = diskless || r.LocalDisk() == DiskDiskless
		forced = forced || r.ForceIOFailures
	}
	if !suspended || !withoutQuorum || !diskless || !forced {
		t.Errorf("not seen: suspended %v, without quorum %v, diskless %v, forced %v", suspended, withoutQuorum, diskless, forced)
	}
}

func TestOddNamesNeverReachDrbdsetup(t *testing.T) {
	tool := toolWithScript(t, "exit 0\n")
	for _, name := range []string{"", "all", "--force", "-x"} {
		if err := tool.Primary(t.Context(), name); err == nil {
			t.Errorf("%q was accepted", name)
		}
		if _, err := tool.Status(t.Context(), name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	tool := toolWithScript(t, "exec sleep 60\n")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := tool.Secondary(ctx, "pvc-a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestLocalDiskIsTheWorstOne(t *testing.T) {
	for want, states := range map[string][]string{
		DiskUpToDate:     {DiskUpToDate, DiskUpToDate},
		DiskOutdated:     {DiskUpToDate, DiskOutdated},
		DiskInconsistent: {DiskInconsistent, DiskConsistent},
		DiskDiskless:     {DiskDiskless, DiskInconsistent},
		DiskUnknown:      nil,
	} {
		var r Resource
		for i, state := range states {
			r.Devices = append(r.Devices, Device{Volume: i, DiskState: state})
		}
		if got := r.LocalDisk(); got != want {
			t.Errorf("got %s of %v, want %s", got, states, want)
		}
	}
}
