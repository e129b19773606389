package supervisor

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// statusInterval is how often at the most a change of counters alone is written.
const statusInterval = 5 * time.Second

// changesStatus says whether a write would tell anybody anything new.
func changesStatus(current, desired v1alpha1.NFSExportStatus) bool {
	return !equality.Semantic.DeepEqual(current, desired)
}

// changesMeaning says whether a write would change more than words. Nodes that
// cannot serve, each for a detail of its own, would otherwise write in turns.
func changesMeaning(current, desired v1alpha1.NFSExportStatus) bool {
	desired = *desired.DeepCopy()
	if desired.Phase == current.Phase {
		desired.Message = current.Message
	}
	for i, condition := range desired.Conditions {
		if old := meta.FindStatusCondition(current.Conditions, condition.Type); old != nil && old.Status == condition.Status && old.Reason == condition.Reason {
			desired.Conditions[i] = *old
		}
	}
	return changesStatus(current, desired)
}

// changesCountersOnly says whether the two differ only in what changes often.
func changesCountersOnly(current, desired v1alpha1.NFSExportStatus) bool {
	current.Clients = desired.Clients
	if current.Grace != nil && desired.Grace != nil && current.Grace.Active == desired.Grace.Active {
		current.Grace = desired.Grace
	}
	return equality.Semantic.DeepEqual(current, desired)
}

// servingStatus is the status of an export that this node serves.
func servingStatus(f Facts, configApplied bool) v1alpha1.NFSExportStatus {
	status := *f.Export.Status.DeepCopy()
	server := f.Server
	status.Node = f.Node
	status.Endpoint = net.JoinHostPort(server.PodIP, strconv.Itoa(server.Port))
	status.BootEpoch = server.BootEpoch
	started := metav1.NewTime(server.Started).Rfc3339Copy()
	status.Since = &started
	status.ConfigHash = server.ConfigHash
	status.HandOver = nil
	status.DeviceBytes = server.DeviceBytes
	if server.SizeBytes > 0 {
		size := resource.NewQuantity(server.SizeBytes, resource.BinarySI)
		if status.Size == nil || status.Size.Cmp(*size) != 0 {
			status.Size = size
		}
	}
	if server.Failover != nil {
		status.LastFailover = server.Failover.DeepCopy()
	}
	if configApplied {
		status.ObservedGeneration = f.Export.Generation
	}
	status.Clients = int32(f.Observed.Clients)
	status.Grace = nil
	if f.Observed.Grace.Active {
		until := metav1.NewTime(server.Started.Add(time.Duration(f.Export.Spec.GraceSeconds) * time.Second)).Rfc3339Copy()
		status.Grace = &v1alpha1.GraceStatus{Active: true, Until: &until,
			Expected: int32(f.Observed.Grace.Expected), Reclaimed: int32(f.Observed.Grace.Reclaimed)}
	}
	describeServing(&status, f)
	return status
}

// unservedStatus is the status of an export that nobody serves.
func unservedStatus(f Facts, decision Decision) v1alpha1.NFSExportStatus {
	status := *f.Export.Status.DeepCopy()
	status.Phase = phaseOf(decision.Reason)
	status.Message = decision.Message
	status.Endpoint = ""
	status.Clients = 0
	status.Grace = nil
	status.Since = nil
	status.ConfigHash = ""
	status.HandOver = nil
	if server := unreachableServer(f); decision.Reason != ReasonWithdrawn && (server == "" || f.LastServer == NodeGone) {
		// Otherwise it stays: a withdrawal has to know who may still serve, and
		// who is to finish it.
		status.Node = ""
	}
	if f.Resource != nil && status.Size == nil && status.DeviceBytes == 0 {
		// From here on, growth can be told. It cannot if somebody has opened the
		// filesystem and failed to grow it.
		if device, ok := f.Resource.Device(names.DataVolume); ok && device.SizeBytes > 0 {
			status.DeviceBytes = device.SizeBytes
			markNotOpened(&status, f)
		}
	}
	describeUnserved(&status, f, decision)
	return status
}

// keepStatus writes the status of an export that this node serves, if it
// changed. It returns when to try again, because writes are rate-limited.
func (a *Agent) keepStatus(ctx context.Context, f Facts) (time.Duration, error) {
	desired := servingStatus(f, a.configApplied(f))
	if !changesStatus(f.Export.Status, desired) {
		return 0, nil
	}
	memory := a.remember(f.Name)
	if changesCountersOnly(f.Export.Status, desired) {
		if wait := statusInterval - f.Now.Sub(memory.statusWritten); wait > 0 {
			return wait, nil
		}
	}
	return 0, a.writeStatus(ctx, f, desired)
}

// writeStatus writes a status that was computed from f.Export. A conflict means
// that the cache was old: the next pass computes it again.
func (a *Agent) writeStatus(ctx context.Context, f Facts, desired v1alpha1.NFSExportStatus) error {
	if !changesStatus(f.Export.Status, desired) {
		return nil
	}
	export := f.Export.DeepCopy()
	export.Status = desired
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	updated, err := a.exports.UpdateStatus(ctx, export, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return a.writeError(err, "write status of NFSExport "+f.Name)
	}
	memory := a.remember(f.Name)
	memory.latest = updated
	memory.statusWritten = f.Now
	a.metrics.phase(f.Name, updated.Status.Phase, updated.Status.Node == a.settings.NodeName)
	return nil
}

// writeError tells a write that was based on an old copy from one that failed.
func (a *Agent) writeError(err error, what string) error {
	if apierrors.IsConflict(err) {
		return errOutdated
	}
	return fmt.Errorf("%s: %w", what, err)
}

// currentExport is the newest version of the export that is known: the cache's,
// or what this supervisor got back from its last write.
func (a *Agent) currentExport(name string) *v1alpha1.NFSExport {
	cached := a.cache.Export(name)
	memory := a.remember(name)
	if cached == nil || memory.latest == nil {
		return cached
	}
	if memory.latest.UID != cached.UID || !newer(memory.latest.ResourceVersion, cached.ResourceVersion) {
		memory.latest = nil
		return cached
	}
	return memory.latest
}

// newer compares resource versions, which API servers count up.
func newer(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x > y
}
