// Package resizer finishes the growth of exported volumes: linstor-csi grows the
// block device, a node grows the filesystem, and only then the claim shows the new
// size. It does not grow anything itself; what LINSTOR refuses it says in one
// sentence.
package resizer

import (
	"context"
	"fmt"
	"time"

	csiresizer "github.com/kubernetes-csi/external-resizer/v2/pkg/resizer"
	"google.golang.org/grpc/status"
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
	linstor LINSTOR
	timeout time.Duration
	poll    time.Duration
}

// Wrap returns csi extended by exported volumes. A try waits up to timeout for the
// filesystem. LINSTOR is asked only when something did not work; if it does not
// answer, less is said of why.
func Wrap(csi csiresizer.Resizer, exports Exports, linstor LINSTOR, timeout time.Duration) csiresizer.Resizer {
	return &resizer{Resizer: csi, exports: exports, linstor: linstor, timeout: timeout, poll: 250 * time.Millisecond}
}

// Resize implements resizer.Resizer. While the filesystem is smaller it returns an
// error without gRPC status: the controller takes that as "still running" and calls
// again. The wait is in here, because each failed try is a warning event. What the
// driver refuses keeps its status: the claim may then ask for another size.
func (r *resizer) Resize(pv *corev1.PersistentVolume, want resource.Quantity) (resource.Quantity, bool, error) {
	if !isExported(pv) {
		return r.Resizer.Resize(pv, want)
	}
	size, err := r.grow(pv, want)
	if err != nil {
		return pv.Spec.Capacity[corev1.ResourceStorage], false, err
	}
	return size, false, nil
}

// grow grows the volume and waits until its filesystem has grown as well.
func (r *resizer) grow(pv *corev1.PersistentVolume, want resource.Quantity) (resource.Quantity, error) {
	export, err := r.awaitFirstStatus(pv.Name)
	if err != nil {
		return want, err
	}
	size, err := r.growVolume(pv, want, export.Spec.ResourceDefinition.Name)
	if err != nil {
		return want, err
	}
	if err := r.requestSize(pv.Name, size); err != nil {
		return want, err
	}
	return size, r.awaitFilesystem(pv.Name)
}

// awaitFirstStatus waits until a supervisor has noted how large the volume is: a
// growth before that could not be told from a volume that was always as large.
func (r *resizer) awaitFirstStatus(name string) (*v1alpha1.NFSExport, error) {
	export, seen, err := r.await(name, func(export *v1alpha1.NFSExport) bool {
		return export.Status.DeviceBytes != 0 || export.Status.Size != nil
	})
	if err == nil && !seen {
		err = fmt.Errorf("grow volume of %s: it is new, and no node has looked at it yet%s", name, after(": ", export.Status.Message))
	}
	return export, err
}

// growVolume grows VolNr 0 and returns its size. A growth that failed half-way may
// have left LINSTOR with more than is asked for now; nothing is taken back there, so
// that size is the answer.
func (r *resizer) growVolume(pv *corev1.PersistentVolume, want resource.Quantity, definition string) (resource.Quantity, error) {
	size, _, err := r.Resizer.Resize(pv, want)
	if err == nil {
		return size, nil
	}
	if _, answered := status.FromError(err); !answered {
		return want, err // the driver was not called
	}
	known := r.look(definition)
	again := want
	switch {
	case known.size.Cmp(want) > 0:
		again = known.size
	case !outlived(err, known):
		return want, refused(err, known)
	}
	if size, _, err = r.Resizer.Resize(pv, again); err == nil {
		return size, nil
	}
	return want, refused(err, r.look(definition))
}

// requestSize tells the supervisors the new size: it sets spec.size, never to less.
func (r *resizer) requestSize(name string, size resource.Quantity) error {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	for {
		export, err := r.exports.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("get NFSExport %s: %w", name, err)
		}
		if export.Spec.Size.Cmp(size) >= 0 {
			return nil
		}
		export = export.DeepCopy()
		export.Spec.Size = size
		_, err = r.exports.Update(ctx, export, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("set size in NFSExport %s: %w", name, err)
		}
		return nil
	}
}

// awaitFilesystem waits until the filesystem has the size that the spec asks for.
func (r *resizer) awaitFilesystem(name string) error {
	export, grown, err := r.await(name, isGrown)
	if err != nil || grown {
		return err
	}
	if reason := r.unfinished(export.Spec.ResourceDefinition.Name); reason != "" {
		return fmt.Errorf("grow volume of %s: LINSTOR has not finished: %s", name, reason)
	}
	return notGrown(export)
}

// await reads the export until good is true of it, for as long as one try may wait.
func (r *resizer) await(name string, good func(*v1alpha1.NFSExport) bool) (*v1alpha1.NFSExport, bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	var last *v1alpha1.NFSExport
	for {
		export, err := r.exports.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil, false, fmt.Errorf("grow volume of %s: it has no NFSExport", name)
		case err == nil && good(export):
			return export, true, nil
		case err == nil:
			last = export
		case last == nil:
			return nil, false, fmt.Errorf("get NFSExport %s: %w", name, err)
		}
		timer := time.NewTimer(r.poll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return last, false, nil
		case <-timer.C:
		}
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
	case export.Status.Node == "" && export.Status.Phase == v1alpha1.PhaseFailed:
		return fmt.Errorf("grow filesystem of %s: no node can open it%s", export.Name, after(": ", export.Status.Message))
	case export.Status.Node == "":
		return fmt.Errorf("grow filesystem of %s: no node has opened it yet", export.Name)
	default:
		return fmt.Errorf("grow filesystem of %s: node %s has not grown it yet", export.Name, export.Status.Node)
	}
}

// after returns text behind separator, or nothing if there is no text.
func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

// isExported tells whether linstor-rwx serves the volume, not linstor-csi's own
// ReadWriteMany support.
func isExported(pv *corev1.PersistentVolume) bool {
	return pv.Spec.CSI != nil && pv.Spec.CSI.VolumeAttributes[names.ExportAttribute] != "" && pv.Labels[names.ExportLabel] != ""
}
