package failover

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The file's form is what others read: no key more, none less.
func TestSummariesAreWrittenInTheAgreedForm(t *testing.T) {
	results := []Result{
		{WriterStall: 1.0004, OpenerStall: 4, Parts: map[string]float64{Detect: 0.25, Grace: 3}, LocksLost: 1, DoublePrimaries: 1},
		{WriterStall: 3, OpenerStall: 5, Parts: map[string]float64{Detect: 0.5}, LocksLost: 1, LocksStolen: 2, AcknowledgedWritesLost: 3, StaleHandles: 4},
		{WriterStall: 2, OpenerStall: 9, Parts: map[string]float64{Detect: 0.75}},
	}
	path := filepath.Join(t.TempDir(), "bench", "failover.json")
	if err := WriteSummaries(path, []Summary{Summarize("ganesha-crash", "product", results)}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, content); err != nil {
		t.Fatal(err)
	}
	want := `[{"scenario":"ganesha-crash","variant":"product","runs":3,` +
		`"writerStallSeconds":{"p50":2,"p95":3,"max":3},"openerStallSeconds":{"p50":5,"p95":9,"max":9},` +
		`"parts":{"detect":0.5,"promote":null,"mount":null,"start":null,"probe":null,"endpoint":null,"reconnect":null,"grace":3},` +
		`"locksLost":2,"locksStolen":2,"acknowledgedWritesLost":3,"staleHandles":4,"doublePrimaries":1}]`
	if got := strings.TrimSpace(compact.String()); got != want {
		t.Errorf("the file holds\n%s\nwant\n%s", got, want)
	}
}

func TestTableHasALineForEveryScenarioInBothParts(t *testing.T) {
	var out strings.Builder
	PrintTable(&out, []Summary{
		Summarize("drain", "product", []Result{{WriterStall: 1.25, OpenerStall: 4.5, Parts: map[string]float64{Probe: 0.5}}}),
		Summarize("drain", "baseline", []Result{{WriterStall: 4, OpenerStall: 16}}),
		Summarize("upgrade", "baseline", nil),
	})
	for _, line := range []string{"drain product 1 1.2 1.2 1.2 4.5 4.5 4.5 0 0 0 0 0", "drain baseline 1 4.0", "upgrade baseline 0 - - - - - - - - - - - ", "drain product - - - - 0.50 - - -"} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), line) {
			t.Errorf("the table has no %q:\n%s", line, out.String())
		}
	}
}

func TestEveryBrokenPromiseIsNamed(t *testing.T) {
	if broken := (Result{WriterStall: 99}).Broken(); len(broken) != 0 {
		t.Errorf("a slow run is %q", broken)
	}
	got := Result{LocksLost: 1, LocksStolen: 2, AcknowledgedWritesLost: 3, StaleHandles: 4, DoublePrimaries: 5, Problems: []string{"oh"}}.Broken()
	want := []string{"1 locks lost", "2 locks stolen", "3 acknowledged writes lost", "4 stale handles", "5 double Primaries", "oh"}
	if !slices.Equal(got, want) {
		t.Errorf("broken are %q, want %q", got, want)
	}
}

func TestScenariosAreTheAgreedOnesAndFoundByName(t *testing.T) {
	agreed := []string{
		"ganesha-crash", "ganesha-hang", "supervisor-crash", "node-power-off", "node-power-off-with-client-on-it",
		"node-power-off-with-client-on-it-unproven", "network-cut", "double-failure", "move-to-client-node", "move-off-client-node",
		"drain", "upgrade", "snapshot-suspend", "disk-failure", "api-server-down",
		"control-plane-upgrade", "node-shutdown", "node-power-off-without-api-server",
		"kubernetes-network-cut",
	}
	found, err := Find(agreed...)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := Find(); err != nil || len(all) != len(agreed) || len(found) != len(agreed) {
		t.Errorf("there are %d scenarios, %d were found: %v", len(all), len(found), err)
	}
	if _, err := Find("earthquake"); err == nil {
		t.Error("a scenario that does not exist was found")
	}
}
