package fake

import (
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports"
)

func newExport(name string) *v1alpha1.NFSExport {
	export := &v1alpha1.NFSExport{}
	export.Name = name
	export.Spec = v1alpha1.NFSExportSpec{ServerScope: name, FSType: "ext4", ResourceDefinition: v1alpha1.ResourceDefinition{Name: name}}
	return export
}

func TestInformerSeesExportsAndTheirChanges(t *testing.T) {
	client := New(newExport("a"))
	informer, lister := exports.NewInformer(client, 0)
	go informer.Run(t.Context().Done())
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("informer did not sync")
	}
	if _, err := lister.Get("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(t.Context(), newExport("b"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		if _, err := lister.Get("b"); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("informer did not see the new export")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestObjectWithFinalizerStaysUntilItIsRemoved(t *testing.T) {
	export := newExport("a")
	export.Finalizers = []string{"test/x"}
	client := New(export)
	if err := client.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	current, err := client.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || current.DeletionTimestamp == nil {
		t.Fatalf("got %v, %v; want an object that is being deleted", current, err)
	}
	current.Finalizers = nil
	if _, err := client.Update(t.Context(), current, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get: %v, want not found", err)
	}
}

func TestIdentityIsSetOnce(t *testing.T) {
	client := New(newExport("a"))
	export, err := client.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	export.Spec.ExportID = 7
	if export, err = client.Update(t.Context(), export, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if export.Generation != 2 {
		t.Errorf("generation %d, want 2", export.Generation)
	}
	stale := export.DeepCopy()
	export.Spec.ExportID = 8
	if _, err := client.Update(t.Context(), export, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("change of exportID: %v, want invalid", err)
	}
	stale.ResourceVersion = "1"
	if _, err := client.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale update: %v, want conflict", err)
	}
}
