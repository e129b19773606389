package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mainVariable makes the test program be the workload program, for detach.
const mainVariable = "WORKLOAD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runWorkload calls a subcommand in this process and returns its events.
func runWorkload(t *testing.T, arguments ...string) ([]map[string]any, error) {
	t.Helper()
	var output bytes.Buffer
	err := run(t.Context(), arguments, newReporter(&output, time.Now))
	return parse(t, output.String()), err
}

// parse reads events; an end without newline is not one yet.
func parse(t *testing.T, output string) []map[string]any {
	t.Helper()
	var events []map[string]any
	for line := range strings.Lines(output) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("line %q is not JSON: %v", line, err)
		}
		events = append(events, event)
	}
	return events
}

func names(events []map[string]any) string {
	var all []string
	for _, event := range events {
		all = append(all, event["event"].(string))
	}
	return strings.Join(all, " ")
}

func TestWhatIsWrittenIsFoundIntactAndContinued(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lines")
	for range 2 {
		if _, err := runWorkload(t, "write", file, "--every", "1ms", "--for", "20ms"); err != nil {
			t.Fatal(err)
		}
	}
	events, err := runWorkload(t, "check", file)
	if err != nil {
		t.Fatal(err)
	}
	result := events[0]
	if result["event"] != "intact" || result["first"] != 0.0 || result["lines"] != result["last"].(float64)+1 || result["lines"].(float64) < 2 {
		t.Errorf("check said %v", result)
	}
}

func TestCheckSeesEveryKindOfDamage(t *testing.T) {
	for name, test := range map[string]struct {
		content string
		broken  bool
	}{
		"complete":     {"0 1 a\n1 2 a\n2 3 a\n", false},
		"empty":        {"", false},
		"later start":  {"7 1 a\n8 2 a\n", false},
		"missing line": {"0 1 a\n2 3 a\n", true},
		"repeated":     {"0 1 a\n1 2 a\n1 2 a\n", true},
		"zeros":        {"0 1 a\n\x00\x00\x00\n1 2 a\n", true},
		"torn end":     {"0 1 a\n1 2", true},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "lines")
			if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := runWorkload(t, "check", file)
			if errors.Is(err, errBroken) != test.broken {
				t.Errorf("check returned %v", err)
			}
		})
	}
}

func TestCheckCountsExactlyTheAcknowledgedLinesThatAreLost(t *testing.T) {
	for name, test := range map[string]struct {
		content      string
		acknowledged string
		lost         float64
		broken       bool
	}{
		"all there":                 {"0 1 a\n1 2 a\n", "1", 0, false},
		"more than acknowledged":    {"0 1 a\n1 2 a\n2 3 a\n", "1", 0, false},
		"torn, not acknowledged":    {"0 1 a\n1 2 a\n2 3", "1", 0, false},
		"torn, acknowledged":        {"0 1 a\n1 2", "1", 1, true},
		"end is missing":            {"0 1 a\n", "3", 3, true},
		"everything is missing":     {"", "3", 4, true},
		"begin is missing":          {"2 1 a\n3 1 a\n", "3", 2, true},
		"hole":                      {"0 1 a\n4 1 a\n", "4", 3, true},
		"hole after what counts":    {"0 1 a\n4 1 a\n", "0", 0, false},
		"hole that counts in part":  {"0 1 a\n4 1 a\n", "2", 2, true},
		"all there, one twice":      {"0 1 a\n1 2 a\n1 2 a\n", "1", 0, true},
		"nothing was acknowledged":  {"0 1 a\n", "-1", 0, false},
		"zeros instead of one line": {"0 1 a\n\x00\x00\n2 1 a\n", "2", 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "lines")
			if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			events, err := runWorkload(t, "check", file, "--acknowledged", test.acknowledged)
			if errors.Is(err, errBroken) != test.broken || events[0]["lost"] != test.lost {
				t.Errorf("check returned %v and said %v", err, events)
			}
		})
	}
}

func TestALineThatArrivesInPiecesIsOneLine(t *testing.T) {
	var found inventory
	for _, piece := range []string{"0 1 a\n1 ", "2 ", "a\n"} {
		if err := found.scan(strings.NewReader(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if found.lines != 2 || found.broken() || found.partial != "" {
		t.Errorf("found %+v", found)
	}
}

func TestOnlyOneHolderGetsTheLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	ctx, release := context.WithCancel(t.Context())
	defer release()
	held, freed := make(chan bool), make(chan error)
	go func() {
		o := options{lockType: "flock", every: 50 * time.Millisecond, arguments: []string{file}}
		freed <- lock(ctx, o, func(event string, _ fields) {
			if event == "acquired" {
				close(held)
			}
		})
	}()
	<-held
	if events, err := runWorkload(t, "lock", file, "--type", "flock", "--try"); !errors.Is(err, errBroken) || names(events) != "denied" {
		t.Errorf("second holder: %v, %v", events, err)
	}
	if events, err := runWorkload(t, "steal", file, "--type", "flock", "--every", "1ms", "--for", "20ms"); err != nil || names(events) != "stealing done" {
		t.Errorf("thief of a held lock: %v, %v", events, err)
	}
	release()
	if err := <-freed; err != nil {
		t.Error(err)
	}
	if events, err := runWorkload(t, "steal", file, "--type", "flock", "--for", "1s"); !errors.Is(err, errBroken) || names(events) != "stealing stolen" {
		t.Errorf("thief of a free lock: %v, %v", events, err)
	}
}

func TestLongStepsAreReported(t *testing.T) {
	var output bytes.Buffer
	o := options{duration: 30 * time.Millisecond, gap: 10 * time.Millisecond, every: time.Millisecond}
	err := steps(t.Context(), o, newReporter(&output, time.Now), func(step int) error {
		if step == 1 {
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	if err != nil || strings.Count(output.String(), `"event":"gap"`) < 1 || !strings.Contains(output.String(), `"step":1`) {
		t.Errorf("%v: %s", err, output.String())
	}
}

func TestWalkAndOpenLoopFindAWorkingFolder(t *testing.T) {
	folder := t.TempDir()
	if events, err := runWorkload(t, "walk", folder, "--files", "20"); err != nil || names(events) != "created listed read" {
		t.Errorf("walk: %v, %v", events, err)
	}
	if events, err := runWorkload(t, "open-loop", folder, "--every", "1ms", "--for", "10ms"); err != nil || !strings.HasSuffix(names(events), "done") {
		t.Errorf("open-loop: %v, %v", events, err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

// Servers that die leave a file each that they did not answer for; more files that
// exist have another reason.
func TestOpenLoopReportsTwoFilesThatExistAndEndsWithTheThird(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for existing, want := range map[int]error{deaths: nil, deaths + 1: os.ErrExist} {
		folder := t.TempDir()
		for step := range existing {
			name := fmt.Sprintf(".open-%s-%d-%d", host, os.Getpid(), step)
			if err := os.WriteFile(filepath.Join(folder, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		events, err := runWorkload(t, "open-loop", folder, "--every", "1ms", "--for", "30ms")
		if !errors.Is(err, want) || count(events, "", "existed") != deaths {
			t.Errorf("%d files exist: %v, %v", existing, err, events)
		}
	}
}

func TestBrowseNoticesAFileThatIsGone(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "tree")
	if events, err := runWorkload(t, "browse", folder, "--files", "7", "--every", "1ms", "--for", "10ms"); err != nil || names(events) != "browsing done" {
		t.Fatalf("browse: %v, %v", events, err)
	}
	if err := os.Remove(filepath.Join(folder, "0", "3")); err != nil {
		t.Fatal(err)
	}
	if err := visit(folder, 7); err == nil {
		t.Error("nobody missed the file")
	}
}

func TestWhatGoesOnReportsEachFailure(t *testing.T) {
	var output bytes.Buffer
	o := options{duration: 30 * time.Millisecond, gap: time.Second, every: time.Millisecond, goOn: true, progress: time.Nanosecond}
	err := steps(t.Context(), o, newReporter(&output, time.Now), func(step int) error {
		if step < 2 {
			return fmt.Errorf("stat a file: %w", syscall.ESTALE)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	events := parse(t, output.String())
	if !strings.HasPrefix(names(events), "failed failed progress") || events[0]["errno"] != "ESTALE" {
		t.Errorf("the events are %v", events)
	}
}

// Two users share a folder, as in the laboratory: each holds its locks, none is
// stolen, and a thief that finds a released lock does take it.
func TestUseDoesEverythingAtOnceUntilTold(t *testing.T) {
	t.Setenv(mainVariable, "1")
	folder, outputs := t.TempDir(), t.TempDir()
	users := map[string]int{}
	output := func(user string) []map[string]any {
		content, err := os.ReadFile(filepath.Join(outputs, user))
		if err != nil {
			t.Fatal(err)
		}
		return parse(t, string(content))
	}
	start := func(user, rival string) {
		events, err := runWorkload(t, "detach", filepath.Join(outputs, user), "use", folder, "--name", user, "--rivals", rival)
		if err != nil {
			t.Fatal(err)
		}
		users[user] = int(events[0]["pid"].(float64))
		wait(t, user+" to hold its locks", func() bool {
			return count(output(user), "holder-fcntl", "acquired") == 1 && count(output(user), "holder-flock", "acquired") == 1
		})
	}
	start("a", "b")
	start("b", "a")
	t.Cleanup(func() {
		for _, pid := range users {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	for user := range users {
		for _, kind := range []string{"writer", "opener", "browser", "holder-fcntl", "holder-flock"} {
			wait(t, user+" to progress as "+kind, func() bool { return count(output(user), kind, "progress") > 1 })
		}
	}
	if stolen := count(output("b"), "thief-fcntl-a", "stolen") + count(output("b"), "thief-flock-a", "stolen"); stolen != 0 {
		t.Errorf("b took %d locks that a holds", stolen)
	}
	early := count(output("a"), "thief-fcntl-b", "stolen") // b was not there yet
	time.Sleep(3 * stealEvery)
	if late := count(output("a"), "thief-fcntl-b", "stolen"); late != early {
		t.Errorf("a took a lock that b holds, %d times before and %d times after b had it", early, late-early)
	}
	send(t, users["a"], syscall.SIGUSR1)
	for _, kind := range []string{"thief-fcntl-a", "thief-flock-a"} {
		wait(t, "b to take the released lock as "+kind, func() bool { return count(output("b"), kind, "stolen") > 0 })
	}
	for user, pid := range users {
		send(t, pid, syscall.SIGTERM)
		wait(t, user+" to end", func() bool { return count(output(user), "", "ended") == 1 })
		written := count(output(user), "writer", "written")
		if written != 1 || count(output(user), "writer", "error") > 0 {
			t.Errorf("the writer of %s said %v", user, output(user))
		}
		if _, err := runWorkload(t, "check", filepath.Join(folder, user+".lines")); err != nil {
			t.Error(err)
		}
	}
}

func send(t *testing.T, pid int, number syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, number); err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// count returns how many events of a kind of work there are; "" is use itself.
func count(events []map[string]any, kind, name string) int {
	found := 0
	for _, event := range events {
		of, _ := event["kind"].(string)
		if of == kind && event["event"] == name {
			found++
		}
	}
	return found
}

func TestAWrongCommandLineIsRefused(t *testing.T) {
	for _, line := range []string{"", "dance", "write", "serve now", "lock " + filepath.Join(t.TempDir(), "lock") + " --type wish"} {
		if _, err := runWorkload(t, strings.Fields(line)...); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

func TestSizeOfTheFilesystemIsReportedWhenItChanges(t *testing.T) {
	folder := t.TempDir()
	if err := unix.Mount("none", folder, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(folder, 0) })
	var output bytes.Buffer
	say := newReporter(&output, time.Now)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var grown time.Time
	err := run(ctx, []string{"df", folder, "--every", "2ms"}, func(event string, more fields) {
		say(event, more)
		switch {
		case event == "size" && more["bytes"] == int64(1<<20):
			if err := unix.Mount("none", folder, "tmpfs", unix.MS_REMOUNT, "size=3m"); err != nil {
				t.Error(err)
			}
			grown = time.Now()
		case event == "size":
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	events := parse(t, output.String())
	if names(events) != "size size done" || events[1]["bytes"] != float64(3<<20) {
		t.Fatalf("got %v", events)
	}
	asked, before := parseTime(t, events[1]["asked"]), parseTime(t, events[1]["before"])
	if !before.Before(grown) || !asked.After(grown) {
		t.Errorf("it grew at %s; the old size was asked for until %s, the new one from %s", grown, before, asked)
	}
}

func parseTime(t *testing.T, value any) time.Time {
	t.Helper()
	text, _ := value.(string)
	parsed, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
