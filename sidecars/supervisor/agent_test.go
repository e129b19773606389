package supervisor

import (
	"context"
	"testing"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
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
