package provisioner

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/linbit/linstor-rwx/pkg/linstor"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// A restore or clone copies all volume definitions and all properties of its source.
// So a ReadWriteMany copy of an exported volume has a recovery volume already, with
// client records that the supervisor finds to be foreign; that of a plain volume gets
// one afterwards; and a plain copy of an exported volume has one that nobody needs.

// guardCopy refuses, before anything is made, a copy with another filesystem than
// its source's, which no supervisor would mount, and a clone to which the recovery
// volume cannot be added. Snapshots exist on thin pools only, where it always can.
func (p *Provisioner) guardCopy(ctx context.Context, r *request) error {
	volume, err := p.sourceVolume(ctx, r.claim)
	if err != nil || volume == nil || volume.Spec.CSI == nil || volume.Spec.CSI.Driver != p.Driver {
		return err // of what is missing csi-provisioner says so in its own words
	}
	if held := volume.Spec.CSI.FSType; held != "" && held != r.FSType {
		return fmt.Errorf("its source %s holds %s, but StorageClass %s says %s: use a class with %s", volume.Name, held, r.class.Name, r.FSType, held)
	}
	if sourceClaim(r.claim) == "" {
		return nil
	}
	name := trimVolumeNumber(volume.Spec.CSI.VolumeHandle)
	definition, err := p.Linstor.Definition(ctx, name)
	if err != nil {
		return err
	}
	if definition == nil {
		return nil
	}
	return p.guardAddition(ctx, definition)
}

// guardRetriedCopy refuses a definition that is not from an earlier try: linstor-csi
// would take a complete volume of that name and size for the copy it is to make. The
// intent is written before linstor-csi is called, so without one it is a stranger's.
func (p *Provisioner) guardRetriedCopy(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	export, err := p.Exports.Get(ctx, r.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("resource definition %s exists and is not from linstor-rwx: rename or remove it", r.resourceName)
	}
	if err != nil {
		return fmt.Errorf("get NFSExport %s: %w", r.name, err)
	}
	return r.checkExport(export)
}

// sourceVolume returns the volume that the claim is to be a copy of, or nil if it is
// not known (any more).
func (p *Provisioner) sourceVolume(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, error) {
	if source := sourceClaim(claim); source != "" {
		cloned, err := p.Claims.PersistentVolumeClaims(claim.Namespace).Get(source)
		if err != nil || cloned.Spec.VolumeName == "" {
			return nil, nil // see guardCopy
		}
		volume, err := p.Volumes.Get(cloned.Spec.VolumeName)
		if err != nil {
			return nil, nil // see guardCopy
		}
		return volume, nil
	}
	source := claim.Spec.DataSource
	if source == nil || source.Kind != "VolumeSnapshot" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	snapshot, err := p.Snapshots.SnapshotV1().VolumeSnapshots(claim.Namespace).Get(ctx, source.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get VolumeSnapshot %s: %w", source.Name, err)
	}
	if snapshot.Status == nil || snapshot.Status.BoundVolumeSnapshotContentName == nil {
		return nil, nil
	}
	content, err := p.Snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, *snapshot.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && content.Spec.Source.VolumeHandle == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get VolumeSnapshotContent %s: %w", *snapshot.Status.BoundVolumeSnapshotContentName, err)
	}
	return p.volumeOf(*content.Spec.Source.VolumeHandle)
}

// volumeOf returns the volume of ours with this handle, or nil.
func (p *Provisioner) volumeOf(handle string) (*corev1.PersistentVolume, error) {
	volumes, err := p.Volumes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	for _, volume := range volumes {
		if volume.Spec.CSI != nil && volume.Spec.CSI.Driver == p.Driver && trimVolumeNumber(volume.Spec.CSI.VolumeHandle) == trimVolumeNumber(handle) {
			return volume, nil
		}
	}
	return nil, nil
}

// sourceClaim returns the name of the claim that claim is a clone of, if it is one.
func sourceClaim(claim *corev1.PersistentVolumeClaim) string {
	if source := claim.Spec.DataSource; source != nil && source.Kind == "PersistentVolumeClaim" {
		return source.Name
	}
	if source := claim.Spec.DataSourceRef; source != nil && source.Kind == "PersistentVolumeClaim" && source.Namespace == nil {
		return source.Name
	}
	return ""
}

// guardAddition refuses to add a recovery volume to a placed resource where it would
// never become UpToDate: DRBD could then not promote the data either.
func (p *Provisioner) guardAddition(ctx context.Context, definition *linstor.Definition) error {
	if _, found := definition.Volume(names.RecoveryVolume); found {
		return nil
	}
	replicas, err := p.Linstor.Replicas(ctx, definition.Name)
	if err != nil {
		return err
	}
	kind, found := linstor.OnThickPool(replicas)
	if !found {
		return nil
	}
	version, err := p.Linstor.Version(ctx)
	if err != nil {
		return err
	}
	if linstor.AddsVolumesSafely(version) {
		return nil
	}
	return fmt.Errorf("LINSTOR %s cannot add a recovery volume to %s on a storage pool of kind %s: upgrade LINSTOR to 1.33.3 or use a thin pool", version, definition.Name, kind)
}

// completeCopy gives a restored or cloned volume our marker, instead of its source's,
// and a recovery volume if its source had none.
func (p *Provisioner) completeCopy(ctx context.Context, r *request) error {
	definition, err := p.Linstor.Definition(ctx, r.resourceName)
	if err != nil {
		return err
	}
	if definition == nil {
		return fmt.Errorf("resource definition %s has vanished from LINSTOR", r.resourceName)
	}
	if definition.Export != r.name {
		if err := p.Linstor.Mark(ctx, r.resourceName, r.name); err != nil {
			return err
		}
	}
	if err := p.guardAddition(ctx, definition); err != nil {
		return err
	}
	return p.Linstor.EnsureRecoveryVolume(ctx, r.resourceName, r.name, r.RecoveryKiB)
}

// passThrough serves every claim that is not ours. Only a copy of an exported volume
// is looked at afterwards, and never fails for it.
func (p *Provisioner) passThrough(ctx context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	pv, state, err := p.Provisioner.Provision(ctx, options)
	if err == nil && hasSource(options.PVC) && pv.Spec.CSI != nil {
		if err := p.dropRecovery(ctx, trimVolumeNumber(pv.Spec.CSI.VolumeHandle)); err != nil {
			klog.FromContext(ctx).Info("Kept the recovery volume in a copy that does not need it", "claim", klog.KObj(options.PVC), "err", err)
		}
	}
	return pv, state, err
}

// dropRecovery removes the recovery volume from a plain copy of an exported volume.
// It costs space, and a grow is refused while it is not UpToDate. The PersistentVolume
// is not published yet, so nobody can be using it; if LINSTOR does not know that of
// every node, the volume stays.
func (p *Provisioner) dropRecovery(ctx context.Context, name string) error {
	definition, err := p.Linstor.Definition(ctx, name)
	if err != nil || definition == nil || definition.Export == "" {
		return err
	}
	volume, found := definition.Volume(names.RecoveryVolume)
	if found && volume.Recovery && !volume.Deleting {
		replicas, err := p.Linstor.Replicas(ctx, name)
		if err != nil {
			return err
		}
		if !linstor.KnownUnused(replicas) {
			return fmt.Errorf("it is not known of every node that %s is unused", name)
		}
		if err := p.Linstor.RemoveRecoveryVolume(ctx, name); err != nil {
			return err
		}
	}
	return p.Linstor.Unmark(ctx, name)
}
