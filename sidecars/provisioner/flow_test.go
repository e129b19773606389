package provisioner

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapfake "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/fake"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	linstorfake "github.com/linbit/linstor-rwx/pkg/linstor/fake"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// try calls Provision once.
func try(t *testing.T, p *Provisioner, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	t.Helper()
	return p.Provision(t.Context(), controller.ProvisionOptions{PVC: claim, StorageClass: class, PVName: "pvc-" + string(claim.UID)})
}

// library runs the real ProvisionController around a new process.
func library(t *testing.T, w *world) *Provisioner {
	t.Helper()
	p := w.process()
	pc := controller.NewProvisionController(t.Context(), w.client, names.Driver, p, controller.LeaderElection(false),
		controller.FailedProvisionThreshold(0), controller.FailedDeleteThreshold(0), controller.AddFinalizer(true), controller.Threadiness(20),
		controller.RateLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](10*time.Millisecond, 100*time.Millisecond)))
	go pc.Run(t.Context())
	return p
}

func (w *world) volume(name string) *corev1.PersistentVolume {
	pv, err := w.client.CoreV1().PersistentVolumes().Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return pv
}

// warnings returns the texts of the warning events, each once.
func (w *world) warnings() []string {
	list, err := w.client.CoreV1().Events("").List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var texts []string
	for _, event := range list.Items {
		if event.Type == corev1.EventTypeWarning && !slices.Contains(texts, event.Message) {
			texts = append(texts, event.Message)
		}
	}
	return texts
}

func TestClaimBecomesAnExportedVolume(t *testing.T) {
	w := newWorld(t)
	class := newClass(map[string]string{"linstor.csi.linbit.com/placementCount": "2", "mountOpts": "noatime", "rwx.linbit.com/squash": "root_squash", "rwx.linbit.com/root-owner": "7:8"})
	class.MountOptions = []string{"nconnect=4", "discard"}
	w.create(class, newClaim("11", corev1.ReadWriteOnce, corev1.ReadWriteMany))
	library(t, w)
	eventually(t, "the volume", func() bool { return w.volume("pvc-11") != nil })

	pv := w.volume("pvc-11")
	if want := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany}; !slices.Equal(pv.Spec.AccessModes, want) {
		t.Errorf("access modes %v, want %v or the claim never binds", pv.Spec.AccessModes, want)
	}
	attributes := pv.Spec.CSI.VolumeAttributes
	if attributes[names.ExportAttribute] != "nfs://10.96.0.1:2049/pvc-11" || attributes[names.Driver+"/uses-volume-context"] != "true" {
		t.Errorf("attributes %v", attributes)
	}
	if _, found := attributes[names.MountOptionsAttribute]; found || !slices.Equal(pv.Spec.MountOptions, []string{"nconnect=4"}) {
		t.Errorf("options of the filesystem reach the NFS mount: %v, %v", attributes, pv.Spec.MountOptions)
	}
	if pv.Spec.NodeAffinity != nil || pv.Labels[names.ExportLabel] != "pvc-11" || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || pv.Spec.CSI.FSType != "ext4" {
		t.Errorf("volume %+v", pv)
	}

	export, state := w.export("pvc-11"), w.linstor.State("pvc-11")
	want := v1alpha1.NFSExportSpec{
		ResourceDefinition: v1alpha1.ResourceDefinition{Name: "pvc-11", UUID: state.UUID},
		Claim:              &v1alpha1.ClaimReference{Namespace: "default", Name: "claim-11", UID: "11"},
		ExportID:           names.ExportID(state.UUID), FSID: names.FSID(state.UUID), ServerScope: "pvc-11",
		Service: &v1alpha1.ServiceReference{Namespace: namespace, Name: "pvc-11", ClusterIP: "10.96.0.1", Port: 2049},
		FSType:  "ext4", MountOptions: []string{"discard", "noatime"}, Squash: v1alpha1.RootSquash, AccessType: v1alpha1.ReadWrite,
		RootDirectory: v1alpha1.RootDirectory{UID: 7, GID: 8, Mode: "0777"}, LeaseSeconds: 12, GraceSeconds: 60, Size: resource.MustParse("1Gi"), Policy: v1alpha1.OnDemand,
	}
	if !apiequality.Semantic.DeepEqual(export.Spec, want) {
		t.Errorf("spec\n%+v, want\n%+v", export.Spec, want)
	}
	if !slices.Equal(export.Finalizers, []string{names.WithdrawFinalizer}) {
		t.Errorf("finalizers %v", export.Finalizers)
	}

	service := w.services()[0]
	if service.Spec.Selector != nil || service.OwnerReferences[0].UID != export.UID || service.Spec.Ports[0].Port != 2049 || service.Labels[names.ExportLabel] != "pvc-11" {
		t.Errorf("service %+v", service)
	}
	request := w.driver.created()[0]
	if mode := request.VolumeCapabilities[0].AccessMode.Mode; mode != csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER {
		t.Errorf("linstor-csi was asked for %v", mode)
	}
	if flags := request.VolumeCapabilities[0].GetMount().MountFlags; len(flags) != 0 {
		t.Errorf("linstor-csi got mount flags %v", flags)
	}
	if state.Group != groupName(class.Parameters) || state.SizeKiB[1] != 65536 {
		t.Errorf("definition %+v", state)
	}
}

func TestOtherClaimsPassThroughUntouched(t *testing.T) {
	w := newWorld(t)
	block := newClaim("33", corev1.ReadWriteMany)
	mode := corev1.PersistentVolumeBlock
	block.Spec.VolumeMode = &mode
	class := newClass(nil)
	class.MountOptions = []string{"discard"}
	w.create(class, newClaim("22", corev1.ReadWriteOnce), block)
	library(t, w)
	eventually(t, "both volumes", func() bool { return w.volume("pvc-22") != nil && w.volume("pvc-33") != nil })
	for _, name := range []string{"pvc-22", "pvc-33"} {
		pv := w.volume(name)
		if pv.Spec.CSI.VolumeAttributes[names.ExportAttribute] != "" || !slices.Equal(pv.Spec.MountOptions, []string{"discard"}) || pv.Labels[names.ExportLabel] != "" {
			t.Errorf("%s: %+v", name, pv.Spec)
		}
		if state := w.linstor.State(name); len(state.SizeKiB) != 1 || state.Group != "sc-of-linstor-csi" {
			t.Errorf("%s: %+v", name, state)
		}
	}
	if requests := w.linstor.Requests(); len(requests) != 0 {
		t.Errorf("rwx-provisioner asked LINSTOR: %v", requests)
	}
}

func TestTwentyClaimsAtOnceAllConverge(t *testing.T) {
	w := newWorld(t)
	w.create(newClass(map[string]string{"placementCount": "2"}))
	for i := range 20 {
		w.create(newClaim(fmt.Sprintf("%d", 100+i), corev1.ReadWriteMany))
	}
	library(t, w)
	eventually(t, "20 volumes", func() bool {
		list, err := w.client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 20
	})
	addresses := map[string]bool{}
	for _, service := range w.services() {
		addresses[service.Spec.ClusterIP] = true
	}
	if left := w.leftovers(); len(left) != 61 || len(addresses) != 20 { // one group
		t.Errorf("%d objects with %d addresses: %v", len(left), len(addresses), left)
	}
}

func TestRefusedClaimLeavesNothingAndOneEvent(t *testing.T) {
	for name, parameters := range map[string]map[string]string{
		"squash=\"x\"": {"rwx.linbit.com/squash": "x"},
		"layerList":    {"layerList": "storage"},
	} {
		w := newWorld(t)
		w.create(newClass(parameters), newClaim("11", corev1.ReadWriteMany))
		library(t, w)
		eventually(t, "the event", func() bool { return len(w.warnings()) > 0 })
		time.Sleep(100 * time.Millisecond) // several retries
		if texts := w.warnings(); len(texts) != 1 || !strings.Contains(texts[0], name) {
			t.Errorf("events %q, want one about %s", texts, name)
		}
		if left := w.leftovers(); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	}
}

func TestFailuresBeforeTheVolumeIsMadeLeaveNothing(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*world)
		state   controller.ProvisioningState
		want    string
	}{
		"not enough nodes": {func(w *world) { w.linstor.Nodes = w.linstor.Nodes[:1] }, controller.ProvisioningFinished, "Not enough available nodes"},
		"full pools": {func(w *world) {
			for _, node := range w.linstor.Nodes {
				node.Full = true
			}
		}, controller.ProvisioningFinished, "Not enough available nodes"},
		"no IPv4 services": {func(w *world) {
			w.client.PrependReactor("create", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, "pvc-11", field.ErrorList{
					field.Invalid(field.NewPath("spec", "ipFamilies").Index(0), "IPv4", "not configured on this cluster")})
			})
		}, controller.ProvisioningNoChange, "give the API server an IPv4 --service-cluster-ip-range"},
		"quota for services": {func(w *world) {
			w.client.PrependReactor("create", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "pvc-11", fmt.Errorf("exceeded quota"))
			})
		}, controller.ProvisioningNoChange, "exceeded quota"},
		"LINSTOR refuses the recovery volume": {func(w *world) {
			w.linstor.Before(func(request string) int {
				if strings.HasPrefix(request, "POST") && strings.HasSuffix(request, "volume-definitions") {
					return 500
				}
				return 0
			})
		}, controller.ProvisioningNoChange, "add recovery volume to pvc-11: LINSTOR answers"},
		"unknown parameter of the driver": {func(*world) {}, controller.ProvisioningFinished, "does not belong to paramKey values"},
	} {
		w := newWorld(t)
		test.prepare(w)
		parameters := map[string]string{}
		if strings.HasPrefix(name, "unknown") {
			parameters["frobnicate"] = "1"
		}
		p := w.process()
		for range 2 { // a retry is as good
			_, state, err := try(t, p, newClaim("11", corev1.ReadWriteMany), newClass(parameters))
			if err == nil || !strings.Contains(err.Error(), test.want) || state != test.state {
				t.Errorf("%s: %s, %v", name, state, err)
			}
			if left := w.leftovers(); len(left) != 0 {
				t.Errorf("%s: left %v", name, left)
			}
		}
	}
}

func TestUnreachableLinstorIsOneSentence(t *testing.T) {
	w := newWorld(t)
	w.create(newClass(nil), newClaim("11", corev1.ReadWriteMany))
	w.linstor.Before(func(string) int { return 503 })
	library(t, w)
	eventually(t, "the event", func() bool { return len(w.warnings()) > 0 })
	time.Sleep(100 * time.Millisecond)
	if texts := w.warnings(); len(texts) != 1 || !strings.Contains(texts[0], "read resource definition pvc-11: LINSTOR") {
		t.Errorf("events %q", texts)
	}
	w.linstor.Before(nil)
	if left := w.leftovers(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestFailureAfterTheVolumeIsMadeStaysInBackground(t *testing.T) {
	w := newWorld(t)
	w.linstor.Syncing = true
	p := w.process()
	claim := newClaim("11", corev1.ReadWriteMany)
	_, state, err := try(t, p, claim, newClass(nil))
	if state != controller.ProvisioningInBackground || err == nil || !strings.Contains(err.Error(), "UpToDate") {
		t.Fatalf("%s, %v", state, err)
	}
	if w.export("pvc-11").Spec.ExportID != 0 {
		t.Error("identity was recorded before the volume was usable")
	}
	w.linstor.Sync()
	if _, state, err = try(t, p, claim, newClass(nil)); err != nil || state != controller.ProvisioningFinished {
		t.Errorf("%s, %v", state, err)
	}
}

func TestOfflineNodeDoesNotBlockAClaim(t *testing.T) {
	w := newWorld(t)
	p := w.process()
	claim := newClaim("11", corev1.ReadWriteMany)
	w.linstor.Syncing = true
	if _, _, err := try(t, p, claim, newClass(nil)); err == nil {
		t.Fatal("an Inconsistent volume was published")
	}
	w.linstor.SetOffline("n1", true)
	w.linstor.Sync()
	if _, _, err := try(t, p, claim, newClass(nil)); err != nil {
		t.Error(err)
	}
}

// A final error of linstor-csi about a volume that exists must not make the library
// forget the claim.
func TestFinalErrorAboutAnExistingVolumeIsNotFinal(t *testing.T) {
	w := newWorld(t)
	p := w.process()
	claim := newClaim("11", corev1.ReadWriteMany)
	w.linstor.Syncing = true
	_, _, _ = try(t, p, claim, newClass(nil))
	claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
	_, state, err := try(t, p, claim, newClass(nil))
	if err == nil || state != controller.ProvisioningInBackground {
		t.Errorf("%s, %v", state, err)
	}
	if w.linstor.State("pvc-11") == nil {
		t.Error("the volume was thrown away")
	}
}

func TestServiceOfAnEarlierTryIsReplacedAndAStrangersIsNot(t *testing.T) {
	w := newWorld(t)
	p := w.process()
	claim := newClaim("11", corev1.ReadWriteMany)
	old := p.newService("pvc-11")
	old.OwnerReferences = []metav1.OwnerReference{{UID: "gone"}}
	old.UID, old.Spec.ClusterIP = "old", "10.96.0.77"
	w.create(old)
	if _, state, err := try(t, p, claim, newClass(nil)); err == nil || state != controller.ProvisioningInBackground {
		t.Errorf("%s, %v", state, err)
	}
	pv, _, err := try(t, p, claim, newClass(nil))
	if err != nil || pv.Spec.CSI.VolumeAttributes[names.ExportAttribute] != "nfs://10.96.0.1:2049/pvc-11" {
		t.Errorf("%v, %v", pv, err)
	}

	w = newWorld(t)
	w.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "pvc-11", Namespace: namespace}})
	p = w.process()
	for range 2 {
		_, _, err = try(t, p, claim, newClass(nil))
		if err == nil || !strings.Contains(err.Error(), "is not from linstor-rwx") {
			t.Errorf("got %v", err)
		}
	}
	if left := w.leftovers(); !slices.Equal(left, []string{"service pvc-11"}) || w.services()[0].Labels != nil {
		t.Errorf("a stranger's service was changed, or something was made: %v", left)
	}
}

func TestReplacedDefinitionBeginsAnew(t *testing.T) {
	w := newWorld(t)
	claim := newClaim("11", corev1.ReadWriteMany)
	provision(t, w, w.process(), claim, 1)
	if err := w.linstor.Delete("pvc-11"); err != nil { // by hand, before the volume was published
		t.Fatal(err)
	}
	pv := provision(t, w, w.process(), claim, 4)
	if w.export("pvc-11").Spec.ResourceDefinition.UUID != w.linstor.State("pvc-11").UUID || pv == nil {
		t.Error("the export has the identity of another volume")
	}
}

// bound makes the claim and volume of an earlier claim appear in the API server.
func (w *world) bound(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
	claim = claim.DeepCopy()
	claim.Spec.VolumeName = pv.Name
	claim.Status.Phase = corev1.ClaimBound
	claim.Status.Capacity = claim.Spec.Resources.Requests
	pv = pv.DeepCopy()
	pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
	pv.Spec.StorageClassName = "shared"
	pv.Status.Phase = corev1.VolumeBound
	metav1.SetMetaDataAnnotation(&pv.ObjectMeta, "pv.kubernetes.io/provisioned-by", names.Driver)
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, "pv.kubernetes.io/bind-completed", "yes")
	w.create(claim, pv)
}

func cloneOf(source string, uid string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	claim := newClaim(uid, modes...)
	claim.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: source}
	return claim
}

// plain makes a ReadWriteOnce volume and its claim, shared a ReadWriteMany one.
func (w *world) source(uid string, mode corev1.PersistentVolumeAccessMode) {
	w.t.Helper()
	claim := newClaim(uid, mode)
	pv, _, err := try(w.t, w.process(), claim, newClass(nil))
	if err != nil {
		w.t.Fatal(err)
	}
	w.bound(claim, pv)
}

func TestCloneOfAPlainVolumeGetsARecoveryVolume(t *testing.T) {
	w := newWorld(t)
	w.create(newClass(nil))
	w.source("11", corev1.ReadWriteOnce)
	pv, _, err := try(t, w.process(), cloneOf("claim-11", "22", corev1.ReadWriteMany), newClass(nil))
	if err != nil {
		t.Fatal(err)
	}
	state := w.linstor.State("pvc-22")
	if state.SizeKiB[1] != 65536 || state.Props[names.MarkerProperty] != "pvc-22" || pv.Spec.CSI.VolumeAttributes[names.ExportAttribute] == "" {
		t.Errorf("%+v", state)
	}
	if state.UUID == w.linstor.State("pvc-11").UUID || w.export("pvc-22").Spec.ResourceDefinition.UUID != state.UUID {
		t.Error("the clone has its source's identity")
	}
}

// No supervisor mounts a filesystem that is not the export's.
func TestCopyWithAnotherFilesystemIsRefusedBeforeItIsMade(t *testing.T) {
	w := newWorld(t)
	w.create(newClass(nil))
	w.source("11", corev1.ReadWriteMany)
	handle, content := "pvc-11", "content-of-the-snapshot"
	w.snapshots = snapfake.NewSimpleClientset(
		&snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "snapshot"},
			Status: &snapshotv1.VolumeSnapshotStatus{BoundVolumeSnapshotContentName: &content}},
		&snapshotv1.VolumeSnapshotContent{ObjectMeta: metav1.ObjectMeta{Name: content},
			Spec: snapshotv1.VolumeSnapshotContentSpec{Source: snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &handle}}})
	group := snapshotv1.GroupName
	restore := newClaim("33", corev1.ReadWriteMany)
	restore.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "snapshot"}
	before := w.leftovers()
	for name, claim := range map[string]*corev1.PersistentVolumeClaim{"clone": cloneOf("claim-11", "22", corev1.ReadWriteMany), "restore": restore} {
		_, state, err := try(t, w.process(), claim, newClass(map[string]string{"csi.storage.k8s.io/fstype": "xfs"}))
		if err == nil || !strings.Contains(err.Error(), "its source pvc-11 holds ext4, but StorageClass shared says xfs: use a class with ext4") || state == controller.ProvisioningInBackground {
			t.Errorf("%s: %s, %v", name, state, err)
		}
	}
	if after := w.leftovers(); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
}

func TestCloneOfASharedVolumeGetsItsOwnIdentity(t *testing.T) {
	w := newWorld(t)
	w.create(newClass(nil))
	w.source("11", corev1.ReadWriteMany)
	if _, _, err := try(t, w.process(), cloneOf("claim-11", "22", corev1.ReadWriteMany), newClass(nil)); err != nil {
		t.Fatal(err)
	}
	one, two := w.export("pvc-11").Spec, w.export("pvc-22").Spec
	if one.FSID == two.FSID || one.ResourceDefinition.UUID == two.ResourceDefinition.UUID || w.linstor.State("pvc-22").Props[names.MarkerProperty] != "pvc-22" {
		t.Errorf("source %+v, clone %+v", one, two)
	}
}

func TestPlainCloneOfASharedVolumeDropsTheRecoveryVolume(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		w := newWorld(t)
		w.create(newClass(nil))
		w.source("11", corev1.ReadWriteMany)
		p := w.process()
		if unknown { // a node goes when the clone has just been made
			w.linstor.Before(func(request string) int {
				if request == "GET /v1/view/resources" {
					w.linstor.SetOffline("n1", true)
				}
				return 0
			})
		}
		if _, _, err := try(t, p, cloneOf("claim-11", "22", corev1.ReadWriteOnce), newClass(nil)); err != nil {
			t.Fatal(err)
		}
		state := w.linstor.State("pvc-22")
		_, left := state.SizeKiB[1]
		if left != unknown || state.SizeKiB[0] != 1<<20 {
			t.Errorf("a node is unknown: %v; volumes %v", unknown, state.SizeKiB)
		}
		if !unknown && state.Props[names.MarkerProperty] != "" {
			t.Error("the clone still carries its source's marker")
		}
		if source := w.linstor.State("pvc-11"); source.SizeKiB[1] != 65536 || source.Props[names.MarkerProperty] != "pvc-11" {
			t.Errorf("the source was changed: %+v", source)
		}
	}
}

func TestCloneThatCouldNeverBePromotedIsRefusedBeforeItIsMade(t *testing.T) {
	w := newWorld(t)
	w.create(newClass(nil))
	for _, node := range w.linstor.Nodes {
		node.Provider = "LVM"
	}
	w.source("11", corev1.ReadWriteOnce)
	before := w.leftovers()
	w.linstor.Version = "1.33.1"
	_, state, err := try(t, w.process(), cloneOf("claim-11", "22", corev1.ReadWriteMany), newClass(nil))
	if err == nil || !strings.Contains(err.Error(), "LINSTOR 1.33.1 cannot add a recovery volume to pvc-11 on a storage pool of kind LVM: upgrade LINSTOR to 1.33.3") || state == controller.ProvisioningInBackground {
		t.Errorf("%s, %v", state, err)
	}
	if after := w.leftovers(); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	// A new volume is no problem: both volumes are there before it is placed.
	if _, _, err := try(t, w.process(), newClaim("33", corev1.ReadWriteMany), newClass(nil)); err != nil {
		t.Error(err)
	}
}

// With usePvcName the name of a definition can be that of an older volume, which
// linstor-csi would take for the clone.
func TestCloneNeverTakesAnExistingVolume(t *testing.T) {
	w := newWorld(t)
	class := newClass(map[string]string{"usePvcName": "true"})
	w.create(class)
	w.source("11", corev1.ReadWriteOnce)
	if err := w.linstor.Place("default-claim-22", "sc-of-linstor-csi", 1<<20, 2); err != nil {
		t.Fatal(err)
	}
	w.linstor.SetProperty("default-claim-22", linstorfake.Completed, "linstor-csi/test")
	_, _, err := try(t, w.process(), cloneOf("claim-11", "22", corev1.ReadWriteMany), class)
	if err == nil || !strings.Contains(err.Error(), "exists and is not from linstor-rwx") {
		t.Errorf("got %v", err)
	}
	if state := w.linstor.State("default-claim-22"); len(state.SizeKiB) != 1 || state.Props[names.MarkerProperty] != "" {
		t.Errorf("the older volume was changed: %+v", state)
	}
}

func TestVolumeNamedAfterItsClaim(t *testing.T) {
	w := newWorld(t)
	class := newClass(map[string]string{"usePvcName": "true"})
	pv, _, err := try(t, w.process(), newClaim("11", corev1.ReadWriteMany), class)
	if err != nil {
		t.Fatal(err)
	}
	if pv.Name != "pvc-11" || pv.Spec.CSI.VolumeHandle != "default-claim-11" || w.export("pvc-11").Spec.ResourceDefinition.Name != "default-claim-11" {
		t.Errorf("%+v", pv)
	}
}
