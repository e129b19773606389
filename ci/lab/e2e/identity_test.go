package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// The API server itself refuses what would give every client of an export "Stale
// file handle": a change of its identity. What is not known yet can be filled in.
func TestIdentityOfAnExportCannotChange(t *testing.T) {
	t.Parallel()
	ctx, c := setup(t, time.Minute)
	export := &v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{Name: c.Namespace + "-identity"}}
	export.Spec = v1alpha1.NFSExportSpec{
		ResourceDefinition: v1alpha1.ResourceDefinition{Name: export.Name},
		ServerScope:        export.Name,
		FSType:             "ext4",
		Size:               resource.MustParse("64Mi"),
	}
	export = must1(c.Exports.Create(ctx, export, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { must(t, c.Exports.Delete(context.Background(), export.Name, metav1.DeleteOptions{})) })
	if export.Spec.LeaseSeconds != 12 || export.Spec.GraceSeconds != 60 || export.Spec.Policy != v1alpha1.OnDemand {
		t.Errorf("defaults are lease %d s, grace %d s, policy %s", export.Spec.LeaseSeconds, export.Spec.GraceSeconds, export.Spec.Policy)
	}

	export.Spec.ResourceDefinition.UUID = "4f5b0d3e-0000-4000-8000-000000000001"
	export.Spec.ExportID, export.Spec.FSID = 7, "1.2"
	export.Spec.Service = &v1alpha1.ServiceReference{Namespace: c.Namespace, Name: export.Name, ClusterIP: "10.96.255.254", Port: 2049}
	export = must1(c.Exports.Update(ctx, export, metav1.UpdateOptions{}))(t)

	dryRun := metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}}
	for name, change := range map[string]func(*v1alpha1.NFSExportSpec){
		"resource definition":        func(s *v1alpha1.NFSExportSpec) { s.ResourceDefinition.Name = "other" },
		"UUID":                       func(s *v1alpha1.NFSExportSpec) { s.ResourceDefinition.UUID = "other" },
		"UUID removed":               func(s *v1alpha1.NFSExportSpec) { s.ResourceDefinition.UUID = "" },
		"export id":                  func(s *v1alpha1.NFSExportSpec) { s.ExportID = 8 },
		"export id removed":          func(s *v1alpha1.NFSExportSpec) { s.ExportID = 0 },
		"fsid":                       func(s *v1alpha1.NFSExportSpec) { s.FSID = "1.3" },
		"server scope":               func(s *v1alpha1.NFSExportSpec) { s.ServerScope = "other" },
		"address":                    func(s *v1alpha1.NFSExportSpec) { s.Service.ClusterIP = "10.96.255.253" },
		"service removed":            func(s *v1alpha1.NFSExportSpec) { s.Service = nil },
		"filesystem":                 func(s *v1alpha1.NFSExportSpec) { s.FSType = "xfs" },
		"lease out of bounds":        func(s *v1alpha1.NFSExportSpec) { s.LeaseSeconds = 1 },
		"mode that is not octal":     func(s *v1alpha1.NFSExportSpec) { s.RootDirectory.Mode = "0888" },
		"squash that does not exist": func(s *v1alpha1.NFSExportSpec) { s.Squash = "none" },
		"fsid that is one number":    func(s *v1alpha1.NFSExportSpec) { s.FSID = "1" },
	} {
		changed := export.DeepCopy()
		change(&changed.Spec)
		if _, err := c.Exports.Update(ctx, changed, dryRun); !apierrors.IsInvalid(err) {
			t.Errorf("a change of the %s is answered with %v, want a refusal", name, err)
		}
	}

	changed := export.DeepCopy()
	changed.Spec.ExportID = 8
	_, err := c.Exports.Update(ctx, changed, dryRun)
	if err == nil || !strings.Contains(err.Error(), "exportID is immutable") {
		t.Errorf("the refusal does not say why: %v", err)
	}
	changed = export.DeepCopy()
	changed.Spec.LeaseSeconds, changed.Spec.GraceSeconds = 60, 60
	if _, err := c.Exports.Update(ctx, changed, dryRun); err == nil || !strings.Contains(err.Error(), "at least twice leaseSeconds") {
		t.Errorf("a grace that no server could keep is answered with %v", err)
	}
	changed = export.DeepCopy()
	changed.Spec.Size, changed.Spec.Policy = resource.MustParse("128Mi"), v1alpha1.Always
	if _, err := c.Exports.Update(ctx, changed, dryRun); err != nil {
		t.Errorf("size and policy may change, but: %v", err)
	}
}
