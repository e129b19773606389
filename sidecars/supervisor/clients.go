package supervisor

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

// dropGoneClients removes the records of clients that are proven to be gone, for
// grace would wait for them in vain.
func (a *Agent) dropGoneClients(ctx context.Context, s *starting, root string) error {
	records, err := a.recovery.Records(root)
	if err != nil {
		return fmt.Errorf("read client records: %w", err)
	}
	known, err := a.recovery.KnownClients(root)
	if err != nil {
		return err
	}
	gone := map[string]string{}
	for _, key := range records.Clients {
		if why := a.provenGone(ctx, key, known); why != "" {
			gone[key] = why
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if _, err := a.recovery.DropClients(root, func(key string) bool { return gone[key] != "" }); err != nil {
		return fmt.Errorf("drop records of clients that are gone: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		a.events.normal(s.export, "ClientGone", fmt.Sprintf("client %q is gone: %s; nobody waits for it to reclaim its locks", ganesha.Owner(key), gone[key]))
	}
	return nil
}

// provenGone says why the client of a record cannot come back, or "". A cached
// Node may be old, so what it seems to prove is asked for once more; without an
// answer nothing is proven.
func (a *Agent) provenGone(ctx context.Context, key string, known map[string]ganesha.KnownClient) string {
	client := a.identify(key, known)
	if client.Node == "" || goneReason(client, a.cache.Node(client.Node)) == "" {
		return ""
	}
	node, err := a.latestNode(ctx, client.Node)
	if err != nil {
		klog.FromContext(ctx).Info("It is not certain that a client is gone, its record stays", "node", client.Node, "err", err)
		return ""
	}
	return goneReason(client, node)
}

// latestNode asks the API server for a Node, for a cached one may be old; nil if there
// is none.
func (a *Agent) latestNode(ctx context.Context, name string) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	node, err := a.nodes.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return node, err
}

// identify says on which machine the client of a record is, as far as known.
func (a *Agent) identify(key string, known map[string]ganesha.KnownClient) ganesha.KnownClient {
	if client, ok := known[key]; ok {
		return client
	}
	if host := ganesha.Hostname(ganesha.Owner(key)); host != "" {
		if node := a.cache.NodeOfHost(host); node != nil {
			return ganesha.KnownClient{Node: node.Name} // of which boot is not known
		}
	}
	return ganesha.KnownClient{}
}

// goneReason says why a client of this machine is gone for good, or "". node is
// nil if there is no such Node. A machine that has booted and is ready may have
// mounted the export again, unnoticed if the last server's cache was old: its
// client gets time to come back, see lostReason.
func goneReason(client ganesha.KnownClient, node *corev1.Node) string {
	switch {
	case node == nil:
		return "node " + client.Node + " is deleted"
	case slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }):
		return "node " + client.Node + " has the taint " + corev1.TaintNodeOutOfService
	case !client.Rebooted && hasBooted(client, node) && !isReady(node):
		return "node " + client.Node + " has booted since, and is not ready yet"
	}
	return ""
}

// hasBooted says whether the machine has booted since its client was recorded.
func hasBooted(client ganesha.KnownClient, node *corev1.Node) bool {
	if node == nil || client.BootID == "" || node.Status.NodeInfo.BootID == "" {
		return false
	}
	return client.Rebooted || node.Status.NodeInfo.BootID != client.BootID
}

// rememberClients notes on the recovery volume on which machine, and on which of
// its boots, each client is, for a later server to know who is gone. ganesha's
// record of a client outlives a crash of its machine: a client that this server has
// seen connect, and whose machine boots afterwards, may be gone.
func (a *Agent) rememberClients(name, root string, records ganesha.Recorded) error {
	before, err := a.recovery.KnownClients(root)
	if err != nil {
		return err
	}
	after := map[string]ganesha.KnownClient{}
	for _, key := range records.Clients {
		if client, ok := before[key]; ok { // it has not come (back) yet
			after[key] = client
		}
	}
	seen := a.remember(name).noteConnected(records.Connected)
	for _, key := range records.Connected {
		host := ganesha.Hostname(ganesha.Owner(key))
		if node := a.cache.NodeOfHost(host); host != "" && node != nil {
			client := ganesha.KnownClient{Node: node.Name, BootID: node.Status.NodeInfo.BootID}
			client.Rebooted = slices.Contains(seen, key) && hasBooted(before[key], node)
			after[key] = client
		}
	}
	if maps.Equal(before, after) {
		return nil
	}
	return a.recovery.RememberClients(root, after)
}

// speakForLost ends the wait for clients that do not come back: those that are
// proven gone meanwhile, and those whose lease is over while nothing is heard of
// their machine. Until grace is over they could still reclaim.
func (a *Agent) speakForLost(ctx context.Context, name string, server Server, records ganesha.Recorded) {
	export := a.cache.Export(name)
	if export == nil {
		return
	}
	// A restart has begun: those clients have not had their time.
	if intent, err := a.readIntent(name); err != nil || intent == nil || !intent.Started.Equal(server.Started) {
		return
	}
	root := a.settings.recoveryPath(name)
	known, err := a.recovery.KnownClients(root)
	if err != nil {
		return // the next look tries again
	}
	lease := time.Duration(export.Spec.LeaseSeconds) * time.Second
	for _, key := range records.Clients {
		owner := ganesha.Owner(key)
		client := a.identify(key, known)
		if owner == "" || client.Node == "" || slices.Contains(records.Connected, key) || slices.Contains(server.Spoken, key) {
			continue
		}
		why := a.provenGone(ctx, key, known)
		if why == "" {
			why = a.lost(ctx, client, signs{
				now: a.now(), lease: lease, started: server.Started, name: client.Node,
				peer: a.peer(client.Node), cutOff: a.remember(name).isCutOff(client.Node),
			})
		}
		if why == "" {
			continue
		}
		// It may have come back since: whoever speaks now would take its place.
		if latest, err := a.recovery.Records(root); err != nil || slices.Contains(latest.Connected, key) {
			continue
		}
		address := net.JoinHostPort(server.PodIP, strconv.Itoa(server.Port))
		bounded, cancel := context.WithTimeout(ctx, a.settings.ProbeTimeout)
		err := a.speak(bounded, address, owner)
		cancel()
		if err != nil {
			klog.FromContext(ctx).Info("Grace still waits for a client that is lost", "export", name, "client", owner, "err", err)
			continue
		}
		a.spoken(name, server, key)
		a.events.warning(export, "ClientLost", fmt.Sprintf("client %q did not come back: %s; the others do not wait for it any longer, and its locks are not kept", owner, why))
	}
}

// lost says why a client has lost its lease for certain, or "". What a cached Node
// seems to say is asked for once more: without the API server clients do not learn
// where the server is, and it is not their fault that they do not come back.
func (a *Agent) lost(ctx context.Context, client ganesha.KnownClient, s signs) string {
	if why := lostReason(s); why != "" {
		return why
	}
	s.node = a.cache.Node(client.Node)
	s.booted = hasBooted(client, s.node)
	if lostReason(s) == "" {
		return ""
	}
	node, err := a.latestNode(ctx, client.Node)
	if err != nil {
		return ""
	}
	s.node, s.booted = node, hasBooted(client, node)
	return lostReason(s)
}

// signs are the signs of life of the machine of a client that has not come back.
type signs struct {
	now     time.Time
	lease   time.Duration
	started time.Time // of the server
	name    string
	// booted: it has booted since its client was recorded.
	booted bool
	// peer is zero for a machine that runs no supervisor.
	peer heartbeat.Peer
	// cutOff: DRBD here has no connection to it.
	cutOff bool
	// node is nil if nothing is known.
	node *corev1.Node
}

// isolationTime is after how much silence a node that was cut off serves nobody any
// more, not even its own clients: DRBD's ping-int and ping-timeout (10.5 s by
// default; 10.7 s at the most were measured), and the time to fence.
const isolationTime = 14 * time.Second

// bootedPatience is for a client of a machine that has booted and is ready: most of
// them live, and come back late where the kernel cannot destroy sockets.
const bootedPatience = 30 * time.Second

// lostReason says why a client has lost its lease for certain, or "": nothing
// came from its machine for that long, neither on DRBD's network nor on that of
// the pods; or the machine is not ready, or has booted, and its client has not come
// back for that long. A machine whose supervisor alone is silent may have a client
// that lives.
func lostReason(s signs) string {
	if limit := max(s.lease, isolationTime); s.peer.Silent && s.cutOff && s.now.Sub(s.peer.Heard) >= limit {
		return fmt.Sprintf("neither DRBD nor its supervisor has heard of node %s for %s, and the lease of %s is over", s.name, limit, s.lease)
	}
	if limit := max(s.lease, bootedPatience); s.booted && s.now.Sub(s.started) >= limit {
		return fmt.Sprintf("node %s has booted, and its client has not come back for %s", s.name, limit)
	}
	heard := !s.peer.Heard.IsZero() && s.now.Sub(s.peer.Heard) < max(s.lease, isolationTime)
	if s.node != nil && !isReady(s.node) && !heard && s.now.Sub(s.started) >= s.lease {
		return fmt.Sprintf("node %s is not ready, and the lease of %s is over", s.name, s.lease)
	}
	return ""
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (a *Agent) peer(node string) heartbeat.Peer {
	if a.peers == nil {
		return heartbeat.Peer{}
	}
	peer, _ := a.peers.Peer(node)
	return peer
}

// spoken remembers for whom was spoken at this server.
func (a *Agent) spoken(name string, server Server, key string) {
	m := a.remember(name)
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.server != nil && m.server.Started.Equal(server.Started) {
		m.server.Spoken = append(slices.Clone(m.server.Spoken), key)
	}
}
