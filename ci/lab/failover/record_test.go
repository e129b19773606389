package failover

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// noon is when the fault happens in these tests.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// gap is a step that ended then and took so long.
func gap(kind string, end, seconds float64) event {
	return event{Time: at(end), Kind: kind, Event: "gap", Begin: at(end - seconds), Seconds: seconds}
}

func progress(kind string, when float64, steps int) event {
	return event{Time: at(when), Kind: kind, Event: "progress", Steps: steps}
}

func TestStallIsTheLongestStepBetweenFaultAndRecovery(t *testing.T) {
	for name, test := range map[string]struct {
		saw  record
		want time.Duration
	}{
		"nothing was slow":         {record{progress(writer, 1, 1)}, 0},
		"the longest of several":   {record{gap(writer, 2, 1), gap(writer, 5, 3), gap(writer, 6, 0.5)}, 3 * time.Second},
		"begun before the fault":   {record{gap(writer, 1, 1.5)}, 1500 * time.Millisecond},
		"over before the fault":    {record{gap(writer, -1, 9)}, 0},
		"begun after the recovery": {record{gap(writer, 15, 2), gap(writer, 3, 1)}, time.Second},
		"of another kind of work":  {record{gap(opener, 5, 4)}, 0},
		"ended by an error":        {record{progress(writer, 2, 9), {Time: at(3), Kind: writer, Event: "error"}}, 8 * time.Second},
		"ended without a step":     {record{progress(writer, -2, 9), {Time: at(3), Kind: writer, Event: "error"}}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.saw.stall(writer, noon, at(10)); got != test.want {
				t.Errorf("the stall is %s, want %s", got, test.want)
			}
		})
	}
}

func TestTheLongestStepSaysWhenWorkStoppedAndResumed(t *testing.T) {
	saw := record{gap(writer, -1, 9), gap(writer, 2, 1), gap(writer, 5, 3), gap(writer, 6, 0.5), gap(opener, 8, 7)}
	got := saw.longest(writer, noon, at(10))
	if got == nil || !got.Begin.Equal(at(2)) || !got.Time.Equal(at(5)) {
		t.Errorf("the longest step is %+v", got)
	}
	if got := saw.longest(browser, noon, at(10)); got != nil {
		t.Errorf("work that was never slow has the step %+v", got)
	}
}

func TestOnlyLinesThatAreKnownToBeStableAreAcknowledged(t *testing.T) {
	writing := event{Kind: writer, Event: "writing"}
	for name, test := range map[string]struct {
		saw  record
		want int
	}{
		"nothing said":        {nil, -1},
		"begun":               {record{writing}, -1},
		"three steps":         {record{writing, progress(writer, 1, 3)}, 2},
		"steps of the opener": {record{writing, progress(opener, 1, 3)}, -1},
		"a file went on":      {record{{Kind: writer, Event: "writing", First: 10}, progress(writer, 1, 3)}, 12},
		"ended":               {record{writing, progress(writer, 1, 3), {Kind: writer, Event: "written", Last: 7}}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.saw.acknowledged(); got != test.want {
				t.Errorf("line %d is acknowledged, want %d", got, test.want)
			}
		})
	}
}

func TestIdleNamesWhatStandsStillButNotWhatHasEnded(t *testing.T) {
	saw := record{
		progress(writer, 1, 1), progress(opener, 5, 1), progress(fcntlHolder, 1, 1),
		{Time: at(2), Kind: fcntlHolder, Event: "lost"},
	}
	got := saw.idle([]string{writer, opener, browser, fcntlHolder}, at(4))
	if want := []string{writer, browser}; !slices.Equal(got, want) {
		t.Errorf("idle are %v, want %v", got, want)
	}
}

func TestLocksAndErrorsAreCounted(t *testing.T) {
	saw := record{
		{Kind: fcntlHolder, Event: "lost"},
		{Kind: "thief-flock-n1", Event: "stolen"}, {Kind: "thief-flock-n1", Event: "stolen"}, {Kind: "thief-fcntl-n2", Event: "stolen"},
		{Kind: browser, Event: "failed", Errno: "ESTALE"}, {Kind: browser, Event: "failed", Errno: "ESTALE"},
		{Kind: writer, Event: "error", Errno: "EIO", Error: "sync line 3: input/output error"},
		{Kind: opener, Event: "failed", Error: "same"}, {Kind: opener, Event: "failed", Error: "same"},
	}
	if got := saw.lostLocks(); !slices.Equal(got, []string{fcntlHolder}) {
		t.Errorf("lost: %v", got)
	}
	if got := saw.stolenLocks(); !slices.Equal(got, []string{"thief-flock-n1", "thief-fcntl-n2"}) {
		t.Errorf("stolen: %v", got)
	}
	stale, others := saw.errors()
	if stale != 2 || !slices.Equal(others, []string{"writer: sync line 3: input/output error", "opener: same"}) {
		t.Errorf("%d stale handles, others %q", stale, others)
	}
}

func TestARecordIsReadUpToItsLastCompleteLine(t *testing.T) {
	lines := []string{
		`{"time":"2026-11-21T12:00:01.5Z","kind":"writer","event":"progress","steps":7}`,
		`{"time":"2026-11-21T12:00:02Z","begin":"2026-11-21T12:00:01Z","kind":"opener","event":"gap","seconds":1,"step":3}`,
	}
	want := record{progress(writer, 1.5, 7), gap(opener, 2, 1)}
	got, err := parseRecord([]byte(strings.Join(lines, "\n") + "\n" + `{"time":"2026-`))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
	if _, err := parseRecord([]byte("panic: oh\n")); err == nil {
		t.Error("a line that is no event was accepted")
	}
	if got, err := parseRecord(nil); err != nil || got != nil {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

func TestClientsSitWhereTheScenarioWantsThem(t *testing.T) {
	storage := []string{"n1", "n2", "n3"}
	for name, test := range map[string]struct {
		where  placement
		server string
		taken  []string
		want   []seat
	}{
		"beside, nobody there yet":     {besideServer, "n1", nil, []seat{{node: "n4"}, {node: "n2"}}},
		"beside, one is there":         {besideServer, "n1", []string{"n4", "n3"}, []seat{{node: "n4"}, {node: "n3"}}},
		"beside, the server has one":   {besideServer, "n2", []string{"n4", "n2"}, []seat{{node: "n4"}, {node: "n1"}}},
		"beside and on the server":     {besideAndDoomed, "n1", []string{"n2"}, []seat{{node: "n4"}, {node: "n2"}, {node: "n1", doomed: true}}},
		"on the server, one is beside": {withServer, "n3", []string{"n2"}, []seat{{node: "n4"}, {node: "n3"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := choose(test.where, test.server, "n4", storage, test.taken); !slices.Equal(got, test.want) {
				t.Errorf("the seats are %v, want %v", got, test.want)
			}
		})
	}
}

// The texts are those of ci/lab/drbd and ci/lab/linstor.
func TestDoublePrimariesAreToldFromOtherViolations(t *testing.T) {
	for violation, want := range map[string]bool{
		"pvc-1: n1 and n2 are Primary and connected":                                                         true,
		"pvc-1: n1 and n2 can both write to volume 0: split brain":                                           true,
		"pvc-1: n2 was promoted by force against quorum or newer data: split brain":                          true,
		"pvc-1: n2 became Primary on old data of volume 0; the real one would have lost acknowledged writes": false,
		"linstor-csi sent GET /v1/nodes/n1/backups, which the stand-in does not know":                        false,
	} {
		if isDoublePrimary(violation) != want {
			t.Errorf("%q: double Primary is %v", violation, !want)
		}
	}
}

func TestPartsComeFromWhatStartsTookSinceTheFault(t *testing.T) {
	page := func(sums map[string]float64) []byte {
		text := "# HELP linstor_rwx_export_start_seconds Duration\nlinstor_rwx_exports{phase=\"Serving\"} 1\n"
		for name, sum := range sums {
			text += fmt.Sprintf("linstor_rwx_export_start_seconds_sum{part=%q} %g\nlinstor_rwx_export_start_seconds_count{part=%q} 3\n", name, sum, name)
		}
		return []byte(text)
	}
	before := metrics{
		"n1": stepSums(page(map[string]float64{"probe": 4, "volumes": 2, "total": 9})),
		"n2": stepSums(page(map[string]float64{"probe": 1})),
	}
	now := metrics{
		"n1": stepSums(page(map[string]float64{"probe": 4, "volumes": 2, "total": 9})),         // nothing happened
		"n2": stepSums(page(map[string]float64{"probe": 0.5, "device": 0.25, "volumes": 0.5})), // a new supervisor
		"n3": stepSums(page(map[string]float64{"launch": 0.125})),
	}
	want := map[string]float64{Probe: 0.5, Mount: 0.75, Start: 0.125}
	if got := now.since(before); !reflect.DeepEqual(got, want) {
		t.Errorf("the parts are %v, want %v", got, want)
	}
}

func TestReconnectIsWhatIsLeftOfTheStall(t *testing.T) {
	parts := map[string]float64{Detect: 1, Promote: 0.5, Probe: 0.25, Grace: 4}
	if got := remainder(2, parts); got != 0.25 {
		t.Errorf("reconnect took %g", got)
	}
	if got := remainder(1, parts); got != 0 {
		t.Errorf("reconnect took %g, but cannot be negative", got)
	}
}
