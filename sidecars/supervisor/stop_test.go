package supervisor

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

func TestIdleStopAfterLastDetach(t *testing.T) {
	w, m := served(t)
	w.attached[testExport] = false
	m.settle()
	w.advance(m.agent.settings.IdleTimeout / 2)
	m.settle()
	if len(w.serving()) != 1 {
		t.Fatalf("stopped before the idle time was over")
	}
	w.advance(m.agent.settings.IdleTimeout / 2)
	m.settle()
	mustBeFree(t, w, "n1")
	if !slices.Equal(m.signals, []string{"terminate ganesha"}) || m.did("force secondary") != 0 {
		t.Errorf("an idle stop is a gentle one: %v", m.journal)
	}
	status := w.export().Status
	if status.Phase != v1alpha1.PhaseIdle || status.Node != "" || status.Endpoint != "" || !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("status of an idle export: %+v", status)
	}

	w.attached[testExport] = true
	m.journal = nil
	m.settle()
	mustServe(t, w, "n1")
	if w.export().Status.LastFailover != nil {
		t.Errorf("the next attach is no fail-over")
	}
}

func TestAttachWithinTheIdleTimeKeepsTheServer(t *testing.T) {
	w, m := served(t)
	w.attached[testExport] = false
	m.settle()
	w.advance(m.agent.settings.IdleTimeout - 1e9)
	w.attached[testExport] = true
	m.settle()
	w.attached[testExport] = false
	m.settle()
	w.advance(m.agent.settings.IdleTimeout - 1e9)
	m.settle()
	mustServe(t, w, "n1")
	if len(m.signals) != 0 {
		t.Errorf("signals: %v", m.signals)
	}
}

func TestPolicyAlwaysServesWithoutAttachment(t *testing.T) {
	w := newWorld(t, "n1")
	w.change(func(export *v1alpha1.NFSExport) { export.Spec.Policy = v1alpha1.Always })
	m := w.machine("n1")
	m.settle()
	mustServe(t, w, "n1")
	w.advance(10 * m.agent.settings.IdleTimeout)
	m.settle()
	mustServe(t, w, "n1")
}

func TestQuorumLossStopsServingBeforeAnythingElse(t *testing.T) {
	w, m := served(t)
	m.quorum = false
	m.settle()
	mustBeFree(t, w, "n1")
	if len(m.journal) == 0 || m.journal[0] != "kill ganesha" {
		t.Errorf("the first thing was not the kill: %v", m.journal)
	}
	status := w.export().Status
	if status.Phase != v1alpha1.PhaseFailed || !meta.IsStatusConditionFalse(status.Conditions, v1alpha1.ConditionQuorum) || status.Node != "" {
		t.Errorf("status after the loss of quorum: %+v", status)
	}
	if events := m.events(); !strings.HasPrefix(events[0], "Warning Stopped") {
		t.Errorf("events: %q", events)
	}

	m.quorum = true
	m.settle()
	mustServe(t, w, "n1")
}

func TestServerThatHangsInSuspendedIOIsDemotedByForce(t *testing.T) {
	w, m := served(t)
	m.quorum, m.suspended = false, true
	m.settle()
	mustBeFree(t, w, "n1")
	if m.did("force secondary") == 0 || m.did("secondary") != 0 {
		t.Errorf("a suspended volume was not demoted by force: %v", m.journal)
	}
	m.quorum = true
	m.settle()
	mustServe(t, w, "n1")
}

func TestForcedDemotionIsFollowedByANewPromotion(t *testing.T) {
	w, m := served(t)
	m.primary, m.forced = false, true // as piraeus-ha-controller does
	m.settle()
	m.settle()
	mustServe(t, w, "n1")
	if m.promotions != 2 || m.journal[0] != "kill ganesha" {
		t.Errorf("%d promotions; %v", m.promotions, m.journal)
	}
}

func TestReadOnlyFilesystemStopsTheServer(t *testing.T) {
	w, m := served(t)
	m.readOnly = true
	m.agent.reconcile(m.ctx, testExport) //nolint:errcheck // what it did is looked at
	mustBeFree(t, w, "n1")
}

func TestSnapshotDoesNotStopServing(t *testing.T) {
	w, m := served(t)
	m.userSuspended = true
	m.settle()
	mustServe(t, w, "n1")
	if len(m.journal) != 0 {
		t.Errorf("a snapshot disturbed the server: %v", m.journal)
	}
}

// However long it takes: what fails while I/O is suspended says nothing about the
// server, neither then nor right after.
func TestLongSnapshotDoesNotEndAServerThatWaitsForIt(t *testing.T) {
	w, m := served(t)
	m.userSuspended, m.hung = true, true
	m.settle()
	for range m.agent.settings.ProbeFailures + 1 {
		m.observe()
		m.settle()
	}
	m.observe() // and nobody looks before I/O goes on
	m.observe()
	m.observe()
	m.userSuspended, m.hung = false, false
	m.settle()
	m.observe()
	m.settle()
	mustServe(t, w, "n1")
	if len(m.signals) != 0 {
		t.Errorf("a snapshot ended the server: %v", m.journal)
	}

	// Afterwards the same is a hang again.
	m.hung = true
	for range m.agent.settings.ProbeFailures {
		m.observe()
	}
	m.settle()
	if !slices.Contains(m.signals, "kill ganesha") {
		t.Errorf("a server that hangs is left alone: %v", m.signals)
	}
}

// A process in the kernel survives SIGKILL; while it lives, nobody else may have
// the volume.
func TestServerThatCannotBeKilledLosesItsVolume(t *testing.T) {
	w, m := served(t)
	m.hung, m.unkillable = true, true
	m.agent.settings.StopTimeout = time.Millisecond
	for range m.agent.settings.ProbeFailures {
		m.observe()
	}
	if _, err := m.agent.reconcile(m.ctx, testExport); err != nil {
		t.Error(err)
	}
	mustBeFree(t, w, "n1")
	if m.did("force secondary") != 1 {
		t.Errorf("it did %v", m.journal)
	}
}

func TestProbeNoticesAFilesystemThatBecameReadOnly(t *testing.T) {
	_, m := served(t)
	m.readOnly = true // DRBD tells of nothing
	m.observe()
	if m.agent.work.Len() == 0 {
		t.Fatal("nobody looks at the export")
	}
	m.agent.reconcile(m.ctx, testExport) //nolint:errcheck // what it did is looked at
	if m.did("kill ganesha") == 0 {
		t.Errorf("it did %v", m.journal)
	}
}

func TestFencingDoesNotNeedTheAPIServer(t *testing.T) {
	w, m := served(t)
	m.apiDown, m.quorum = true, false
	m.settle()
	if len(w.serving()) != 0 || m.primary || len(m.mounts) != 0 {
		t.Fatalf("not fenced: %v", m.journal)
	}
	m.apiDown = false
	m.settle()
	mustBeFree(t, w, "n1")
	if status := w.export().Status; status.Node != "" {
		t.Errorf("status still names the fenced node")
	}
}

func TestLeftoversOfNobodyAreCleanedUp(t *testing.T) {
	w, m := served(t)
	m.processes = map[string]*ganesha.ProcessState{}
	w.attached[testExport] = false
	m.restartPod()
	m.settle()
	mustBeFree(t, w, "n1")

	// Primary with nothing open, as left by a supervisor that died in between.
	m.primary = true
	m.settle()
	if !m.primary {
		t.Errorf("demoted at once: a LINSTOR satellite may be making a filesystem")
	}
	w.advance(strayAfter)
	m.settle()
	mustBeFree(t, w, "n1")
}

func TestServerWithoutItsExportObjectIsStopped(t *testing.T) {
	w, m := served(t)
	w.lock.Lock()
	delete(w.exports, testExport)
	w.lock.Unlock()
	m.settle()
	mustBeFree(t, w, "n1")
	if m.agent.remember(testExport).currentServer() != nil {
		t.Errorf("it is still remembered")
	}
}

func TestForeignPrimaryWithoutExportIsLeftAlone(t *testing.T) {
	w := newWorld(t, "n1")
	delete(w.exports, testExport)
	m := w.machine("n1")
	m.primary = true // a ReadWriteOnce volume in use
	m.settle()
	w.advance(strayAfter)
	m.settle()
	if !m.primary || len(m.journal) != 0 {
		t.Errorf("touched a volume that is not ours: %v", m.journal)
	}
}

func TestStopConvergesAfterACrashAtEachStep(t *testing.T) {
	for _, fenced := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			for step := 1; ; step++ {
				if step > 40 {
					t.Fatal("a stop has no end")
				}
				w, m := served(t)
				m.calls, m.crashAt, m.crashAfter = 0, step, after
				stop := func() {
					if fenced {
						m.quorum = false
						m.settle()
						return
					}
					w.attached[testExport] = false
					m.settle()
					w.advance(m.agent.settings.IdleTimeout)
					m.settle()
				}
				stop()
				if m.ctx.Err() == nil {
					break
				}
				t.Run(fmt.Sprintf("fenced=%v/%d after=%v %s", fenced, step, after, m.journal[len(m.journal)-1]), func(t *testing.T) {
					w.t = t
					m.restartSupervisor()
					stop()
					w.advance(strayAfter)
					m.settle()
					mustBeFree(t, w, "n1")
					if status := w.export().Status; status.Node != "" || status.Endpoint != "" {
						t.Errorf("status still names a server: %+v", status)
					}
				})
			}
		}
	}
}
