package supervisor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

func (w *world) withdrawn() bool {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.exports[testExport] == nil
}

func TestDeletedExportIsWithdrawnByItsServer(t *testing.T) {
	w, m := served(t, "n2")
	w.delete()
	w.machine("n2").settle()
	if w.withdrawn() {
		t.Fatal("withdrawn while it is served")
	}
	m.settle()
	if !w.withdrawn() {
		t.Fatalf("not withdrawn at once: %v", m.journal)
	}
	mustBeFree(t, w, "n1")
}

func TestDeletedIdleExportIsWithdrawn(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.machine("n1").settle()
	w.delete()
	w.machine("n1").settle()
	if !w.withdrawn() {
		t.Errorf("not withdrawn by the first in the row")
	}
}

func TestWithdrawalGoesOnWhenTheFirstInTheRowIsAway(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	w.delete()
	n2 := w.machine("n2") // n1's supervisor is not running
	n2.settle()
	if w.withdrawn() {
		t.Fatal("the second did not leave it to the first")
	}
	w.advance(writerStagger)
	n2.settle()
	if !w.withdrawn() {
		t.Error("the second never took its turn")
	}
}

func TestWithdrawWaitsForUnreachableServer(t *testing.T) {
	w, n1 := served(t, "n2")
	n1.online = false // alive, but nobody sees it
	w.attached[testExport] = false
	w.delete()
	n2 := w.machine("n2")
	n2.settle()
	w.advance(10 * time.Minute)
	n2.settle()
	if w.withdrawn() {
		t.Fatal("withdrawn although the last server may still serve")
	}
	status := w.export().Status
	if status.Phase != v1alpha1.PhaseTerminating || !strings.Contains(status.Message, "node n1") {
		t.Errorf("status does not say what it waits for: %s %q", status.Phase, status.Message)
	}
	if events := n2.events(); len(events) != 2 || !strings.HasPrefix(events[0], "Warning WithdrawWaits") {
		t.Errorf("events: %q, want one each on the export and the claim", events)
	}

	n1.online = true
	n1.settle()
	n2.settle()
	if !w.withdrawn() {
		t.Errorf("not withdrawn after the server came back: %v", n1.journal)
	}
	mustBeFree(t, w, "n1")
}

func TestWithdrawalDoesNotWaitForANodeThatLeftTheCluster(t *testing.T) {
	w, n1 := served(t, "n2")
	n1.online = false
	n1.processes, n1.mounts, n1.primary = nil, nil, false
	w.gone["n1"] = true
	w.delete()
	w.machine("n2").settle()
	w.advance(writerStagger)
	w.machine("n2").settle()
	if !w.withdrawn() {
		t.Errorf("still waiting: %+v", w.export().Status)
	}
}

func TestExportWithoutAnyVolumeIsWithdrawn(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	for _, m := range w.machines {
		m.deployed = false // provisioning failed
	}
	w.change(func(export *v1alpha1.NFSExport) {
		export.Spec.ExportID, export.Spec.FSID, export.Spec.Service, export.Spec.ResourceDefinition.UUID = 0, "", nil, ""
	})
	w.delete()
	w.machine("n1").settle()
	if w.withdrawn() {
		t.Fatal("a node without the volume did not leave it to others")
	}
	w.advance(strangerDelay + 5*time.Second)
	w.machine("n1").settle()
	if !w.withdrawn() {
		t.Error("it is stuck for ever")
	}
}

func TestNodeWithoutTheVolumeDoesNotOverruleTheWait(t *testing.T) {
	w, n1 := served(t, "n2")
	n1.online = false
	w.machine("n2").deployed = false
	w.delete()
	w.advance(time.Hour)
	w.machine("n2").settle()
	if w.withdrawn() {
		t.Error("withdrawn by a node that cannot know")
	}
}

func TestDeletedExportIsNeverStarted(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	w.delete()
	m := w.machine("n1")
	m.settle()
	if m.promotions != 0 || m.processStarts != 0 {
		t.Errorf("started: %v", m.journal)
	}
}

func TestWithdrawalWaitsForTheAPIServer(t *testing.T) {
	w, m := served(t)
	w.delete()
	m.apiDown = true
	m.settle()
	if len(w.serving()) != 0 || m.primary {
		t.Errorf("still served")
	}
	m.apiDown = false
	m.settle()
	if !w.withdrawn() {
		t.Errorf("not withdrawn: %v", m.journal)
	}
}

func TestWithdrawalConvergesAfterACrashAtEachStep(t *testing.T) {
	for _, after := range []bool{false, true} {
		for step := 1; ; step++ {
			if step > 40 {
				t.Fatal("a withdrawal has no end")
			}
			w, m := served(t)
			m.calls, m.crashAt, m.crashAfter = 0, step, after
			w.delete()
			m.settle()
			if m.ctx.Err() == nil {
				break
			}
			t.Run(fmt.Sprintf("%d after=%v %s", step, after, m.journal[len(m.journal)-1]), func(t *testing.T) {
				w.t = t
				m.restartSupervisor()
				m.settle()
				w.advance(strayAfter)
				m.settle()
				if !w.withdrawn() {
					t.Errorf("not withdrawn: %v", m.journal)
				}
				mustBeFree(t, w, "n1")
			})
		}
	}
}
