package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runWorkload calls a subcommand in this process and returns its events.
func runWorkload(t *testing.T, arguments ...string) ([]map[string]any, error) {
	t.Helper()
	var output bytes.Buffer
	err := run(t.Context(), arguments, newReporter(&output, time.Now))
	var events []map[string]any
	for line := range strings.Lines(output.String()) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("line %q is not JSON: %v", line, err)
		}
		events = append(events, event)
	}
	return events, err
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
		o := options{lockType: "flock", arguments: []string{file}}
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

func TestAWrongCommandLineIsRefused(t *testing.T) {
	for _, line := range []string{"", "dance", "write", "serve now", "lock " + filepath.Join(t.TempDir(), "lock") + " --type wish"} {
		if _, err := runWorkload(t, strings.Fields(line)...); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}
