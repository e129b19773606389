package supervisor

import (
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	exportsfake "github.com/linbit/linstor-rwx/pkg/exports/fake"
	"github.com/linbit/linstor-rwx/pkg/names"
)

func attachment(name, attacher, volume string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{
		Attacher: attacher, NodeName: "n9", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To(volume)}}}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

func TestOnlyTheDriversAttachmentsWakeAnExport(t *testing.T) {
	export := newExport()
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		attachment("a", "other.csi.example.com", testExport))
	informers, err := NewInformers(Settings{NodeName: "n1", PodNamespace: "linstor-rwx", Resync: time.Hour}, client, exportsfake.New(export))
	if err != nil {
		t.Fatal(err)
	}
	if err := informers.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var lock sync.Mutex
	var triggered []string
	all := 0
	if err := informers.Notify(func(name string) {
		lock.Lock()
		defer lock.Unlock()
		triggered = append(triggered, name)
	}, func() { lock.Lock(); all++; lock.Unlock() }, func() {}); err != nil {
		t.Fatal(err)
	}
	if informers.Attached(testExport) || informers.Cordoned() {
		t.Errorf("attached by a foreign driver, or cordoned from the start")
	}
	if got := informers.ExportsOf(testExport); !slices.Equal(got, []string{testExport}) || informers.Export(testExport) == nil {
		t.Errorf("exports of the resource: %v", got)
	}
	eventually(t, "the trigger of the first list", func() bool { lock.Lock(); defer lock.Unlock(); return len(triggered) == 1 })

	for _, object := range []*storagev1.VolumeAttachment{attachment("b", names.Driver, "pvc-of-others"), attachment("c", names.Driver, testExport)} {
		if _, err := client.StorageV1().VolumeAttachments().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the attachment", func() bool { return informers.Attached(testExport) })
	eventually(t, "its trigger", func() bool { lock.Lock(); defer lock.Unlock(); return len(triggered) == 2 })

	if err := client.StorageV1().VolumeAttachments().Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the detachment", func() bool { return !informers.Attached(testExport) })
	eventually(t, "its trigger", func() bool { lock.Lock(); defer lock.Unlock(); return len(triggered) == 3 })

	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{Unschedulable: true}}
	if _, err := client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cordon", func() bool { lock.Lock(); defer lock.Unlock(); return informers.Cordoned() && all == 1 })
	lock.Lock()
	defer lock.Unlock()
	if slices.Contains(triggered, "pvc-of-others") {
		t.Errorf("triggered for a volume that is no export: %v", triggered)
	}
}
