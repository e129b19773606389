package supervisor

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// describeServing sets phase, message and conditions of a served export.
func describeServing(status *v1alpha1.NFSExportStatus, f Facts) {
	grace := f.Observed.Grace
	switch {
	case grace.Active:
		status.Phase = v1alpha1.PhaseGrace
		status.Message = fmt.Sprintf("%d of %d clients have reclaimed their locks; new opens wait", grace.Reclaimed, grace.Expected)
		mark(status, f, v1alpha1.ConditionReady, metav1.ConditionTrue, ReasonGrace, "served; new opens wait until the clients of the last server have reclaimed")
	case f.Observed.Failures > 0:
		status.Phase = v1alpha1.PhaseDegraded
		status.Message = "the server does not answer: " + f.Observed.Error
		mark(status, f, v1alpha1.ConditionReady, metav1.ConditionFalse, ReasonHung, status.Message)
	case f.Server.Degraded != "":
		status.Phase = v1alpha1.PhaseDegraded
		status.Message = f.Server.Degraded
		mark(status, f, v1alpha1.ConditionReady, metav1.ConditionTrue, ReasonServing, "served, but: "+f.Server.Degraded)
	default:
		status.Phase = v1alpha1.PhaseServing
		status.Message = ""
		mark(status, f, v1alpha1.ConditionReady, metav1.ConditionTrue, ReasonServing, "served by node "+f.Node)
	}
	mark(status, f, v1alpha1.ConditionQuorum, metav1.ConditionTrue, "Quorum", "DRBD has quorum on node "+f.Node)
	mark(status, f, v1alpha1.ConditionRecoveryVolume, metav1.ConditionTrue, "Mounted", "the records of clients are kept on volume 1")
	markGrown(status, f)
}

func markGrown(status *v1alpha1.NFSExportStatus, f Facts) {
	switch {
	case f.Server.GrowError != "":
		mark(status, f, v1alpha1.ConditionGrown, metav1.ConditionFalse, "GrowFailed", f.Server.GrowError)
	case f.Server.DeviceBytes < f.Export.Spec.Size.Value():
		mark(status, f, v1alpha1.ConditionGrown, metav1.ConditionFalse, "DeviceTooSmall", "the volume itself has not grown yet")
	default:
		mark(status, f, v1alpha1.ConditionGrown, metav1.ConditionTrue, "Grown", "the filesystem fills its volume")
	}
}

// markNotOpened says that the device was looked at and the filesystem was not. The
// generation tells later whether the export was changed since, perhaps its size.
func markNotOpened(status *v1alpha1.NFSExportStatus, f Facts) {
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionGrown, Status: metav1.ConditionUnknown, ObservedGeneration: f.Export.Generation,
		Reason: "NotOpened", Message: "nobody has opened the filesystem yet",
		LastTransitionTime: metav1.NewTime(f.Now).Rfc3339Copy(),
	})
}

// generationOfBaseline is the generation that markNotOpened noted.
func generationOfBaseline(status v1alpha1.NFSExportStatus) int64 {
	if grown := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionGrown); grown != nil {
		return grown.ObservedGeneration
	}
	return 0
}

// describeUnserved sets the conditions of an export that nobody serves.
func describeUnserved(status *v1alpha1.NFSExportStatus, f Facts, decision Decision) {
	ready := metav1.ConditionFalse
	if decision.Reason == ReasonIdle {
		ready = metav1.ConditionTrue
	}
	mark(status, f, v1alpha1.ConditionReady, ready, decision.Reason, decision.Message)
	switch {
	case decision.Reason == ReasonNoQuorum || (f.Resource != nil && !f.Resource.HasQuorum()):
		mark(status, f, v1alpha1.ConditionQuorum, metav1.ConditionFalse, ReasonNoQuorum, "DRBD has no quorum on node "+f.Node)
	case f.Resource != nil:
		mark(status, f, v1alpha1.ConditionQuorum, metav1.ConditionTrue, "Quorum", "DRBD has quorum")
	}
}

// mark sets one condition; its time changes only with its status.
func mark(status *v1alpha1.NFSExportStatus, f Facts, condition string, value metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: condition, Status: value, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(f.Now).Rfc3339Copy(),
	})
}
