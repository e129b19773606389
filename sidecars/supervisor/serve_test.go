package supervisor

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

// served is a world in which node n1 serves the export.
func served(t *testing.T, nodes ...string) (*world, *machine) {
	t.Helper()
	w := newWorld(t, append([]string{"n1"}, nodes...)...)
	w.attached[testExport] = true
	w.change(func(export *v1alpha1.NFSExport) { export.Status.Node = "n1" }) // n1 goes first
	m := w.machine("n1")
	m.settle()
	mustServe(t, w, "n1")
	m.journal = nil
	m.events()
	return w, m
}

func TestAdoptsRunningGaneshaWithoutTouchingIt(t *testing.T) {
	w, m := served(t)
	before, writes := *m.processes[testExport], w.writes
	m.restartSupervisor()
	m.settle()
	mustServe(t, w, "n1")
	if len(m.journal) != 0 || len(m.signals) != 0 || w.writes != writes {
		t.Errorf("adoption changed something: %v, signals %v", m.journal, m.signals)
	}
	if after := m.processes[testExport]; after.PID != before.PID || m.processStarts != 1 {
		t.Errorf("ganesha was started anew")
	}
	if m.agent.remember(testExport).currentServer() == nil {
		t.Errorf("the server is not watched")
	}
}

func TestAdoptedServerIsPublishedOnlyWhenItAnswers(t *testing.T) {
	w, m := served(t)
	delete(w.slices, testExport) // its supervisor died before it got there
	m.hung = true
	m.restartSupervisor()
	m.settle()
	if w.endpoint() != "" {
		t.Errorf("clients are sent to a server that never answered")
	}
	m.hung = false
	m.observe()
	m.settle()
	mustServe(t, w, "n1")
}

func TestAdoptedServerThatNobodyNeedsIdlesBeforeItStops(t *testing.T) {
	w, m := served(t)
	w.attached[testExport] = false
	m.restartSupervisor()
	m.settle()
	if len(w.serving()) != 1 || len(m.signals) != 0 {
		t.Fatalf("stopped without its idle time: %v", m.journal)
	}
	w.advance(m.agent.settings.IdleTimeout)
	m.settle()
	mustBeFree(t, w, "n1")
}

func TestMountsThatSurvivedThePodAreTakenOver(t *testing.T) {
	w, m := served(t)
	old := w.endpoint()
	m.restartPod()
	m.settle()
	mustServe(t, w, "n1")
	if m.did("mount data") != 0 || m.did("check /dev/drbd1000") != 0 {
		t.Errorf("what is mounted was checked or mounted again: %v", m.journal)
	}
	if w.endpoint() == old {
		t.Errorf("clients are still sent to the old pod")
	}
	if epoch := w.export().Status.BootEpoch; epoch != 2 {
		t.Errorf("boot epoch is %d, want 2", epoch)
	}
}

func TestDeadGaneshaIsRestartedInPlaceOnTheSamePort(t *testing.T) {
	w, m := served(t)
	endpoint := w.endpoint()
	m.processes[testExport].Running = false
	m.settle()
	mustServe(t, w, "n1")
	if w.endpoint() != endpoint || m.did("delete endpoint")+m.did("create endpoint")+m.did("update endpoint") != 0 {
		t.Errorf("the endpoint was touched: %v", m.journal)
	}
	if m.did("secondary")+m.did("primary")+m.did("unmount data") != 0 {
		t.Errorf("a restart in place let go of the volume: %v", m.journal)
	}
	if w.export().Status.LastFailover != nil {
		t.Errorf("a restart in place is no fail-over")
	}
}

func TestHungGaneshaIsKilledAfterThreeProbes(t *testing.T) {
	w, m := served(t)
	m.hung = true
	for probe := 1; probe <= 3; probe++ {
		if len(m.signals) != 0 {
			t.Fatalf("killed after %d failed probes", probe-1)
		}
		m.observe()
		if probe < 3 {
			m.settle()
		}
	}
	if phase := w.export().Status.Phase; phase != v1alpha1.PhaseDegraded {
		t.Errorf("phase is %s while the server does not answer", phase)
	}
	m.hung = false
	m.settle()
	if !slices.Equal(m.signals, []string{"kill ganesha"}) {
		t.Errorf("signals: %v, want one kill", m.signals)
	}
	mustServe(t, w, "n1")
}

func TestOneFailedProbeIsForgiven(t *testing.T) {
	w, m := served(t)
	m.hung = true
	m.observe()
	m.observe()
	m.hung = false
	m.observe()
	m.hung = true
	m.observe()
	m.settle()
	if len(m.signals) != 0 {
		t.Errorf("killed although the probes did not fail in a row")
	}
	m.hung = false
	m.observe()
	m.settle()
	mustServe(t, w, "n1")
}

func TestServerThatKeepsDyingIsLeftToOthers(t *testing.T) {
	w, m := served(t, "n2")
	for range restartLimit {
		m.processes[testExport].Running = false
		m.settle()
	}
	m.processes[testExport].Running = false
	m.settle()
	mustBeFree(t, w, "n1")
	w.machine("n2").settle()
	w.advance(2 * turnStagger)
	w.machine("n2").settle()
	mustServe(t, w, "n2")
}

func TestGraceIsShownAndEnds(t *testing.T) {
	w, m := served(t)
	w.disks[1001].grace = ganesha.Grace{Active: true, Expected: 2, Reclaimed: 1}
	m.observe()
	m.settle()
	status := w.export().Status
	if status.Phase != v1alpha1.PhaseGrace || status.Grace == nil || status.Grace.Expected != 2 || status.Grace.Reclaimed != 1 || status.Grace.Until == nil {
		t.Errorf("status during grace: %+v", status)
	}
	w.disks[1001].grace = ganesha.Grace{}
	m.observe()
	m.settle()
	mustServe(t, w, "n1")
	if w.export().Status.Grace != nil {
		t.Errorf("grace is still shown")
	}
}

func TestClientCountIsWrittenButNotTooOften(t *testing.T) {
	w, m := served(t)
	w.advance(statusInterval)
	writes := w.writes
	for _, client := range []string{"a", "b", "c", "d"} {
		w.disks[1001].records = append(w.disks[1001].records, client)
		m.observe()
		m.settle()
	}
	if w.writes != writes+1 {
		t.Errorf("%d writes for four clients within a moment, want 1", w.writes-writes)
	}
	w.advance(statusInterval)
	m.settle()
	if clients := w.export().Status.Clients; clients != 4 {
		t.Errorf("status shows %d clients, want 4", clients)
	}
}

func TestServedExportIsGrownOnline(t *testing.T) {
	w, m := served(t)
	w.disks[1000].bytes = 3 * gib
	w.change(func(export *v1alpha1.NFSExport) { export.Generation = 2; export.Spec.Size.Set(3 * gib) })
	m.settle()
	mustServe(t, w, "n1")
	status := w.export().Status
	if status.Size.Value() != 3*gib || status.DeviceBytes != 3*gib || status.ObservedGeneration != 2 {
		t.Errorf("status after the growth: %+v", status)
	}
	if len(m.signals) != 0 {
		t.Errorf("ganesha was disturbed: %v", m.signals)
	}
}

func TestSizeIsNeverAheadOfTheDevice(t *testing.T) {
	w, m := served(t)
	w.change(func(export *v1alpha1.NFSExport) { export.Generation = 2; export.Spec.Size.Set(3 * gib) })
	m.settle()
	status := w.export().Status
	if status.Size.Value() != gib || !meta.IsStatusConditionFalse(status.Conditions, v1alpha1.ConditionGrown) {
		t.Errorf("status claims %v although the volume has not grown", status.Size)
	}
}

func TestIdleExportIsGrownAndReleased(t *testing.T) {
	w, m := served(t)
	w.attached[testExport] = false
	m.settle()
	w.advance(m.agent.settings.IdleTimeout)
	m.settle()
	mustBeFree(t, w, "n1")
	starts := m.processStarts

	w.disks[1000].bytes = 3 * gib
	m.settle()
	mustBeFree(t, w, "n1")
	status := w.export().Status
	if w.disks[1000].fsBytes != 3*gib || status.Size.Value() != 3*gib || status.Phase != v1alpha1.PhaseIdle {
		t.Errorf("filesystem has %d bytes, status %+v", w.disks[1000].fsBytes, status)
	}
	if m.processStarts != starts {
		t.Errorf("ganesha was started to grow an idle export")
	}
}

func TestDeletedEndpointSliceIsRestored(t *testing.T) {
	w, m := served(t)
	delete(w.slices, testExport)
	m.settle()
	mustServe(t, w, "n1")
}

func TestLauncherThatComesBackGetsItsServerBack(t *testing.T) {
	w, m := served(t)
	m.launcherDown = true
	m.processes = map[string]*ganesha.ProcessState{} // they die with their PID 1
	m.settle()
	if !m.primary || len(m.mounts) != 2 {
		t.Fatalf("let go at once although kubelet starts the container again: %v", m.journal)
	}
	m.launcherDown = false
	m.settle()
	mustServe(t, w, "n1")
}

func TestLauncherThatStaysAwayLeavesTheExportToOthers(t *testing.T) {
	w, m := served(t, "n2")
	m.launcherDown = true
	m.processes = map[string]*ganesha.ProcessState{}
	m.settle()
	w.advance(launcherPatience)
	m.settle()
	mustBeFree(t, w, "n1")
	w.machine("n2").settle()
	w.advance(2 * turnStagger)
	w.machine("n2").settle()
	mustServe(t, w, "n2")
}

func TestEventsGoToTheClaimToo(t *testing.T) {
	_, m := served(t)
	m.processes[testExport].Running = false
	m.settle()
	events := m.events()
	if len(events) != 4 || !strings.Contains(events[1], "ReadWriteMany export pvc-1: ganesha ended") {
		t.Errorf("events: %q", events)
	}
}
