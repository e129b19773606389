package provisioner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// apiTimeout bounds a group of requests to the API server: the library sets no
// deadline.
const apiTimeout = 30 * time.Second

// discardTimeout bounds the cleaning after a failure.
const discardTimeout = time.Minute

// ensureIntent writes the NFSExport before anything is made in LINSTOR, so that a
// crash never leaves a volume that nobody knows of. It has no finalizer yet: without
// identity nobody can serve it, so nobody would have to withdraw it.
func (p *Provisioner) ensureIntent(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := p.Exports.Create(ctx, r.newExport(), metav1.CreateOptions{})
	if err == nil {
		klog.FromContext(ctx).V(2).Info("Wrote intent to export")
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create NFSExport %s: %w", r.name, err)
	}
	export, err := p.Exports.Get(ctx, r.name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get NFSExport %s: %w", r.name, err)
	}
	return r.checkExport(export)
}

// checkExport refuses an NFSExport that this claim cannot use.
func (r *request) checkExport(export *v1alpha1.NFSExport) error {
	claim := export.Spec.Claim
	switch {
	case export.DeletionTimestamp != nil:
		return fmt.Errorf("NFSExport %s of an earlier try is still being withdrawn", r.name)
	case claim == nil || claim.UID != string(r.claim.UID):
		return fmt.Errorf("NFSExport %s exists for another claim: remove it", r.name)
	case export.Spec.ResourceDefinition.Name != r.resourceName:
		return fmt.Errorf("NFSExport %s exists for resource definition %s, not %s: remove the claim and make it again", r.name, export.Spec.ResourceDefinition.Name, r.resourceName)
	case export.Spec.FSType != r.FSType:
		return fmt.Errorf("NFSExport %s exists with filesystem %s, but StorageClass %s now says %s: remove the claim and make it again", r.name, export.Spec.FSType, r.class.Name, r.FSType)
	}
	return nil
}

// discard removes what prepare has made, as far as it is certain that nothing else
// is in it, and tells whether nothing is left. It outlives ctx and never fails: the
// next try or the sweep removes the rest.
func (p *Provisioner) discard(ctx context.Context, r *request) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	logger := klog.FromContext(ctx)
	gone, err := p.Linstor.RemoveUnused(ctx, r.resourceName, r.name)
	if err != nil || !gone {
		logger.V(2).Info("Keeping the volume of a failed try", "err", err)
		return false
	}
	if err := p.removeIntent(ctx, r.name, string(r.claim.UID)); err != nil {
		logger.V(2).Info("Keeping the NFSExport of a failed try", "err", err)
	}
	return true
}

// removeIntent removes the NFSExport of a claim that never got an identity. The
// resource definition must be gone before: the intent is what leads to it.
func (p *Provisioner) removeIntent(ctx context.Context, name, claim string) error {
	export, err := p.Exports.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get NFSExport %s: %w", name, err)
	}
	if export.Spec.ResourceDefinition.UUID != "" || export.Spec.Claim == nil || export.Spec.Claim.UID != claim {
		return nil
	}
	return p.deleteExport(ctx, export)
}

func (p *Provisioner) deleteExport(ctx context.Context, export *v1alpha1.NFSExport) error {
	err := p.Exports.Delete(ctx, export.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &export.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete NFSExport %s: %w", export.Name, err)
	}
	return nil
}

// recordIdentity writes the identity of the export, once: it becomes part of the
// clients' file handles. From now on supervisors may serve it, so the finalizer is
// set in the same write.
func (p *Provisioner) recordIdentity(ctx context.Context, r *request, pv *corev1.PersistentVolume) (*v1alpha1.NFSExport, error) {
	definition, err := p.Linstor.Definition(ctx, r.resourceName)
	if err != nil {
		return nil, err
	}
	if definition == nil || definition.UUID == "" {
		return nil, fmt.Errorf("resource definition %s has vanished from LINSTOR", r.resourceName)
	}

	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	export, err := p.Exports.Get(ctx, r.name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get NFSExport %s: %w", r.name, err)
	}
	if err := r.checkExport(export); err != nil {
		return nil, err
	}
	switch recorded := export.Spec.ResourceDefinition.UUID; {
	case recorded == definition.UUID:
		return export, nil
	case recorded != "":
		// Somebody removed the volume under an export that no PersistentVolume has
		// shown to anybody yet: begin anew.
		if err := p.deleteExport(ctx, export); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("resource definition %s was replaced while the volume was made: starting again", r.resourceName)
	}
	export = export.DeepCopy()
	export.Spec.ResourceDefinition.UUID = definition.UUID
	export.Spec.ExportID = names.ExportID(definition.UUID)
	export.Spec.FSID = names.FSID(definition.UUID)
	export.Spec.Size = pv.Spec.Capacity[corev1.ResourceStorage]
	if !slices.Contains(export.Finalizers, names.WithdrawFinalizer) {
		export.Finalizers = append(export.Finalizers, names.WithdrawFinalizer)
	}
	updated, err := p.Exports.Update(ctx, export, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("record identity in NFSExport %s: %w", r.name, err)
	}
	return updated, nil
}

// publish completes the PersistentVolume for unmodified linstor-csi node plugins.
func publish(pv *corev1.PersistentVolume, r *request, export *v1alpha1.NFSExport) {
	// Else the claim would never bind to it.
	pv.Spec.AccessModes = r.claim.Spec.AccessModes
	// Every node reaches the export, wherever the replicas are.
	pv.Spec.NodeAffinity = nil
	pv.Spec.MountOptions = r.NFSOptions
	delete(pv.Spec.CSI.VolumeAttributes, names.MountOptionsAttribute)
	pv.Spec.CSI.VolumeAttributes[names.ExportAttribute] = exportURL(export.Spec.Service, export.Name)
	metav1.SetMetaDataLabel(&pv.ObjectMeta, names.ExportLabel, export.Name)
}

// exportURL is what linstor-csi mounts. It needs a port and a path.
func exportURL(service *v1alpha1.ServiceReference, export string) string {
	return fmt.Sprintf("nfs://%s:%d%s", service.ClusterIP, service.Port, names.ExportPath(export))
}

// trimVolumeNumber removes the "/0" that linstor-csi from 1.11.3 on adds to handles.
func trimVolumeNumber(handle string) string {
	name, _, _ := strings.Cut(handle, "/")
	return name
}
