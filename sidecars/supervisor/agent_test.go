package supervisor

import (
	"context"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
)

func TestSupervisorThatEndsLeavesItsServersRunning(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		m.agent.Run(ctx)
		close(ended)
	}()
	eventually(t, "the export is served", func() bool { return w.export().Status.Phase == v1alpha1.PhaseServing })
	cancel()
	<-ended
	mustServe(t, w, "n1")
	if len(m.signals) != 0 || m.did("secondary")+m.did("unmount data")+m.did("delete endpoint") != 0 {
		t.Errorf("the end of the supervisor disturbed the server: %v", m.journal)
	}
}

func TestChangeOfAResourceWakesItsExport(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	m.quorum = false
	go m.agent.Run(m.ctx)
	defer m.kill()
	eventually(t, "it was looked at", func() bool { w.lock.Lock(); defer w.lock.Unlock(); return m.agent.work.Len() == 0 })
	w.lock.Lock()
	m.quorum = true
	w.lock.Unlock()
	m.agent.TriggerResource(testExport) // as DRBD's event does
	eventually(t, "the export is served", func() bool { return w.export().Status.Phase == v1alpha1.PhaseServing })
}

// Nodes see a volume differently: one has no replica, one has an old one. They
// must not write their views in turns.
func TestIdleExportIsDescribedOnce(t *testing.T) {
	w := newWorld(t, "n1", "n2", "n3")
	w.attached[testExport] = false
	w.machine("n1").disk = drbd.DiskDiskless
	w.machine("n3").disk = drbd.DiskOutdated
	for range 60 {
		w.advance(2 * time.Second)
		for _, m := range w.machines {
			m.settle()
		}
	}
	if status := w.export().Status; status.Phase != v1alpha1.PhaseIdle {
		t.Errorf("the export is %s: %s", status.Phase, status.Message)
	}
	if w.writes > 2 {
		t.Errorf("its status was written %d times", w.writes)
	}
}

func TestNodesThatDisagreeDoNotRace(t *testing.T) {
	w := newWorld(t, "n1", "n2")
	for _, m := range w.machines {
		m.online = false
	}
	w.machine("n1").quorum = false
	w.machine("n2").disk = drbd.DiskInconsistent
	for range 60 {
		w.advance(time.Second)
		for _, m := range w.machines {
			m.settle()
		}
	}
	if w.writes > 6 {
		t.Errorf("its status was written %d times in a minute", w.writes)
	}
	if status := w.export().Status; status.Node != "" || status.Phase == v1alpha1.PhaseServing {
		t.Errorf("the export is %s on %q", status.Phase, status.Node)
	}
}
