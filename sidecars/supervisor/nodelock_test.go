package supervisor

import (
	"context"
	"testing"
	"time"
)

type awaited struct{ released bool }

func (*awaited) Acquire(context.Context) error { return nil }
func (*awaited) InLine() bool                  { return true }
func (l *awaited) Release()                    { l.released = true }
func (*awaited) Awaited() bool                 { return true }

// While a rollout replaces the pod, the export moves once: into the new pod of the
// same node, and its volume stays mounted and Primary all the time.
func TestReplacedPodLeavesTheVolumesToTheNextOne(t *testing.T) {
	w, m := served(t, "n2")
	lock := &awaited{}
	old := m.agent
	old.nodeLock = lock
	old.leaving.Store(true)
	m.settle()
	w.machine("n2").settle()
	if len(w.serving()) != 0 || !m.primary || len(m.mounts) != 2 {
		t.Fatalf("served by %v, Primary %v, mounts %v", w.serving(), m.primary, m.mounts)
	}
	mustWait(t, w, "n1")
	old.stepBack(m.ctx)
	if !lock.released {
		t.Error("the next supervisor is not let in")
	}
	m.settle()
	if m.did("start ganesha")+m.did("unmount data")+m.did("secondary") != 0 {
		t.Errorf("a supervisor that stepped back acts: %v", m.journal)
	}

	m.restartPod()
	m.settle()
	mustServe(t, w, "n1")
	if m.did("check /dev/drbd1000")+m.did("mount data")+m.did("primary") != 0 {
		t.Errorf("what was ready was made again: %v", m.journal)
	}
	if status := w.export().Status; status.LastFailover != nil || status.Node != "n1" {
		t.Errorf("it did not leave its node, but status is %+v", status)
	}

	w.advance(proxyDelay)
	if _, err := old.reconcile(m.ctx, testExport); err != nil {
		t.Error(err)
	}
	w.advance(proxyDelay)
	if _, err := old.reconcile(m.ctx, testExport); err != nil {
		t.Error(err)
	}
	if old.busy() {
		t.Error("the old pod does not end")
	}
	mustServe(t, w, "n1")
}

func TestPassiveSupervisorTouchesNothing(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	m.agent.active.Store(false)
	m.settle()
	if len(m.journal) != 0 {
		t.Errorf("it did %v", m.journal)
	}
	if m.agent.State().Node != "" {
		t.Error("it speaks for the node")
	}
}

func TestOneSupervisorOfANodeActsAndTheNextIsKnownToWait(t *testing.T) {
	directory := t.TempDir()
	first, second, third := NewFileLock(directory), NewFileLock(directory), NewFileLock(directory)
	if first.Awaited() {
		t.Error("nobody waits yet")
	}
	if err := first.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if first.Awaited() {
		t.Error("who has the lock does not wait for it")
	}
	active := make(chan string, 2)
	wait := func(name string, lock *FileLock) {
		if lock.Acquire(t.Context()) == nil {
			active <- name
		}
	}
	go wait("second", second)
	eventually(t, "the second waits", first.Awaited)
	eventually(t, "the second knows that", second.InLine)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := third.Acquire(ctx); err == nil {
		t.Error("a third overtook the second")
	}
	if third.InLine() {
		t.Error("the third believes that it is next")
	}
	if len(active) != 0 {
		t.Fatal("two act at the same time")
	}
	first.Release()
	if name := <-active; name != "second" {
		t.Errorf("%s acts", name)
	}
	if second.Awaited() {
		t.Error("nobody waits any more")
	}
	second.Release()
}

// The supervisor of a pod that is being replaced may die: the next one then acts
// while the old pod's ganesha still serves.
func TestServerOfAnotherPodOfTheNodeIsNotJoined(t *testing.T) {
	w, m := served(t)
	m.restartPod()
	m.beside = true
	m.settle()
	if len(m.journal) != 0 {
		t.Fatalf("it did %v", m.journal)
	}
	m.beside = false
	m.settle()
	mustServe(t, w, "n1")
}
