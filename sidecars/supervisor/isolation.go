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
	// isolationSpread is how far apart the last signs of the others and of the API
	// server may be if one cut ended both.
	isolationSpread = 10 * time.Second
	// apiInterval is how often the API server is asked while all is well.
	apiInterval = 5 * time.Second
)

// watchIsolation notes whether this node is cut off from the network of pods and API
// server. DRBD may have a network of its own, and then has no reason to take the
// Primary role away from a server that no client reaches.
func (a *Agent) watchIsolation(ctx context.Context) {
	isolated := a.isAlone(ctx)
	if ctx.Err() != nil || a.isolated.Swap(isolated) == isolated {
		return
	}
	klog.FromContext(ctx).Info("Neither another supervisor nor the API server can be reached", "isolated", isolated)
	a.TriggerAll()
}

// isAlone says whether all supervisors and the API server went silent together, while
// this node serves. What was away before, or goes away alone, proves nothing.
func (a *Agent) isAlone(ctx context.Context) bool {
	if a.peers == nil || a.served() == 0 {
		a.reachedAPI = time.Time{}
		return false
	}
	heard, silent := a.lastHeard()
	if !silent && a.now().Sub(a.reachedAPI) < apiInterval {
		return false
	}
	if a.reachesAPIServer(ctx) {
		a.reachedAPI = a.now()
		return false
	}
	return silent && !a.reachedAPI.IsZero() && a.now().Sub(heard) >= isolatedAfter && a.reachedAPI.Sub(heard).Abs() <= isolationSpread
}

// lastHeard is when a supervisor was heard last, and whether all are silent that were
// ever heard.
func (a *Agent) lastHeard() (last time.Time, silent bool) {
	for _, node := range a.Watched() {
		peer, known := a.peers.Peer(node)
		if !known || peer.Heard.IsZero() {
			continue
		}
		if !peer.Silent {
			return peer.Heard, false
		}
		if peer.Heard.After(last) {
			last = peer.Heard
		}
	}
	return last, !last.IsZero()
}

// reachesAPIServer asks it anew: caches do not tell.
func (a *Agent) reachesAPIServer(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, isolationInterval)
	defer cancel()
	_, err := a.nodes.Get(ctx, a.settings.NodeName, metav1.GetOptions{})
	return err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown
}

// decideIsolated lets go of an export that no client reaches here, if there is a node
// that can serve it as far as DRBD knows, and by its own last word.
func decideIsolated(f Facts) (Decision, bool) {
	if !f.Isolated || f.Now.Sub(f.Timers.Isolated) < isolationLimit {
		return Decision{}, false
	}
	if !slices.ContainsFunc(f.Resource.Connections, func(c drbd.Connection) bool {
		return lacksData(c) == "" && lacksServer(f.Peers[c.Name]) == ""
	}) {
		return Decision{}, false
	}
	return Decision{Action: Stop, Reason: ReasonIsolated,
		Message: "node " + f.Node + " reaches neither another ganesha-supervisor nor the API server, and DRBD reaches a node that can serve"}, true
}

// noteIsolation notes that an export is let go, whether that succeeds or not.
func (a *Agent) noteIsolation(name string) {
	m := a.remember(name)
	m.lock.Lock()
	defer m.lock.Unlock()
	m.timers.Isolated = a.now()
}
