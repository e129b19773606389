package provisioner

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/linbit/linstor-rwx/pkg/names"
)

// provision calls Provision until it succeeds, as the library does. tries is how often
// at the most.
func provision(t *testing.T, w *world, p *Provisioner, claim *corev1.PersistentVolumeClaim, tries int) *corev1.PersistentVolume {
	t.Helper()
	var err error
	for range tries {
		var pv *corev1.PersistentVolume
		pv, _, err = p.Provision(t.Context(), controller.ProvisionOptions{PVC: claim, StorageClass: newClass(nil), PVName: "pvc-" + string(claim.UID)})
		if err == nil {
			return pv
		}
		w.settle()
	}
	t.Fatalf("provision: %v", err)
	return nil
}

// killed runs Provision in a process that dies after n effects, and tells whether it
// lived long enough to finish.
func killed(t *testing.T, w *world, claim *corev1.PersistentVolumeClaim, n int) (finished bool) {
	t.Helper()
	p := w.process()
	w.restart(n)
	_, _, err := p.Provision(t.Context(), controller.ProvisionOptions{PVC: claim, StorageClass: newClass(nil)})
	w.mu.Lock()
	defer w.mu.Unlock()
	return err == nil && !w.dead
}

// effectsOfOneClaim is how many effects a claim has: export, group, definition,
// recovery volume, CreateVolume, identity, service, address.
const effectsOfOneClaim = 8

func TestRetryConvergesAfterKillAtEachStep(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t)
		claim := newClaim("11", corev1.ReadWriteMany)
		w.create(claim)
		finished := killed(t, w, claim, n)
		if finished {
			if n <= effectsOfOneClaim {
				t.Errorf("only %d effects, %d were expected: %v", n-1, effectsOfOneClaim, w.effects)
			}
			return
		}
		step := w.effects[len(w.effects)-1]
		w.restart(0)
		pv := provision(t, w, w.process(), claim, 3)
		if got := pv.Spec.CSI.VolumeAttributes[names.ExportAttribute]; got != "nfs://10.96.0.1:2049/pvc-11" {
			t.Errorf("killed after %q: nfs-export %q", step, got)
		}
		export := w.export("pvc-11")
		state := w.linstor.State("pvc-11")
		if export.Spec.ResourceDefinition.UUID != state.UUID || export.Spec.ExportID == 0 || export.Spec.FSID == "" || len(export.Finalizers) != 1 {
			t.Errorf("killed after %q: identity %+v, finalizers %v", step, export.Spec, export.Finalizers)
		}
		if state.SizeKiB[0] != 1<<20 || state.SizeKiB[1] != 64<<10 || len(state.Nodes) != 2 {
			t.Errorf("killed after %q: %+v", step, state)
		}
		if left := w.leftovers(); len(left) != 4 {
			t.Errorf("killed after %q: made %v, want definition, group, export and service", step, left)
		}
	}
}

func TestNothingLeaksWhenTheClaimIsDeletedAfterKillAtEachStep(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t)
		claim := newClaim("11", corev1.ReadWriteMany) // not in the API server any more
		if killed(t, w, claim, n) {
			if n <= effectsOfOneClaim {
				t.Errorf("only %d effects, %d were expected", n-1, effectsOfOneClaim)
			}
			return
		}
		step := w.effects[len(w.effects)-1]
		w.restart(0)
		_, events, pass := w.sweeper(w.process())
		pass()
		w.settle()
		pass()
		w.settle()
		if left := w.leftovers(); len(left) != 0 {
			t.Errorf("killed after %q: left %v", step, left)
		}
		if len(events.Events) != 0 {
			t.Errorf("killed after %q: event %q", step, <-events.Events)
		}
	}
}

func TestSweepSurvivesKillAtEachStep(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t)
		claim := newClaim("11", corev1.ReadWriteMany)
		if killed(t, w, claim, effectsOfOneClaim) {
			t.Fatal("the process did not die")
		}
		w.restart(0)
		s, _, _ := w.sweeper(w.process())
		s.Settings.SweepAge = 0
		w.restart(n)
		err := s.run(t.Context())
		w.mu.Lock()
		died := w.dead
		w.mu.Unlock()
		w.restart(0)
		_, _, pass := w.sweeper(w.process())
		w.settle()
		pass()
		w.settle()
		if left := w.leftovers(); len(left) != 0 {
			t.Errorf("killed after %d effects (%v): left %v", n, err, left)
		}
		if !died {
			if n < 3 {
				t.Errorf("the sweep had %d effects only", n-1)
			}
			return
		}
	}
}

func TestDeleteConvergesAfterKillAtEachStep(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t)
		claim := newClaim("11", corev1.ReadWriteMany)
		pv := provision(t, w, w.process(), claim, 1)
		w.create(pv)
		p := w.process()
		w.restart(n)
		err := p.Delete(t.Context(), pv)
		w.mu.Lock()
		died := w.dead
		w.mu.Unlock()
		if err == nil && !died {
			t.Fatal("deleted without a supervisor's consent")
		}
		if !died { // the export is not withdrawn: that is as far as it gets
			if n < 2 {
				t.Error("deletion did not begin")
			}
			return
		}
		w.restart(0)
		w.settle()
		if err := w.process().Delete(t.Context(), pv); err != nil {
			t.Errorf("killed after %d effects: %v", n, err)
		}
		w.settle()
		if left := w.leftovers(); len(left) != 0 {
			t.Errorf("killed after %d effects: left %s", n, strings.Join(left, ", "))
		}
	}
}
