package scenario

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Class describes a StorageClass. The zero values of the fields are a user's
// first class: two replicas in the pool "pool", bound at once, reclaimed.
type Class struct {
	Name       string
	Parameters map[string]string
	FSType     string
	// WaitForFirstConsumer binds when a pod is scheduled.
	WaitForFirstConsumer bool
	Retain               bool
	MountOptions         []string
}

// CreateClass makes a StorageClass.
func (c *Cluster) CreateClass(ctx context.Context, class Class) error {
	parameters := map[string]string{
		names.Driver + "/placementCount": "2",
		names.Driver + "/storagePool":    "pool",
		"csi.storage.k8s.io/fstype":      "ext4",
	}
	if class.FSType != "" {
		parameters["csi.storage.k8s.io/fstype"] = class.FSType
	}
	for key, value := range class.Parameters {
		parameters[key] = value
	}
	binding, reclaim, expansion := storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimDelete, true
	if class.WaitForFirstConsumer {
		binding = storagev1.VolumeBindingWaitForFirstConsumer
	}
	if class.Retain {
		reclaim = corev1.PersistentVolumeReclaimRetain
	}
	_, err := c.Client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:           metav1.ObjectMeta{Name: class.Name},
		Provisioner:          names.Driver,
		Parameters:           parameters,
		MountOptions:         class.MountOptions,
		VolumeBindingMode:    &binding,
		ReclaimPolicy:        &reclaim,
		AllowVolumeExpansion: &expansion,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create class %s: %w", class.Name, err)
	}
	return nil
}

// DeleteClass removes a StorageClass.
func (c *Cluster) DeleteClass(ctx context.Context, name string) error {
	err := c.Client.StorageV1().StorageClasses().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete class %s: %w", name, err)
	}
	return nil
}

// Claim describes a claim; without Modes it is ReadWriteMany, without Size 64Mi.
type Claim struct {
	Name   string
	Class  string
	Size   string
	Modes  []corev1.PersistentVolumeAccessMode
	Block  bool
	Labels map[string]string
	// CloneOf is a claim of the namespace whose volume is copied.
	CloneOf string
}

// CreateClaim makes a claim.
func (c *Cluster) CreateClaim(ctx context.Context, claim Claim) error {
	if claim.Size == "" {
		claim.Size = "64Mi"
	}
	if claim.Modes == nil {
		claim.Modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	}
	size, err := resource.ParseQuantity(claim.Size)
	if err != nil {
		return fmt.Errorf("parse size %q: %w", claim.Size, err)
	}
	mode := corev1.PersistentVolumeFilesystem
	if claim.Block {
		mode = corev1.PersistentVolumeBlock
	}
	var source *corev1.TypedLocalObjectReference
	if claim.CloneOf != "" {
		source = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: claim.CloneOf}
	}
	_, err = c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: claim.Name, Labels: claim.Labels},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      claim.Modes,
			StorageClassName: &claim.Class,
			VolumeMode:       &mode,
			DataSource:       source,
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: size}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create claim %s: %w", claim.Name, err)
	}
	return nil
}

// WaitBound waits until a claim is Bound and returns its volume.
func (c *Cluster) WaitBound(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	var volume *corev1.PersistentVolume
	err := WaitFor(ctx, "claim "+name+" to be Bound", func(ctx context.Context) (bool, error) {
		claim, err := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil || claim.Status.Phase != corev1.ClaimBound {
			return false, err
		}
		volume, err = c.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		return err == nil, err
	})
	if err != nil {
		events, _ := c.Events(context.WithoutCancel(ctx), "PersistentVolumeClaim", name)
		for _, event := range events {
			err = fmt.Errorf("%w; %s: %s", err, event.Reason, event.Message)
		}
		return nil, err
	}
	return volume, nil
}

// DeleteClaim asks for a claim's deletion and does not wait.
func (c *Cluster) DeleteClaim(ctx context.Context, name string) error {
	err := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete claim %s: %w", name, err)
	}
	return nil
}

// WaitVolumeGone waits until a volume, its export and its service are gone.
func (c *Cluster) WaitVolumeGone(ctx context.Context, volume string) error {
	return WaitFor(ctx, "volume "+volume+" to be gone", func(ctx context.Context) (bool, error) {
		pv, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, volume, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			if err == nil {
				err = fmt.Errorf("volume is %s: %s", pv.Status.Phase, pv.Status.Message)
			}
			return false, err
		}
		if _, err := c.Exports.Get(ctx, volume, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return false, orElse(err, "export still exists")
		}
		services, err := c.Client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: names.ExportLabel + "=" + volume})
		if err != nil || len(services.Items) > 0 {
			return false, orElse(err, "service still exists")
		}
		return true, nil
	})
}

// orElse returns err, or text as an error if err is nil.
func orElse(err error, text string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%s", text)
}

// WaitExport waits until an export satisfies a condition and returns it.
func (c *Cluster) WaitExport(ctx context.Context, name, what string, good func(*v1alpha1.NFSExport) bool) (*v1alpha1.NFSExport, error) {
	var export *v1alpha1.NFSExport
	err := WaitFor(ctx, fmt.Sprintf("export %s to be %s", name, what), func(ctx context.Context) (bool, error) {
		got, err := c.Exports.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		export = got
		return good(export), nil
	})
	if err != nil && export != nil {
		err = fmt.Errorf("%w; it is %s on node %q: %s", err, export.Status.Phase, export.Status.Node, export.Status.Message)
	}
	return export, err
}

// WaitServing waits until an export is served and out of grace.
func (c *Cluster) WaitServing(ctx context.Context, name string) (*v1alpha1.NFSExport, error) {
	return c.WaitExport(ctx, name, "Serving", func(export *v1alpha1.NFSExport) bool { return export.Status.Phase == v1alpha1.PhaseServing })
}

// WaitIdle waits until nobody serves an export.
func (c *Cluster) WaitIdle(ctx context.Context, name string) (*v1alpha1.NFSExport, error) {
	return c.WaitExport(ctx, name, "Idle", func(export *v1alpha1.NFSExport) bool { return export.Status.Phase == v1alpha1.PhaseIdle })
}

// Move asks for a hand-over of an export to a node, as an administrator does, and
// does not wait.
func (c *Cluster) Move(ctx context.Context, export, node string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, names.MoveToAnnotation, node)
	if _, err := c.Exports.Patch(ctx, export, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("ask for a move of export %s to node %s: %w", export, node, err)
	}
	return nil
}
