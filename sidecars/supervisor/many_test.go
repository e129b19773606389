package supervisor

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// settleAll lets all supervisors that run work, in a random order.
func (w *world) settleAll(seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	for range 3 {
		for _, i := range random.Perm(len(w.machines)) {
			w.machines[i].settle()
		}
	}
}

func TestTwoSupervisorsNeverBothServe(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, "n1", "n2", "n3")
		w.attached[testExport] = true
		w.advance(time.Hour)
		w.settleAll(seed)
		if len(w.serving()) != 1 {
			w.advance(3 * turnStagger)
			w.settleAll(seed)
		}
		if got := w.serving(); len(got) != 1 {
			t.Fatalf("served by %v", got)
		}
		mustServe(t, w, w.serving()[0])
	}
}

func TestLoserOfAPromotionBacksOffQuietly(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.attached[testExport] = true
	n1, n2 := w.machine("n1"), w.machine("n2")
	// n2 gathers its facts before n1 is Primary, and acts after.
	facts, err := n2.agent.gather(n2.ctx, testExport)
	if err != nil {
		t.Fatal(err)
	}
	w.change(func(export *v1alpha1.NFSExport) { export.Status.Node = "n1" })
	n1.settle()
	mustServe(t, w, "n1")
	if _, err := n2.agent.startServer(n2.ctx, facts); err != nil {
		t.Errorf("losing is no error: %v", err)
	}
	n2.settle()
	mustServe(t, w, "n1")
	if events := n2.events(); len(events) != 0 {
		t.Errorf("the loser complained: %q", events)
	}
	if n2.did("force secondary")+n2.did("delete endpoint") != 0 {
		t.Errorf("the loser disturbed the winner: %v", n2.journal)
	}
}

func TestExportMovesWhenItsServerIsCutOff(t *testing.T) {
	w, n1 := served(t, "n2", "n3")
	w.disks[1001].records = []string{"10.0.0.9-(20:0xabc)"}
	n1.online, n1.quorum, n1.apiDown = false, false, true // alive, but isolated
	w.machine("n2").settle()
	w.machine("n3").settle()
	w.advance(2 * turnStagger)
	w.machine("n2").settle()
	w.machine("n3").settle()
	n1.settle() // it learns of its loss of quorum later than they

	serving := w.serving()
	if len(serving) != 1 || serving[0] == "n1" {
		t.Fatalf("served by %v", serving)
	}
	mustServe(t, w, serving[0])
	if len(w.disks[1001].records) != 1 || w.disks[1001].wiped != 0 {
		t.Errorf("the clients' records did not survive")
	}
	failover := w.export().Status.LastFailover
	if failover == nil || failover.From != "n1" || failover.To != serving[0] || failover.Parts["promote"] == "" {
		t.Errorf("lastFailover is %+v", failover)
	}

	n1.online, n1.quorum, n1.apiDown = true, true, false
	endpoint := w.endpoint()
	w.settleAll(1)
	mustServe(t, w, serving[0])
	if w.endpoint() != endpoint {
		t.Errorf("the old server took the endpoint away from the new one")
	}
	mustBeFree(t, w, "n1")
}

func TestFencedServerDoesNotSpeakForItsSuccessor(t *testing.T) {
	w, n1 := served(t, "n2")
	n1.online, n1.quorum = false, false
	w.advance(time.Hour)
	w.machine("n2").settle()
	w.machine("n2").settle()
	mustHaveServer(t, w, "n2")
	n1.settle() // only now it notices, and it still has the API server
	mustServe(t, w, "n2")
	if n1.primary || len(n1.mounts) != 0 {
		t.Errorf("n1 still holds the volume: %v", n1.journal)
	}
}

// mustHaveServer fails the test unless node has taken the export over.
func mustHaveServer(t *testing.T, w *world, node string) {
	t.Helper()
	if got := w.export().Status.Node; got != node || !slices.Contains(w.serving(), node) {
		t.Fatalf("status names %q, ganesha runs on %v; want %s", got, w.serving(), node)
	}
}

func TestMinorityRefusesLoudlyButDoesNotSpeakForTheMajority(t *testing.T) {
	w, _ := served(t, "n2", "n3")
	n3 := w.machine("n3")
	n3.online, n3.quorum = false, false // sees the API server, but not its peers
	n3.settle()
	w.advance(time.Minute)
	n3.settle()
	mustServe(t, w, "n1") // nobody has overwritten its status
	if n3.promotions != 0 {
		t.Errorf("promoted without quorum")
	}
}

func TestExportWithoutQuorumIsRefusedLoudly(t *testing.T) {
	w := newWorld(t, "n1", "n2", "n3")
	w.attached[testExport] = true
	n1 := w.machine("n1")
	n1.online, n1.quorum = false, false
	n1.settle()
	w.advance(complainAfter)
	n1.settle()
	status := w.export().Status
	if status.Phase != v1alpha1.PhaseFailed || !meta.IsStatusConditionFalse(status.Conditions, v1alpha1.ConditionQuorum) {
		t.Errorf("status: %+v", status)
	}
	if events := n1.events(); len(events) == 0 || !strings.HasPrefix(events[0], "Warning NoQuorum") {
		t.Errorf("events: %q", events)
	}
	n1.online, n1.quorum = true, true
	n1.settle()
	w.advance(3 * turnStagger)
	n1.settle()
	mustServe(t, w, "n1")
}

func TestIdleStatusIsWrittenByOneSupervisorOnly(t *testing.T) {
	w := newWorld(t, "n1", "n2", "n3")
	for range 5 {
		for _, name := range []string{"n3", "n2", "n1"} {
			w.machine(name).settle()
		}
		w.advance(time.Minute)
	}
	if w.writes != 1 {
		t.Errorf("%d writes for an idle export, want 1", w.writes)
	}
	status := w.export().Status
	if status.Phase != v1alpha1.PhaseIdle || !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("status: %+v", status)
	}
	for _, m := range w.machines {
		if m.promotions != 0 {
			t.Errorf("an idle export was promoted on %s", m.name)
		}
	}
}

func TestExportsSpreadOverTheNodes(t *testing.T) {
	first := map[string]int{}
	for i := range 300 {
		f := Facts{Name: "pvc-" + string(rune('a'+i%26)) + string(rune('a'+i/26)), Node: "n1", Export: newExport()}
		f.Resource = resourceWithPeers("n2", "n3")
		order := []string{"n1", "n2", "n3"}
		slices.SortFunc(order, func(a, b string) int { return int(int64(spread(f.Name, a)) - int64(spread(f.Name, b))) })
		first[order[0]]++
	}
	for _, node := range []string{"n1", "n2", "n3"} {
		if first[node] < 50 {
			t.Errorf("exports do not spread: %v", first)
		}
	}
}

// TestNothingBadInALongRandomLife lets nodes fail and come back at random. The
// fakes fail the test when two nodes use the volume, when data is formatted, when
// a recovery volume is used that is not mounted ...
func TestNothingBadInALongRandomLife(t *testing.T) {
	for seed := range uint64(30) {
		w := newWorld(t, "n1", "n2", "n3")
		random := rand.New(rand.NewPCG(seed, 2))
		isolated := ""
		for range 60 {
			m := w.machines[random.IntN(3)]
			switch random.IntN(9) {
			case 0, 1:
				w.attached[testExport] = !w.attached[testExport]
			case 2:
				m.restartSupervisor()
			case 3:
				m.restartPod()
			case 4:
				if p := m.processes[testExport]; p != nil {
					p.Running = false
				}
			case 5:
				m.apiDown = !m.apiDown
			case 6:
				if m.primary {
					m.primary, m.forced = false, true
				}
			case 7: // at most one is cut off, so that the others keep the quorum
				if isolated == "" {
					isolated = m.name
					m.online, m.quorum = false, false
				} else {
					back := w.machine(isolated)
					if back.primary { // DRBD demotes one of two Primaries that meet: the supervisor was faster
						back.settle()
					}
					back.online, back.quorum, isolated = true, true, ""
				}
			case 8:
				w.advance(time.Duration(random.IntN(40)) * time.Second)
			}
			w.machines[random.IntN(3)].settle()
		}
		for _, m := range w.machines {
			m.online, m.quorum, m.apiDown = true, true, false
		}
		w.attached[testExport] = true
		for range 6 {
			w.settleAll(seed)
			w.advance(20 * time.Second)
		}
		got := w.serving()
		if len(got) != 1 {
			t.Fatalf("seed %d: served by %v in the end: %+v", seed, got, w.export().Status)
		}
		w.machine(got[0]).observe()
		w.settleAll(seed)
		mustServe(t, w, got[0])
		for _, m := range w.machines {
			if m.name != got[0] {
				mustBeFree(t, w, m.name)
			}
		}
		if w.disks[1000].formatted != 0 || w.disks[1001].formatted > 1 {
			t.Fatalf("seed %d: formatted data %d, recovery %d times", seed, w.disks[1000].formatted, w.disks[1001].formatted)
		}
	}
}

// While a cluster heals, each node cannot serve for another detail.
func TestNodesThatCannotServeDoNotWriteInTurns(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.attached[testExport] = true
	w.machine("n1").disk, w.machine("n2").disk = "Consistent", "Outdated"
	for range 20 {
		w.machine("n1").settle()
		w.machine("n2").settle()
		w.advance(time.Second)
	}
	if w.writes > 2 {
		t.Errorf("%d writes for one state", w.writes)
	}
	if status := w.export().Status; status.Phase != v1alpha1.PhaseFailed || meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("status: %+v", status)
	}
}
