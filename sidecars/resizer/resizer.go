// Package resizer finishes the growth of exported volumes: linstor-csi grows the
// block device, the serving node grows the filesystem, and only then the claim shows
// the new size. It does not grow anything itself.
package resizer

import (
	"context"
	"fmt"
	"time"

	csiresizer "github.com/kubernetes-csi/external-resizer/v2/pkg/resizer"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Exports is what this package needs of the NFSExports.
type Exports interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.NFSExport, error)
	Update(ctx context.Context, export *v1alpha1.NFSExport, options metav1.UpdateOptions) (*v1alpha1.NFSExport, error)
}

type resizer struct {
	csiresizer.Resizer
	exports Exports
	timeout time.Duration
	poll    time.Duration
}

// Wrap returns csi extended by exported volumes. A try waits up to timeout for the
// filesystem.
func Wrap(csi csiresizer.Resizer, exports Exports, timeout time.Duration) csiresizer.Resizer {
	return &resizer{Resizer: csi, exports: exports, timeout: timeout, poll: 250 * time.Millisecond}
}

// Resize implements resizer.Resizer. While the filesystem is smaller it returns an
// error without gRPC status: the controller takes that as "still running" and calls
// again. The wait is in here, because each failed try is a warning event.
func (r *resizer) Resize(pv *corev1.PersistentVolume, want resource.Quantity) (resource.Quantity, bool, error) {
	size, nodeExpansion, err := r.Resizer.Resize(pv, want)
	if err != nil || !isExported(pv) {
		return size, nodeExpansion, err // unwrapped: the controller looks at its status
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	if err := r.grow(ctx, pv.Name, size); err != nil {
		return pv.Spec.Capacity[corev1.ResourceStorage], false, err
	}
	return size, false, nil
}

// grow tells the supervisors the new size and waits until the filesystem has it.
func (r *resizer) grow(ctx context.Context, name string, size resource.Quantity) error {
	export, err := r.requestSize(ctx, name, size)
	if err != nil {
		return err
	}
	for !isGrown(export) {
		timer := time.NewTimer(r.poll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return notGrown(export)
		case <-timer.C:
		}
		current, err := r.exports.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("grow filesystem of %s: its NFSExport is gone", name)
		}
		if err == nil {
			export = current
		}
	}
	return nil
}

// requestSize sets spec.size, never to less.
func (r *resizer) requestSize(ctx context.Context, name string, size resource.Quantity) (*v1alpha1.NFSExport, error) {
	for {
		export, err := r.exports.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("get NFSExport %s: %w", name, err)
		}
		if export.Spec.Size.Cmp(size) >= 0 {
			return export, nil
		}
		export = export.DeepCopy()
		export.Spec.Size = size
		updated, err := r.exports.Update(ctx, export, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("set size in NFSExport %s: %w", name, err)
		}
		return updated, nil
	}
}

// isGrown tells whether the filesystem is as large as the spec says. The size
// that df shows is less than the device's by the filesystem's own needs. So what
// counts is the supervisor's word that the filesystem fills the device of that
// size: status.deviceBytes changes only after the filesystem has grown to it.
func isGrown(export *v1alpha1.NFSExport) bool {
	grown := meta.FindStatusCondition(export.Status.Conditions, v1alpha1.ConditionGrown)
	return grown != nil && grown.Status == metav1.ConditionTrue && export.Status.DeviceBytes >= export.Spec.Size.Value()
}

// notGrown says what is missing. Its text changes only with the reason.
func notGrown(export *v1alpha1.NFSExport) error {
	grown := meta.FindStatusCondition(export.Status.Conditions, v1alpha1.ConditionGrown)
	switch {
	case grown != nil && grown.Status == metav1.ConditionFalse && grown.Message != "":
		return fmt.Errorf("grow filesystem of %s: %s", export.Name, grown.Message)
	case export.Status.Node == "":
		return fmt.Errorf("grow filesystem of %s: no node serves it", export.Name)
	default:
		return fmt.Errorf("grow filesystem of %s: node %s has not grown it yet", export.Name, export.Status.Node)
	}
}

// isExported tells whether linstor-rwx serves the volume, not linstor-csi's own
// ReadWriteMany support.
func isExported(pv *corev1.PersistentVolume) bool {
	return pv.Spec.CSI != nil && pv.Spec.CSI.VolumeAttributes[names.ExportAttribute] != "" && pv.Labels[names.ExportLabel] != ""
}
