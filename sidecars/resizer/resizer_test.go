package resizer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	upstream "github.com/kubernetes-csi/external-resizer/v2/pkg/controller"
	csiresizer "github.com/kubernetes-csi/external-resizer/v2/pkg/resizer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/util/workqueue"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports/fake"
	"github.com/linbit/linstor-rwx/pkg/linstor"
	"github.com/linbit/linstor-rwx/pkg/names"
)

var small, large = resource.MustParse("1Gi"), resource.MustParse("2Gi")

// inner answers as linstor-csi does for a ReadWriteMany volume.
type inner struct {
	csiresizer.Resizer
	// refuses returns what it answers to a size; nil grows.
	refuses func(want resource.Quantity) error
}

func (inner) Name() string                              { return names.Driver }
func (inner) DriverSupportsControlPlaneExpansion() bool { return true }
func (inner) CanSupport(*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) bool {
	return true
}
func (i inner) Resize(_ *corev1.PersistentVolume, want resource.Quantity) (resource.Quantity, bool, error) {
	if i.refuses != nil {
		if err := i.refuses(want); err != nil {
			return want, false, err
		}
	}
	return want, false, nil
}

// controller is a LINSTOR controller that knows one volume.
type controller struct {
	sizeKiB  uint64
	growing  bool
	replicas []linstor.Replica
	err      error
	retried  int
	fails    error
}

func (c *controller) Definition(context.Context, string) (*linstor.Definition, error) {
	return &linstor.Definition{Volumes: []linstor.Volume{{Number: 0, SizeKiB: c.sizeKiB, Growing: c.growing}}}, c.err
}

func (c *controller) Replicas(context.Context, string) ([]linstor.Replica, error) {
	return c.replicas, c.err
}

func (c *controller) RetryGrowth(context.Context, string) error {
	c.retried++
	return c.fails
}

func newExport() *v1alpha1.NFSExport {
	export := &v1alpha1.NFSExport{}
	export.Name = "pvc-11"
	export.Spec = v1alpha1.NFSExportSpec{ServerScope: "pvc-11", FSType: "ext4", Size: small, ResourceDefinition: v1alpha1.ResourceDefinition{Name: "pvc-11"}}
	return export
}

func newVolume() *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-11", Labels: map[string]string{names.ExportLabel: "pvc-11"}},
		Spec: corev1.PersistentVolumeSpec{Capacity: corev1.ResourceList{corev1.ResourceStorage: small},
			ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "shared", UID: "11"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: names.Driver, VolumeHandle: "pvc-11",
				VolumeAttributes: map[string]string{names.ExportAttribute: "nfs://10.96.0.1:2049/pvc-11"}}}}}
}

// report is what the serving supervisor writes when the filesystem fills a
// device of the size that the spec has now.
func report(t *testing.T, exports *fake.Client, grown metav1.ConditionStatus, message string) {
	t.Helper()
	export, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	export.Status.Node = "n1"
	df := resource.MustParse("1990Mi") // df never shows all of the device
	export.Status.Size = &df
	meta.SetStatusCondition(&export.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionGrown, Status: grown, Reason: "Test", Message: message})
	export.Status.DeviceBytes = export.Spec.Size.Value()
	if grown == metav1.ConditionUnknown { // nobody has opened the filesystem yet
		export.Status.Node, export.Status.Size = "", nil
	}
	if _, err := exports.UpdateStatus(t.Context(), export, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func wrap(driver inner, exports *fake.Client, linstor LINSTOR) csiresizer.Resizer {
	w := Wrap(driver, exports, linstor, 200*time.Millisecond).(*resizer)
	w.poll = time.Millisecond
	return w
}

// cluster has a claim that asks for large and has small, and the real controller of
// csi-resizer around ours.
type cluster struct {
	t      *testing.T
	client *kubefake.Clientset
}

func newCluster(t *testing.T, wrapped csiresizer.Resizer) *cluster {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "shared", Namespace: "default", UID: "11"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-11", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: large}}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{corev1.ResourceStorage: small}}}
	client := kubefake.NewClientset(claim, newVolume())
	factory := informers.NewSharedInformerFactory(client, 0)
	rc := upstream.NewResizeController("linstor", wrapped, client, time.Hour, factory,
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](10*time.Millisecond, 50*time.Millisecond), false, time.Second)
	factory.Start(t.Context().Done())
	go rc.Run(2, t.Context(), nil)
	return &cluster{t: t, client: client}
}

func (c *cluster) claim() *corev1.PersistentVolumeClaim {
	claim, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(c.t.Context(), "shared", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return claim
}

// sizes are what claim and volume show.
func (c *cluster) sizes() (claim, volume resource.Quantity) {
	pv, err := c.client.CoreV1().PersistentVolumes().Get(c.t.Context(), "pvc-11", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.claim().Status.Capacity[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage]
}

func (c *cluster) ask(size resource.Quantity) {
	claim := c.claim()
	claim.Spec.Resources.Requests[corev1.ResourceStorage] = size
	if _, err := c.client.CoreV1().PersistentVolumeClaims("default").Update(c.t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// waitSize waits until claim and volume show that size.
func (c *cluster) waitSize(size resource.Quantity) {
	c.t.Helper()
	wait(c.t, func() bool {
		claim, volume := c.sizes()
		return claim.Cmp(size) == 0 && volume.Cmp(size) == 0
	})
}

func TestClaimGrowsOnlyAfterFilesystem(t *testing.T) {
	exports := fake.New(newExport())
	report(t, exports, metav1.ConditionTrue, "") // of the old size
	cluster := newCluster(t, wrap(inner{}, exports, &controller{}))
	wanted := func() bool {
		export, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
		return err == nil && export.Spec.Size.Cmp(large) == 0
	}
	wait(t, wanted)
	time.Sleep(300 * time.Millisecond) // more than one try
	if c, v := cluster.sizes(); c.Cmp(small) != 0 || v.Cmp(small) != 0 {
		t.Errorf("claim %s, volume %s before the filesystem grew", c.String(), v.String())
	}
	report(t, exports, metav1.ConditionTrue, "")
	cluster.waitSize(large)
	// kubelets must not look for the filesystem on their NFS mounts.
	if claim := cluster.claim(); claim.Annotations["volume.kubernetes.io/node-expansion-not-required"] != "true" {
		t.Errorf("annotations of the claim: %v", claim.Annotations)
	}
}

// After a growth that LINSTOR refused, the claim may ask for less.
func TestSmallerSizeAfterARefusedGrowthIsGranted(t *testing.T) {
	exports := fake.New(newExport())
	report(t, exports, metav1.ConditionTrue, "")
	grown := make(chan struct{})
	grow := sync.OnceFunc(func() { close(grown) }) // tries are repeated
	cluster := newCluster(t, wrap(inner{refuses: func(want resource.Quantity) error {
		if want.Cmp(large) == 0 {
			return csiError("Message: 'Cannot grow the volume definition by 1048576KiB, as the following storage pool do not have enough free space:\nNode: n1, StorPool: thick'")
		}
		grow()
		return nil
	}}, exports, &controller{sizeKiB: 1 << 20}))
	wait(t, func() bool {
		for _, condition := range cluster.claim().Status.Conditions {
			if condition.Type == corev1.PersistentVolumeClaimControllerResizeError {
				return true
			}
		}
		return false
	})
	smaller := resource.MustParse("1536Mi")
	cluster.ask(smaller)
	<-grown
	wait(t, func() bool {
		export, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
		return err == nil && export.Spec.Size.Cmp(smaller) == 0
	})
	report(t, exports, metav1.ConditionTrue, "")
	cluster.waitSize(smaller)
}

// A replica that became UpToDate between LINSTOR's refusal and our look at it is not
// worth a warning that cannot name it.
func TestReplicaThatCameBackMeanwhileIsNoRefusal(t *testing.T) {
	exports := fake.New(newExport())
	report(t, exports, metav1.ConditionTrue, "")
	refusals := 0
	driver := inner{refuses: func(resource.Quantity) error {
		if refusals++; refusals == 1 {
			return csiError("Message: 'Cannot resize volume, because we have a non-UpToDate DRBD device.'")
		}
		return nil
	}}
	size, err := wrap(driver, exports, &controller{sizeKiB: 1 << 20}).(*resizer).growVolume(newVolume(), large, "pvc-11")
	if err != nil || size.Cmp(large) != 0 || refusals != 2 {
		t.Errorf("after %d calls of the driver: size %s, %v", refusals, size.String(), err)
	}
}

func wait(t *testing.T, good func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !good(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

func TestFailureToGrowIsRetriedAndSaysWhy(t *testing.T) {
	for want, prepare := range map[string]func(*fake.Client){
		"grow volume of pvc-11: it is new, and no node has looked at it yet": func(*fake.Client) {},
		"grow filesystem of pvc-11: no node has opened it yet":               func(e *fake.Client) { report(t, e, metav1.ConditionUnknown, "") },
		"grow filesystem of pvc-11: no node can open it: no quorum": func(e *fake.Client) {
			report(t, e, metav1.ConditionUnknown, "")
			change(t, e, func(export *v1alpha1.NFSExport) {
				export.Status.Phase, export.Status.Message = v1alpha1.PhaseFailed, "no quorum"
			})
		},
		"grow filesystem of pvc-11: node n1 has not grown it yet":     func(e *fake.Client) { report(t, e, metav1.ConditionTrue, "of the old size") },
		"grow filesystem of pvc-11: resize2fs: No space left on disk": func(e *fake.Client) { report(t, e, metav1.ConditionFalse, "resize2fs: No space left on disk") },
	} {
		exports := fake.New(newExport())
		prepare(exports)
		size, _, err := wrap(inner{}, exports, &controller{}).Resize(newVolume(), large)
		if err == nil || err.Error() != want || size.Cmp(small) != 0 {
			t.Errorf("%s: %s, %v", want, size.String(), err)
		}
		if _, isStatus := status.FromError(err); isStatus {
			t.Errorf("%s: has a gRPC status, so the controller could take it for final", want)
		}
	}
}

func change(t *testing.T, exports *fake.Client, change func(*v1alpha1.NFSExport)) {
	t.Helper()
	export, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change(export)
	if _, err := exports.UpdateStatus(t.Context(), export, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestVolumeIsNotGrownBeforeSomebodyHasLookedAtIt(t *testing.T) {
	exports := fake.New(newExport())
	called := false
	driver := inner{refuses: func(resource.Quantity) error { called = true; return nil }}
	if _, _, err := wrap(driver, exports, &controller{}).Resize(newVolume(), large); err == nil || called {
		t.Errorf("called %v, %v", called, err)
	}
	exports = fake.New()
	if _, _, err := wrap(driver, exports, &controller{}).Resize(newVolume(), large); err == nil || called {
		t.Errorf("without NFSExport: called %v, %v", called, err)
	}
}

func TestGrowthThatLINSTORDidNotFinishIsTriedAgain(t *testing.T) {
	no := false
	for name, test := range map[string]struct {
		linstor *controller
		want    string
		retried int
	}{
		"a node failed": {&controller{growing: true, fails: errors.New("LINSTOR answers: (Node: 'n2') lvextend: insufficient free space")},
			"grow volume of pvc-11: LINSTOR has not finished: LINSTOR answers: (Node: 'n2') lvextend: insufficient free space", 1},
		"a node failed before": {&controller{growing: true}, "grow volume of pvc-11: LINSTOR has not finished: it was told to go on", 1},
		"a node is away": {&controller{growing: true, replicas: []linstor.Replica{{Node: "n2"}}},
			"grow volume of pvc-11: LINSTOR has not finished: node n2 is offline in LINSTOR", 0},
		"LINSTOR has finished": {&controller{replicas: []linstor.Replica{{Node: "n2", InUse: &no}}},
			"grow filesystem of pvc-11: the volume itself has not grown yet", 0},
		"LINSTOR does not answer": {&controller{growing: true, err: linstor.ErrUnreachable},
			"grow filesystem of pvc-11: the volume itself has not grown yet", 0},
	} {
		exports := fake.New(newExport())
		report(t, exports, metav1.ConditionFalse, "the volume itself has not grown yet")
		_, _, err := wrap(inner{}, exports, test.linstor).Resize(newVolume(), large)
		if err == nil || err.Error() != test.want || test.linstor.retried != test.retried {
			t.Errorf("%s: %v after %d tries", name, err, test.linstor.retried)
		}
	}
}

func TestSpecSizeNeverShrinks(t *testing.T) {
	export := newExport()
	export.Spec.Size = resource.MustParse("4Gi")
	exports := fake.New(export)
	report(t, exports, metav1.ConditionTrue, "")
	if _, _, err := wrap(inner{}, exports, &controller{}).Resize(newVolume(), large); err != nil {
		t.Error(err)
	}
	current, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
	if err != nil || current.Spec.Size.String() != "4Gi" {
		t.Errorf("%v, %v", current, err)
	}
}

// LINSTOR takes nothing back: the claim gets what is there.
func TestVolumeThatIsLargerAlreadyIsNotMadeSmaller(t *testing.T) {
	export := newExport()
	exports := fake.New(export)
	report(t, exports, metav1.ConditionTrue, "")
	driver := inner{refuses: func(want resource.Quantity) error {
		if want.Cmp(resource.MustParse("4Gi")) == 0 {
			go func() { // the supervisor
				time.Sleep(20 * time.Millisecond)
				report(t, exports, metav1.ConditionTrue, "")
			}()
			return nil
		}
		return status.Error(codes.Internal, "ControllerExpandVolume - expand volume failed for &{pvc-11}: storage only support expand does not support reduce.volumeInfo: &{pvc-11} old: 4194304, new: 2097152")
	}}
	size, _, err := wrap(driver, exports, &controller{sizeKiB: 4 << 20}).Resize(newVolume(), large)
	if err != nil || size.String() != "4Gi" {
		t.Errorf("%s, %v", size.String(), err)
	}
}

func TestOtherVolumesPassThroughUntouched(t *testing.T) {
	exports := fake.New()
	exports.Before = func(string, string) error { return errors.New("nobody may ask") }
	plain := newVolume()
	plain.Labels, plain.Spec.CSI.VolumeAttributes = nil, nil
	drivers := newVolume() // of linstor-csi's own ReadWriteMany support
	drivers.Labels = nil
	refusal := status.Error(codes.OutOfRange, "not enough space")
	for _, pv := range []*corev1.PersistentVolume{plain, drivers} {
		if size, _, err := wrap(inner{}, exports, nil).Resize(pv, large); err != nil || size.Cmp(large) != 0 {
			t.Errorf("%s, %v", size.String(), err)
		}
		driver := inner{refuses: func(resource.Quantity) error { return refusal }}
		if _, _, err := wrap(driver, exports, nil).Resize(pv, large); !errors.Is(err, refusal) || err.Error() != refusal.Error() {
			t.Errorf("the driver's answer became %v", err)
		}
	}
}
