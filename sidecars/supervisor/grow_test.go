package supervisor

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// resize is what LINSTOR and then rwx-resizer do.
func (w *world) resize(bytes int64) {
	w.disks[1000].bytes = bytes
	w.change(func(export *v1alpha1.NFSExport) { export.Generation++; export.Spec.Size.Set(bytes) })
}

// mustBeGrown fails the test unless the filesystem has that size, and status says
// so.
func mustBeGrown(t *testing.T, w *world, bytes int64) {
	t.Helper()
	status := w.export().Status
	if w.disks[1000].fsBytes != bytes {
		t.Errorf("the filesystem has %d bytes, want %d", w.disks[1000].fsBytes, bytes)
	}
	if !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionGrown) || status.DeviceBytes != bytes || status.Size == nil || status.Size.Value() != bytes {
		t.Errorf("status after the growth: %+v", status)
	}
}

// mustNotLie fails the test if status says more than the filesystem has.
func mustNotLie(t *testing.T, w *world) {
	t.Helper()
	status := w.export().Status
	has := w.disks[1000].fsBytes
	if status.Size != nil && status.Size.Value() > has {
		t.Errorf("status.size is %s, the filesystem has %d", status.Size, has)
	}
	if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionGrown) && status.DeviceBytes > has {
		t.Errorf("the filesystem is said to fill %d bytes, it has %d", status.DeviceBytes, has)
	}
}

func TestGrowthConvergesAfterACrashAtEachStep(t *testing.T) {
	for _, kind := range []string{"served", "idle"} {
		for _, after := range []bool{false, true} {
			for step := 1; ; step++ {
				if step > 40 {
					t.Fatal("a growth has no end")
				}
				w, m := served(t)
				if kind == "idle" {
					w.attached[testExport] = false
					m.settle()
					w.advance(m.agent.settings.IdleTimeout)
					m.settle()
				}
				w.resize(2 * gib)
				m.calls, m.crashAt, m.crashAfter, m.journal = 0, step, after, nil
				m.settle()
				if m.ctx.Err() == nil {
					break // the whole growth passed
				}
				t.Run(fmt.Sprintf("%s/%d after=%v %s", kind, step, after, m.journal[len(m.journal)-1]), func(t *testing.T) {
					w.t = t
					mustNotLie(t, w)
					m.restartSupervisor()
					m.settle()
					w.advance(strayAfter) // a Primary without mounts might be LINSTOR's
					m.settle()
					mustBeGrown(t, w, 2*gib)
					if kind == "idle" {
						mustBeFree(t, w, "n1")
					} else {
						mustServe(t, w, "n1")
					}
				})
			}
		}
	}
}

func TestGrowthThatAFailOverInterruptsIsFinishedByTheNextServer(t *testing.T) {
	for _, step := range []string{"before the filesystem grew", "before anybody was told"} {
		t.Run(step, func(t *testing.T) {
			w, m := served(t, "n2")
			w.resize(2 * gib)
			m.calls, m.crashAt, m.crashAfter = 0, 1, step == "before anybody was told"
			m.settle()
			if m.ctx.Err() == nil {
				t.Fatalf("nothing was interrupted: %v", m.journal)
			}
			mustNotLie(t, w)
			m.die()
			next := w.machine("n2")
			for range 4 {
				next.settle()
				mustNotLie(t, w)
				w.advance(turnStagger)
			}
			if status := w.export().Status; status.Node != "n2" || status.Phase != v1alpha1.PhaseServing {
				t.Errorf("status is %s on %q; n2 did %v", status.Phase, status.Node, next.journal)
			}
			mustBeGrown(t, w, 2*gib)
		})
	}
}

func TestIdleExportIsGrownByOneNodeOnly(t *testing.T) {
	w := newWorld(t, "n1", "n2", "n3")
	for _, m := range w.machines {
		m.settle()
	}
	w.advance(3 * writerStagger)
	for _, m := range w.machines {
		m.settle()
	}
	w.resize(2 * gib)
	// All of them hear of it, and each leaves its time to the ones before it.
	for range 4 {
		for _, m := range w.machines {
			m.settle()
			mustNotLie(t, w)
		}
		w.advance(turnStagger)
	}
	mustBeGrown(t, w, 2*gib)
	promotions := 0
	for _, m := range w.machines {
		promotions += m.promotions
		mustBeFree(t, w, m.name)
	}
	if promotions != 1 {
		t.Errorf("%d promotions to grow an idle export, want 1", promotions)
	}
}

func TestExportThatNobodyEverOpenedIsGrownToo(t *testing.T) {
	for name, resize := range map[string]func(w *world, m *machine){
		"after its first status": func(w *world, m *machine) {
			m.settle()
			w.resize(2 * gib)
		},
		// By hand in LINSTOR; the claim follows.
		"whose device grew before its first status": func(w *world, m *machine) {
			w.disks[1000].bytes = 2 * gib
			m.settle()
			w.resize(2 * gib)
		},
		// Grown before this was recorded.
		"with a status that says nothing of growth": func(w *world, m *machine) {
			w.resize(2 * gib)
			w.change(func(export *v1alpha1.NFSExport) { export.Status.DeviceBytes = 2 * gib })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			m := w.machine("n1")
			resize(w, m)
			m.settle()
			mustBeGrown(t, w, 2*gib)
			mustBeFree(t, w, "n1")
			if phase := w.export().Status.Phase; phase != v1alpha1.PhaseIdle || m.processStarts != 0 {
				t.Errorf("phase is %s after %d starts of ganesha", phase, m.processStarts)
			}
		})
	}
}

func TestNewExportIsNotOpenedWithoutAReason(t *testing.T) {
	w := newWorld(t, "n1")
	m := w.machine("n1")
	m.settle()
	w.advance(growthInterval)
	m.settle()
	grown := meta.FindStatusCondition(w.export().Status.Conditions, v1alpha1.ConditionGrown)
	if m.promotions != 0 || grown == nil || grown.Status != "Unknown" {
		t.Errorf("%d promotions, condition Grown %+v", m.promotions, grown)
	}
}

func TestGrowthThatFailedWithTheFirstServerIsTriedAgainWhenNobodyServes(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	w.disks[1000].bytes = 2 * gib // restored into a larger claim
	m := w.machine("n1")
	m.growFails = true
	m.settle()
	mustServe(t, w, "n1")
	w.attached[testExport] = false
	m.settle()
	w.advance(m.agent.settings.IdleTimeout)
	m.settle()
	mustNotLie(t, w)
	m.growFails = false
	w.advance(growRetry)
	m.settle()
	mustBeGrown(t, w, 2*gib)
	mustBeFree(t, w, "n1")
}

// LINSTOR answers before all its nodes have grown the volume, and DRBD has no
// event for it.
func TestDeviceThatGrowsLateIsNoticedWithoutAnEvent(t *testing.T) {
	for _, attached := range []bool{true, false} {
		t.Run(fmt.Sprintf("attached %v", attached), func(t *testing.T) {
			w, m := served(t)
			if !attached {
				w.attached[testExport] = false
				m.settle()
				w.advance(m.agent.settings.IdleTimeout)
				m.settle()
			}
			w.change(func(export *v1alpha1.NFSExport) { export.Generation++; export.Spec.Size.Set(2 * gib) })
			m.settle()
			mustNotLie(t, w)
			after, err := m.agent.reconcile(m.ctx, testExport)
			if err != nil || after == 0 || after > growthInterval {
				t.Fatalf("it is looked at again in %s (%v)", after, err)
			}
			w.disks[1000].bytes = 2 * gib
			w.advance(after)
			m.settle()
			mustBeGrown(t, w, 2*gib)
		})
	}
}
