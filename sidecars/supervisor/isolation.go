package supervisor

import (
	"context"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/drbd"
)

const (
	// isolatedAfter is how long this node must have heard nobody before it takes
	// itself for isolated: longer than other supervisors need to start again.
	isolatedAfter     = 8 * time.Second
	isolationInterval = 2 * time.Second
	// isolationPause is how long a node that was isolated leaves an export to others.
	isolationPause = 30 * time.Second
	// isolationLimit keeps an export from wandering about while all nodes are alone.
	isolationLimit = 10 * time.Minute
)

// watchIsolation notes whether this node is cut off from the network of pods and API
// server. DRBD may have a network of its own, and then has no reason to take the
// Primary role away from a server that no client reaches.
func (a *Agent) watchIsolation(ctx context.Context) {
	isolated := a.hearsNobody() && !a.reachesAPIServer(ctx)
	if ctx.Err() != nil || a.isolated.Swap(isolated) == isolated {
		return
	}
	klog.FromContext(ctx).Info("Neither another supervisor nor the API server can be reached", "isolated", isolated)
	a.TriggerAll()
}

// hearsNobody says whether every supervisor that was ever heard has been silent for
// long, while this node serves.
func (a *Agent) hearsNobody() bool {
	if a.peers == nil || a.served() == 0 {
		return false
	}
	var last time.Time
	for _, node := range a.Watched() {
		peer, known := a.peers.Peer(node)
		if !known || peer.Heard.IsZero() {
			continue
		}
		if !peer.Silent {
			return false
		}
		if peer.Heard.After(last) {
			last = peer.Heard
		}
	}
	return !last.IsZero() && a.now().Sub(last) >= isolatedAfter
}

// reachesAPIServer asks it anew: caches do not tell.
func (a *Agent) reachesAPIServer(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, isolationInterval)
	defer cancel()
	_, err := a.nodes.Get(ctx, a.settings.NodeName, metav1.GetOptions{})
	return err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown
}

// decideIsolated lets go of an export that no client reaches here, if there is a node
// that can serve it as far as DRBD knows.
func decideIsolated(f Facts) (Decision, bool) {
	if !f.Isolated || f.Now.Sub(f.Timers.Isolated) < isolationLimit {
		return Decision{}, false
	}
	if !slices.ContainsFunc(f.Resource.Connections, func(c drbd.Connection) bool {
		return c.State == drbd.ConnectionConnected && peerUpToDate(c)
	}) {
		return Decision{}, false
	}
	return Decision{Action: Stop, Reason: ReasonIsolated,
		Message: "node " + f.Node + " reaches neither another ganesha-supervisor nor the API server, and DRBD reaches a node that can serve"}, true
}

// noteIsolation leaves an export that was let go to others.
func (a *Agent) noteIsolation(name string) {
	m := a.remember(name)
	a.backOff(m, isolationPause)
	m.lock.Lock()
	defer m.lock.Unlock()
	m.timers.Isolated = a.now()
}
