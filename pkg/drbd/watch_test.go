package drbd

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// watched runs Watch until done says so of the names that were reported.
func watched(t *testing.T, tool *Tool, done func(names []string) bool) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var names []string
	err := tool.Watch(ctx, func(name string) {
		names = append(names, name)
		if done(names) {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v after %q", err, names)
	}
	return names
}

func TestWatchReportsChangesAfterTheInitialState(t *testing.T) {
	recorded, err := filepath.Abs("testdata/events.txt")
	if err != nil {
		t.Fatal(err)
	}
	tool := toolWithScript(t, "cat "+recorded+"\necho 'change resource name:last role:Primary'\nexec sleep 60\n")
	names := watched(t, tool, func(names []string) bool { return slices.Contains(names, "last") })
	if names[0] != "" || names[1] != "pvc-a" {
		t.Errorf("got %q", names)
	}
	if slices.Contains(names[1:], "") {
		t.Errorf("everything was read again without a reason: %q", names)
	}
}

func TestWatchReadsEverythingAgainAfterAnInterruption(t *testing.T) {
	tool := toolWithScript(t, `echo 'exists resource name:pvc-a role:Secondary'
echo 'exists -'
printf 'change resource name:half-a-'
`)
	names := watched(t, tool, func(names []string) bool { return len(names) >= 6 })
	if slices.ContainsFunc(names, func(name string) bool { return name != "" }) {
		t.Errorf("got %q", names)
	}
}

func TestWatchSurvivesAMissingProgram(t *testing.T) {
	tool := toolWithScript(t, "exit 20\n")
	watched(t, tool, func(names []string) bool { return len(names) >= 3 })
}

func TestChangedResource(t *testing.T) {
	for line, want := range map[string]string{
		"change resource name:pvc-a role:Primary may_promote:no promotion_score:10101":  "pvc-a",
		"change device name:pvc-a volume:0 minor:1000 backing_dev:/dev/x disk:UpToDate": "pvc-a",
		"destroy resource name:pvc-a":                                                         "pvc-a",
		"rename resource name:old new_name:new":                                               "old",
		"call helper name:pvc-a peer-node-id:1 conn-name:n1 volume:0 helper:quorum-lost":      "",
		"response helper name:pvc-a volume:0 minor:1000 helper:before-resync-target status:0": "",
		"something new name:pvc-a":                                                            "",
		"exists -":                                                                            "",
		"":                                                                                    "",
	} {
		name, initial := changedResource(line)
		if name != want || initial != strings.HasPrefix(line, "exists -") {
			t.Errorf("got %q, %v of %q", name, initial, line)
		}
	}
}
