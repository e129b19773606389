package resizer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kubernetes-csi/external-resizer/v2/pkg/controller"
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
	"github.com/linbit/linstor-rwx/pkg/names"
)

var small, large = resource.MustParse("1Gi"), resource.MustParse("2Gi")

// inner answers as linstor-csi does for a ReadWriteMany volume.
type inner struct {
	csiresizer.Resizer
	err error
}

func (inner) Name() string                              { return names.Driver }
func (inner) DriverSupportsControlPlaneExpansion() bool { return true }
func (inner) CanSupport(*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) bool {
	return true
}
func (i inner) Resize(_ *corev1.PersistentVolume, want resource.Quantity) (resource.Quantity, bool, error) {
	return want, false, i.err
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
	if _, err := exports.UpdateStatus(t.Context(), export, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func wrap(exports *fake.Client, err error) csiresizer.Resizer {
	w := Wrap(inner{err: err}, exports, 200*time.Millisecond).(*resizer)
	w.poll = time.Millisecond
	return w
}

func TestClaimGrowsOnlyAfterFilesystem(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "shared", Namespace: "default", UID: "11"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-11", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: large}}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{corev1.ResourceStorage: small}}}
	client := kubefake.NewClientset(claim, newVolume())
	factory := informers.NewSharedInformerFactory(client, 0)
	exports := fake.New(newExport())
	report(t, exports, metav1.ConditionTrue, "") // of the old size
	rc := controller.NewResizeController("linstor", wrap(exports, nil), client, time.Hour, factory,
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](10*time.Millisecond, 50*time.Millisecond), false, time.Second)
	factory.Start(t.Context().Done())
	go rc.Run(2, t.Context(), nil)

	sizes := func() (c, v resource.Quantity) {
		current, err := client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "shared", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		volume, err := client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-11", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return current.Status.Capacity[corev1.ResourceStorage], volume.Spec.Capacity[corev1.ResourceStorage]
	}
	wanted := func() bool {
		export, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
		return err == nil && export.Spec.Size.Cmp(large) == 0
	}
	wait(t, wanted)
	time.Sleep(300 * time.Millisecond) // more than one try
	if c, v := sizes(); c.Cmp(small) != 0 || v.Cmp(small) != 0 {
		t.Errorf("claim %s, volume %s before the filesystem grew", c.String(), v.String())
	}
	report(t, exports, metav1.ConditionTrue, "")
	wait(t, func() bool {
		c, v := sizes()
		return c.Cmp(large) == 0 && v.Cmp(large) == 0
	})
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
		"grow filesystem of pvc-11: no node serves it":                func(*fake.Client) {},
		"grow filesystem of pvc-11: node n1 has not grown it yet":     func(e *fake.Client) { report(t, e, metav1.ConditionTrue, "of the old size") },
		"grow filesystem of pvc-11: resize2fs: No space left on disk": func(e *fake.Client) { report(t, e, metav1.ConditionFalse, "resize2fs: No space left on disk") },
	} {
		exports := fake.New(newExport())
		prepare(exports)
		size, _, err := wrap(exports, nil).Resize(newVolume(), large)
		if err == nil || err.Error() != want || size.Cmp(small) != 0 {
			t.Errorf("%s: %s, %v", want, size.String(), err)
		}
		if _, isStatus := status.FromError(err); isStatus {
			t.Errorf("%s: has a gRPC status, so the controller could take it for final", want)
		}
	}
}

func TestSpecSizeNeverShrinks(t *testing.T) {
	export := newExport()
	export.Spec.Size = resource.MustParse("4Gi")
	exports := fake.New(export)
	report(t, exports, metav1.ConditionTrue, "")
	if _, _, err := wrap(exports, nil).Resize(newVolume(), large); err != nil {
		t.Error(err)
	}
	current, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
	if err != nil || current.Spec.Size.String() != "4Gi" {
		t.Errorf("%v, %v", current, err)
	}
}

func TestOtherVolumesPassThroughUntouched(t *testing.T) {
	exports := fake.New()
	exports.Before = func(string, string) error { return errors.New("nobody may ask") }
	plain := newVolume()
	plain.Labels, plain.Spec.CSI.VolumeAttributes = nil, nil
	drivers := newVolume() // of linstor-csi's own ReadWriteMany support
	drivers.Labels = nil
	for _, pv := range []*corev1.PersistentVolume{plain, drivers} {
		if size, _, err := wrap(exports, nil).Resize(pv, large); err != nil || size.Cmp(large) != 0 {
			t.Errorf("%s, %v", size.String(), err)
		}
	}
}

func TestErrorsOfTheDriverPassThroughWithTheirStatus(t *testing.T) {
	refusal := status.Error(codes.OutOfRange, "not enough space")
	_, _, err := wrap(fake.New(newExport()), refusal).Resize(newVolume(), large)
	if !strings.Contains(err.Error(), "not enough space") || status.Code(err) != codes.OutOfRange {
		t.Errorf("got %v", err)
	}
}
