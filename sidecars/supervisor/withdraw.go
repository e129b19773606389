package supervisor

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// strangerDelay is how long a node without the resource leaves the withdrawal to
// nodes that have it.
const strangerDelay = 15 * time.Second

// unreachableServer returns the node that status names as the server, if it is
// another one and DRBD here is not connected to it: it may still serve.
func unreachableServer(f Facts) string {
	if f.Export == nil {
		return ""
	}
	server := f.Export.Status.Node
	if server == "" || server == f.Node {
		return ""
	}
	if f.Resource != nil && slices.ContainsFunc(f.Resource.Connections, func(c drbd.Connection) bool {
		return c.Name == server && c.State == drbd.ConnectionConnected
	}) {
		return ""
	}
	return server
}

// mayBeServedUnseen says whether the other side of a partition may have the
// quorum and serve, so that this side must not speak for the export.
func mayBeServedUnseen(f Facts) bool {
	return unreachableServer(f) != "" && !f.Resource.HasQuorum() && f.LastServer != NodeNotReady && f.LastServer != NodeGone
}

// decideWithdraw is for a deleted export that this node does not use. The
// finalizer is removed only if nobody can be Primary as far as this node knows;
// rwx-provisioner asks LINSTOR itself, uncached, before it deletes the volume.
func decideWithdraw(f Facts) Decision {
	if f.Resource != nil && f.Resource.PrimaryPeer() != "" {
		return nothing(writerStagger) // that node withdraws it
	}
	age := f.Now.Sub(f.Export.DeletionTimestamp.Time)
	server := unreachableServer(f)
	if server != "" && f.LastServer != NodeGone {
		message := fmt.Sprintf("node %s, the last server, cannot be reached: the volume is kept until it has stopped, or its Node is deleted", server)
		if f.Resource == nil {
			return nothing(strangerDelay)
		}
		decision := Decision{Action: Describe, Reason: ReasonWithdrawWaits, Message: message, After: writerStagger}
		if time.Duration(speakRank(f))*writerStagger > age || !changesStatus(f.Export.Status, unservedStatus(f, decision)) {
			return nothing(writerStagger)
		}
		return decision
	}
	var turn time.Duration
	switch {
	case f.Export.Status.Node == f.Node && f.Resource != nil:
	case f.Resource != nil:
		turn = time.Duration(speakRank(f)) * writerStagger
	default:
		// Provisioning may have failed before any node got the resource; then all
		// nodes are alike, and no node can be Primary of what it does not have.
		turn = strangerDelay + time.Duration(spread(f.Name, f.Node)%5000)*time.Millisecond
	}
	if wait := turn - age; wait > 0 {
		return nothing(wait)
	}
	return Decision{Action: Withdraw, Reason: ReasonWithdrawn, Message: "nobody serves the export any more"}
}

// withdraw removes the finalizer.
func (a *Agent) withdraw(ctx context.Context, f Facts) error {
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	export, err := a.exports.Get(ctx, f.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read NFSExport %s before its withdrawal: %w", f.Name, err)
	}
	// The cache may be older than the last server's status.
	if export.UID != f.Export.UID || export.Status.Node != f.Export.Status.Node || !hasFinalizer(export) {
		return nil
	}
	export = export.DeepCopy()
	export.Finalizers = slices.DeleteFunc(export.Finalizers, func(name string) bool { return name == names.WithdrawFinalizer })
	if _, err := a.exports.Update(ctx, export, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove finalizer of NFSExport %s: %w", f.Name, err)
	}
	a.events.normal(f.Export, "Withdrawn", "the export is withdrawn: no node serves it")
	return nil
}

// nodeState asks the API server; any doubt is NodeUnknown.
func (a *Agent) nodeState(ctx context.Context, name string) NodeState {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	node, err := a.nodes.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return NodeGone
	}
	if err != nil {
		return NodeUnknown
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return NodeReady
		}
	}
	return NodeNotReady
}
