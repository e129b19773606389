package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/names"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

const (
	// handOverLimit is how long the named node has the first try.
	handOverLimit = 15 * time.Second
	// handOverDelay keeps the others back for that time.
	handOverDelay = 5 * time.Second
	// frozenLimit is how long clients are kept waiting for a new server. The slowest
	// take-over is shorter; afterwards they are told that nobody serves.
	frozenLimit = 20 * time.Second
	// proxyDelay is how long kube-proxy may take to send clients elsewhere
	// (minSyncPeriod, 1 s): a client that is told earlier comes back here.
	proxyDelay = 1500 * time.Millisecond
	// handOverRetry is long, for each try costs the clients a pause.
	handOverRetry = 10 * time.Minute
)

// The reasons of a move, as they appear in status and events.
const (
	MoveServerLost = "ServerLost"
	MoveRequested  = "Requested"
	MoveCordoned   = "NodeCordoned"
	MovePodEnds    = "PodEnds"
)

// decideHandOver says whether an export that is served here is to move, and to
// which node.
func decideHandOver(f Facts) (Decision, bool) {
	move := func(to, reason, message string) (Decision, bool) {
		return Decision{Action: HandOver, Reason: reason, To: to, Message: message}, true
	}
	targets := successors(f)
	if f.Leaving && f.Awaited {
		return Decision{Action: Stop, Keep: true, Reason: ReasonReplaced, Message: "the ganesha pod on node " + f.Node + " is replaced"}, true
	}
	if f.Leaving {
		if len(targets) > 0 {
			return move(targets[0], MovePodEnds, "the ganesha pod on node "+f.Node+" ends")
		}
		return Decision{Action: Stop, Reason: ReasonLeaving, Message: "the ganesha pod on node " + f.Node + " ends and no other node can take the export"}, true
	}
	requested := f.Export.Annotations[names.MoveToAnnotation]
	if requested != "" {
		why := refusesMove(f, requested)
		if why == "" && f.Peers[requested].Cordoned {
			why = "it is cordoned, and would hand the export on"
		}
		switch {
		case requested == f.Node:
			return Decision{Action: RefuseMove, Reason: ReasonMoveDone, Message: "node " + f.Node + " serves it"}, true
		case why != "":
			return Decision{Action: RefuseMove, Reason: ReasonMoveRefused,
				Message: fmt.Sprintf("it is not moved to node %s: %s; annotation %s is removed, set it again when that has changed", requested, why, names.MoveToAnnotation)}, true
		}
	}
	cordoned := f.Cordoned && len(targets) > 0 && !f.Peers[targets[0]].Cordoned && !f.Now.Before(f.Timers.HandOverAfter)
	if requested == "" && !cordoned {
		return Decision{}, false
	}
	if f.Observed.Grace.Active || f.Observed.Failures > 0 {
		// Clients are still coming back from the last move: one after the other.
		return Decision{}, false
	}
	if requested != "" {
		return move(requested, MoveRequested, "annotation "+names.MoveToAnnotation+" asks for it")
	}
	return move(targets[0], MoveCordoned, "node "+f.Node+" is cordoned")
}

// successors are the nodes that can take the export over now, the best first: not
// cordoned, with few exports, and then by a hash that spreads.
func successors(f Facts) []string {
	var nodes []string
	for _, connection := range f.Resource.Connections {
		if refusesMove(f, connection.Name) == "" {
			nodes = append(nodes, connection.Name)
		}
	}
	slices.SortFunc(nodes, func(a, b string) int {
		return cmp.Or(
			compareBool(f.Peers[a].Cordoned, f.Peers[b].Cordoned),
			cmp.Compare(f.Peers[a].Exports/loadStep, f.Peers[b].Exports/loadStep),
			cmp.Compare(spread(f.Name, a), spread(f.Name, b)), cmp.Compare(a, b))
	})
	return nodes
}

// refusesMove says why a node cannot take the export over, or "".
func refusesMove(f Facts, node string) string {
	index := slices.IndexFunc(f.Resource.Connections, func(c drbd.Connection) bool { return c.Name == node })
	if index < 0 {
		return "it has no replica of the volume"
	}
	peer := f.Peers[node]
	if why := lacksData(f.Resource.Connections[index]); why != "" {
		return why
	}
	if peer.Heard.IsZero() || peer.Silent {
		return "no ganesha-supervisor answers there"
	}
	return lacksServer(peer)
}

// lacksData says why DRBD here does not reach a node with the data, or "".
func lacksData(connection drbd.Connection) string {
	switch {
	case connection.State != drbd.ConnectionConnected:
		return "DRBD is not connected to it (" + connection.State + ")"
	case !peerUpToDate(connection):
		return "it has no replica that is UpToDate"
	}
	return ""
}

// lacksServer says why a node could not start a server when it was heard last, or "".
func lacksServer(peer heartbeat.Peer) string {
	switch {
	case peer.Leaving:
		return "its ganesha pod ends"
	case !peer.Ready:
		return "its ganesha container is not ready"
	}
	return ""
}

// handOver stops the server here so that its clients notice as little as
// possible. From the freeze on they wait for an answer, as from a slow server;
// the node that takes over points the Service to itself when it serves, and only
// then do the clients learn that their connection is gone.
func (a *Agent) handOver(ctx context.Context, f Facts, decision Decision) error {
	started := a.now()
	export, err := a.announceMove(ctx, f, decision)
	if err != nil && !f.Leaving {
		return err // nothing has happened yet
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Hand-over is not announced, the peers find out by DRBD")
	} else {
		f.Export = export
	}
	a.events.normal(f.Export, "Moving", fmt.Sprintf("node %s hands it over to node %s: %s", f.Node, decision.To, decision.Message))
	decision.Freeze = true
	if err := a.release(ctx, f, decision); err != nil {
		if ctx.Err() == nil && !f.Leaving {
			a.postponeHandOver(f, decision, err)
		}
		return err
	}
	a.metrics.stops.WithLabelValues(decision.Reason).Inc()
	klog.FromContext(ctx).Info("Handed export over", "to", decision.To, "reason", decision.Reason, "seconds", seconds(a.now().Sub(started)))
	return nil
}

// postponeHandOver is for a volume that does not let go, because somebody else than
// the server holds it open: this node serves on, and the next try has to wait.
func (a *Agent) postponeHandOver(f Facts, decision Decision, cause error) {
	m := a.remember(f.Name)
	m.lock.Lock()
	m.timers.HandOverAfter = a.now().Add(handOverRetry)
	m.lock.Unlock()
	a.events.warning(f.Export, "MoveFailed", fmt.Sprintf("node %s cannot let go of it for node %s and serves on; a cordoned node tries again in %s: %v",
		f.Node, decision.To, handOverRetry, cause))
}

// prepare does for an export that is handed over to this node what can be done
// before the old server has let go.
func (a *Agent) prepare(ctx context.Context, f Facts) error {
	port, err := a.port(&starting{Facts: f, export: f.Export})
	if err != nil {
		return err
	}
	return a.access.admit(ctx, f.Export, port)
}

// announceMove writes who shall serve next, and then takes the request back: who
// sees no request any more sees what became of it.
func (a *Agent) announceMove(ctx context.Context, f Facts, decision Decision) (*v1alpha1.NFSExport, error) {
	status := *f.Export.Status.DeepCopy()
	status.Phase = v1alpha1.PhaseMoving
	status.Message = fmt.Sprintf("node %s hands it over to node %s: %s", f.Node, decision.To, decision.Message)
	status.HandOver = &v1alpha1.HandOver{To: decision.To, Reason: decision.Reason, Since: metav1.NewMicroTime(f.Now)}
	if err := a.writeStatus(ctx, f, status); err != nil {
		return nil, err
	}
	if latest := a.currentExport(f.Name); latest != nil {
		f.Export = latest
	}
	if f.Export.Annotations[names.MoveToAnnotation] == "" {
		return f.Export, nil
	}
	return a.removeRequest(ctx, f)
}

// refuseMove takes a request back that cannot or need not be met, and says why.
func (a *Agent) refuseMove(ctx context.Context, f Facts, decision Decision) error {
	if _, err := a.removeRequest(ctx, f); err != nil {
		return err
	}
	if decision.Reason == ReasonMoveRefused {
		a.events.warning(f.Export, "MoveRefused", decision.Message)
	} else {
		a.events.normal(f.Export, "MoveNotNeeded", decision.Message)
	}
	return nil
}

// removeRequest removes the annotation that asks for a move.
func (a *Agent) removeRequest(ctx context.Context, f Facts) (*v1alpha1.NFSExport, error) {
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	export := f.Export.DeepCopy()
	delete(export.Annotations, names.MoveToAnnotation)
	updated, err := a.exports.Update(ctx, export, metav1.UpdateOptions{})
	if err != nil {
		return nil, a.writeError(err, "remove annotation "+names.MoveToAnnotation+" of NFSExport "+f.Name)
	}
	a.remember(f.Name).latest = updated
	return updated, nil
}

// decideFrozen ends the time in which clients of a server that ended here wait.
func decideFrozen(f Facts) (Decision, bool) {
	if f.Timers.Frozen.IsZero() || (f.holding() && !f.Passive) {
		return Decision{}, false
	}
	if !f.Timers.Elsewhere.IsZero() {
		if wait := proxyDelay - f.Now.Sub(f.Timers.Elsewhere); wait > 0 {
			return nothing(wait), true
		}
		return Decision{Action: Unfreeze, Message: "clients are sent to another server"}, true
	}
	if status := f.Export.Status; status.Node == f.Node && status.Endpoint != "" && status.HandOver == nil && !f.Passive {
		// It could not be written when the server was stopped.
		return Decision{Action: Describe, Reason: ReasonStale, Message: "the server on node " + f.Node + " has ended, another one is awaited"}, true
	}
	if wait := frozenLimit - f.Now.Sub(f.Timers.Frozen); wait > 0 {
		return nothing(wait), true
	}
	return Decision{Action: Stop, Reason: ReasonStale, Message: "no other node has taken the export over"}, true
}

// unfreeze tells the clients that still wait that their connections are gone.
func (a *Agent) unfreeze(ctx context.Context, f Facts) error {
	if err := a.access.close(ctx, f.Name); err != nil {
		return err
	}
	a.freePort(f.Name)
	m := a.remember(f.Name)
	m.lock.Lock()
	m.timers.Frozen, m.timers.Elsewhere = time.Time{}, time.Time{}
	m.lock.Unlock()
	return nil
}

// Drain hands over or stops everything, because the pod ends. It returns when
// nothing is held here any more and no client waits, or when ctx ends.
func (a *Agent) Drain(ctx context.Context) {
	a.leaving.Store(true)
	klog.FromContext(ctx).Info("Pod ends, handing over what is served here", "exports", a.served())
	a.TriggerAll()
	for ticks := 1; ; ticks++ {
		if ticks%drainTriggers == 0 {
			a.TriggerAll()
		}
		if a.served() == 0 && len(a.starts) == 0 && a.nodeLock != nil && a.nodeLock.Awaited() {
			a.stepBack(ctx)
		}
		if !a.busy() {
			klog.FromContext(ctx).Info("Nothing is served here any more")
			return
		}
		select {
		case <-ctx.Done():
			klog.FromContext(ctx).Info("Pod ends although exports are still here", "exports", a.served())
			return
		case <-time.After(drainPause):
		}
	}
}

const (
	// drainPause is short: clients wait until the next supervisor is let in.
	drainPause = 50 * time.Millisecond
	// drainTriggers is after how many pauses all exports are looked at again.
	drainTriggers = 20
)

// busy says whether something is served here, or clients are kept waiting.
func (a *Agent) busy() bool {
	if mounts, err := a.files.List(a.settings.exportsRoot()); err == nil && len(mounts) > 0 && a.active.Load() {
		return true
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	for _, memory := range a.memories {
		memory.lock.Lock()
		busy := memory.server != nil || !memory.timers.Frozen.IsZero()
		memory.lock.Unlock()
		if busy {
			return true
		}
	}
	return false
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
