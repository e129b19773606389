package provisioner

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/linstor"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Delete implements controller.Provisioner. The order matters: the last client goes
// before the export, for it would hang without its server; the export goes before the
// volume, which LINSTOR keeps while a server has it open. An error is retried, and
// nothing is half removed: until LINSTOR deletes, the export is only withdrawn.
func (p *Provisioner) Delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv == nil || pv.Spec.CSI == nil || pv.Spec.CSI.VolumeAttributes[names.ExportAttribute] == "" || pv.Labels[names.ExportLabel] == "" {
		// Also volumes of linstor-csi's own ReadWriteMany support.
		return p.Provisioner.Delete(ctx, pv)
	}
	defer p.locks.lock(pv.Name)()
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("export", pv.Name))
	if err := p.checkDetached(pv); err != nil {
		return err
	}
	name := trimVolumeNumber(pv.Spec.CSI.VolumeHandle)
	// Before the export goes: without LINSTOR the volume cannot follow, and an export
	// that cannot be deleted had better stay.
	if _, err := p.Linstor.Definition(ctx, name); err != nil {
		return err
	}
	if err := p.withdraw(ctx, pv.Name); err != nil {
		return err
	}
	if err := p.waitUnused(ctx, name); err != nil {
		return err
	}
	return p.Provisioner.Delete(ctx, pv) // unwrapped: the library looks at its type
}

// checkDetached is the check of the wrapped provisioner, made before the export goes.
func (p *Provisioner) checkDetached(pv *corev1.PersistentVolume) error {
	attachments, err := p.Attachments.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list volume attachments: %w", err)
	}
	var nodes []string
	for _, a := range attachments {
		if name := a.Spec.Source.PersistentVolumeName; name != nil && *name == pv.Name {
			nodes = append(nodes, a.Spec.NodeName)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	slices.Sort(nodes)
	return fmt.Errorf("volume %s is still attached to %s: remove the pods that use it", pv.Name, strings.Join(nodes, ", "))
}

// withdraw deletes the NFSExport and waits until the supervisors have let it go.
func (p *Provisioner) withdraw(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, p.Settings.WithdrawTimeout)
	defer cancel()
	var export *v1alpha1.NFSExport
	for {
		current, err := p.Exports.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil && current.DeletionTimestamp == nil {
			err = p.deleteExport(ctx, current)
			klog.FromContext(ctx).V(2).Info("Withdrawing export", "err", err)
		}
		if err == nil {
			export = current
		}
		if sleep(ctx, p.poll) {
			continue
		}
		if export == nil {
			return fmt.Errorf("get NFSExport %s: %w", name, err)
		}
		return waitingFor(export)
	}
}

// waitingFor says why an export is not withdrawn yet.
func waitingFor(export *v1alpha1.NFSExport) error {
	if node := export.Status.Node; node != "" {
		return fmt.Errorf("export %s is still served by node %s: waiting for its ganesha-supervisor to stop it", export.Name, node)
	}
	return fmt.Errorf("export %s is not withdrawn yet: waiting for a ganesha-supervisor of a node that has it", export.Name)
}

// waitUnused waits until no node says that it uses the resource. Of an offline node
// LINSTOR knows nothing; its supervisor has agreed to the withdrawal or another node
// has taken the export over, and LINSTOR deletes its replica when it is back.
func (p *Provisioner) waitUnused(ctx context.Context, name string) error {
	wait, cancel := context.WithTimeout(ctx, p.Settings.WithdrawTimeout)
	defer cancel()
	for {
		replicas, err := p.Linstor.Replicas(ctx, name)
		if err != nil {
			return err
		}
		users := linstor.UsedBy(replicas)
		if len(users) == 0 {
			return nil
		}
		if !sleep(wait, p.poll) {
			return fmt.Errorf("node %s still uses resource %s: waiting until it is Secondary there", strings.Join(users, ", "), name)
		}
	}
}
