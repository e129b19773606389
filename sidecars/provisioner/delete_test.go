package provisioner

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// published makes an exported volume whose PersistentVolume is in the API server.
func published(t *testing.T, w *world) *corev1.PersistentVolume {
	t.Helper()
	pv := provision(t, w, w.process(), newClaim("11", corev1.ReadWriteMany), 1)
	w.create(pv)
	return pv
}

func attachment(pv string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "worker", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}}}
}

func TestAttachedVolumeIsNotDeletedNorWithdrawn(t *testing.T) {
	w := newWorld(t)
	pv := published(t, w)
	w.create(attachment("pvc-11"))
	p := w.process()
	err := p.Delete(t.Context(), pv)
	if err == nil || !strings.Contains(err.Error(), "volume pvc-11 is still attached to worker") {
		t.Errorf("got %v", err)
	}
	if w.export("pvc-11").DeletionTimestamp != nil || w.linstor.State("pvc-11") == nil {
		t.Error("an attached volume lost its export")
	}
}

func TestVolumeIsDeletedOnlyAfterItsExportIsWithdrawnAndUnused(t *testing.T) {
	w := newWorld(t)
	pv := published(t, w)
	export := w.export("pvc-11")
	export.Status.Node = "n1"
	if _, err := w.exports.UpdateStatus(t.Context(), export, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.linstor.Use("pvc-11", "n1", true)
	p := w.process()
	if err := p.Delete(t.Context(), pv); err == nil || !strings.Contains(err.Error(), "still served by node n1") {
		t.Errorf("served: %v", err)
	}
	w.settle() // the supervisor consents, but DRBD is still Primary
	if err := p.Delete(t.Context(), pv); err == nil || !strings.Contains(err.Error(), "node n1 still uses resource pvc-11") {
		t.Errorf("in use: %v", err)
	}
	if len(w.driver.deleted) != 0 {
		t.Fatal("linstor-csi was asked to delete a volume in use")
	}
	w.linstor.Use("pvc-11", "n1", false)
	if err := p.Delete(t.Context(), pv); err != nil {
		t.Errorf("unused: %v", err)
	}
	w.settle()
	if left := w.leftovers(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestDeleteWaitsForTheSupervisorInOneTry(t *testing.T) {
	w := newWorld(t)
	pv := published(t, w)
	p := w.process()
	p.Settings.WithdrawTimeout = 10 * time.Second
	done := make(chan error, 1)
	go func() { done <- p.Delete(t.Context(), pv) }()
	eventually(t, "the withdrawal", func() bool { return w.export("pvc-11").DeletionTimestamp != nil })
	w.settle()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDeleteWithoutLinstorChangesNothing(t *testing.T) {
	w := newWorld(t)
	pv := published(t, w)
	w.linstor.Before(func(string) int { return 503 })
	if err := w.process().Delete(t.Context(), pv); err == nil || !strings.Contains(err.Error(), "LINSTOR") {
		t.Errorf("got %v", err)
	}
	if w.export("pvc-11").DeletionTimestamp != nil {
		t.Error("the export was withdrawn although the volume cannot be deleted")
	}
	w.linstor.Before(nil)
	p := w.process()
	_ = p.Delete(t.Context(), pv)
	w.settle()
	if err := p.Delete(t.Context(), pv); err != nil {
		t.Error(err)
	}
}

func TestOfflineNodeDoesNotBlockDeletion(t *testing.T) {
	w := newWorld(t)
	pv := published(t, w)
	w.linstor.SetOffline("n2", true)
	p := w.process()
	_ = p.Delete(t.Context(), pv)
	w.settle()
	if err := p.Delete(t.Context(), pv); err != nil {
		t.Error(err)
	}
}

func TestForeignVolumesAreDeletedByLinstorCsiAlone(t *testing.T) {
	w := newWorld(t)
	for _, attributes := range []map[string]string{nil, {names.ExportAttribute: "nfs://linstor-csi-nfs.ns:2049/pvc-9"}} {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-9"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: names.Driver, VolumeHandle: "pvc-9", VolumeAttributes: attributes}}}}
		w.restart(0)
		if err := w.process().Delete(t.Context(), pv); err != nil {
			t.Error(err)
		}
		if !slices.Equal(w.effects, []string{"DeleteVolume pvc-9"}) {
			t.Errorf("effects %v", w.effects)
		}
	}
}

func TestDeletedClaimRemovesEverythingThroughTheLibrary(t *testing.T) {
	w := newWorld(t)
	w.create(newClass(nil), newClaim("11", corev1.ReadWriteMany))
	library(t, w)
	eventually(t, "the volume", func() bool { return w.volume("pvc-11") != nil })
	pv := w.volume("pvc-11")
	pv.Status.Phase = corev1.VolumeReleased
	if _, err := w.client.CoreV1().PersistentVolumes().UpdateStatus(t.Context(), pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.CoreV1().PersistentVolumeClaims("default").Delete(t.Context(), "claim-11", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing to be left", func() bool {
		w.settle()
		return len(w.leftovers()) == 0 && w.volume("pvc-11") == nil
	})
}

func TestRetainedVolumeKeepsItsExport(t *testing.T) {
	w := newWorld(t)
	pv := published(t, w)
	s, events, pass := w.sweeper(w.process())
	pass()
	if s.Settings.SweepAge == 0 || len(events.Events) != 0 {
		t.Fatal("the sweep complains about a volume that is there")
	}
	if w.export("pvc-11").Annotations[names.VolumeSeenAnnotation] == "" {
		t.Error("the export is not marked as one that may hold data")
	}
	// Retained, and then removed by hand: the data stays, and somebody is told.
	if err := w.client.CoreV1().PersistentVolumes().Delete(t.Context(), pv.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, events, pass = w.sweeper(w.process())
	pass()
	if len(w.leftovers()) != 4 || len(events.Events) != 1 {
		t.Fatalf("left %v, %d events", w.leftovers(), len(events.Events))
	}
	if event := <-events.Events; !strings.Contains(event, "pvc-11 may hold data") {
		t.Errorf("event %q", event)
	}
}

func TestSweepJudgesDataFirst(t *testing.T) {
	claim := &v1alpha1.ClaimReference{UID: "11"}
	marked := map[string]string{names.VolumeSeenAnnotation: "true"}
	now := metav1.Now()
	for name, test := range map[string]struct {
		facts  exportFacts
		export v1alpha1.NFSExport
		want   verdict
	}{
		"claim and volume":         {facts: exportFacts{claim: true, volume: true}, export: v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{Annotations: marked}}, want: inUse},
		"volume seen first":        {facts: exportFacts{claim: true, volume: true}, want: markSeen},
		"volume without claim":     {facts: exportFacts{volume: true}, export: v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{Annotations: marked}}, want: inUse},
		"claim without volume":     {facts: exportFacts{claim: true}, want: inUse},
		"neither, never shown":     {export: v1alpha1.NFSExport{Spec: v1alpha1.NFSExportSpec{Claim: claim}}, want: forgotten},
		"neither, volume was seen": {export: v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{Annotations: marked}, Spec: v1alpha1.NFSExportSpec{Claim: claim}}, want: unexpected},
		"neither, was served":      {export: v1alpha1.NFSExport{Spec: v1alpha1.NFSExportSpec{Claim: claim}, Status: v1alpha1.NFSExportStatus{BootEpoch: 1}}, want: unexpected},
		"neither, is served":       {export: v1alpha1.NFSExport{Spec: v1alpha1.NFSExportSpec{Claim: claim}, Status: v1alpha1.NFSExportStatus{Node: "n1"}}, want: unexpected},
		"neither, not from us":     {want: unexpected},
		"being withdrawn":          {export: v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, want: leaving},
	} {
		test.facts.export = &test.export
		if got := judge(test.facts); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// A volume that somebody made by hand for the same data keeps that data.
func TestSweepSeesVolumesOfOtherNamesOnTheSameData(t *testing.T) {
	s := &sweep{}
	s.Provisioner = &Provisioner{}
	s.Driver = names.Driver
	export := &v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{Name: "pvc-11"}}
	export.Spec.ResourceDefinition.Name = "pvc-11"
	volume := func(name, driver, handle string) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if driver != "" {
			pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}
		}
		return pv
	}
	for name, test := range map[string]struct {
		pv   *corev1.PersistentVolume
		want bool
	}{
		"its own":                 {volume("pvc-11", "", ""), true},
		"another name":            {volume("by-hand", names.Driver, "pvc-11"), true},
		"another name, volume 0":  {volume("by-hand", names.Driver, "pvc-11/0"), true},
		"another volume":          {volume("pvc-12", names.Driver, "pvc-12"), false},
		"another driver's handle": {volume("other", "other.csi", "pvc-11"), false},
		"no CSI volume":           {volume("local", "", ""), false},
	} {
		if got := s.leadsTo(test.pv, export); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSweepWaitsBeforeItRemovesAnything(t *testing.T) {
	w := newWorld(t)
	_ = killed(t, w, newClaim("11", corev1.ReadWriteMany), 3)
	w.restart(0)
	s, _, pass := w.sweeper(w.process())
	before := w.leftovers()
	for range 3 {
		if err := s.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := w.leftovers(); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	pass()
	if left := w.leftovers(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestSweepLeavesClaimsThatAreStillThere(t *testing.T) {
	for n := 1; n <= effectsOfOneClaim; n++ {
		w := newWorld(t)
		claim := newClaim("11", corev1.ReadWriteMany)
		w.create(claim)
		_ = killed(t, w, claim, n)
		w.restart(0)
		_, _, pass := w.sweeper(w.process())
		pass()
		if w.export("pvc-11").DeletionTimestamp != nil {
			t.Errorf("after %d effects: the export of a waiting claim was removed", n)
		}
		provision(t, w, w.process(), claim, 3)
	}
}

// A definition with data and our marker but without export is somebody's data.
func TestSweepNeverRemovesDataWithoutExport(t *testing.T) {
	w := newWorld(t)
	if err := w.linstor.Place("pvc-9", "rwx-x", 1<<20, 2); err != nil {
		t.Fatal(err)
	}
	w.linstor.SetProperty("pvc-9", names.MarkerProperty, "pvc-9")
	_, _, pass := w.sweeper(w.process())
	pass()
	if w.linstor.State("pvc-9") == nil {
		t.Error("data was removed")
	}
}

// usePvcName: the name comes back with the next claim, for another volume.
func TestSweepNeverRemovesAnotherVolumeOfTheSameName(t *testing.T) {
	w := newWorld(t)
	export := &v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{Name: "pvc-11"}, Spec: v1alpha1.NFSExportSpec{
		ResourceDefinition: v1alpha1.ResourceDefinition{Name: "default-data"}, Claim: &v1alpha1.ClaimReference{Namespace: "default", Name: "data", UID: "11"}, FSType: "ext4", ServerScope: "pvc-11"}}
	if _, err := w.exports.Create(t.Context(), export, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.linstor.Place("default-data", "sc-of-linstor-csi", 1<<20, 2); err != nil {
		t.Fatal(err)
	}
	_, _, pass := w.sweeper(w.process())
	pass()
	if w.linstor.State("default-data") == nil || len(w.driver.deleted) != 0 {
		t.Error("another volume was removed")
	}
}
