package supervisor

import (
	"slices"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

// Peers is what the supervisor uses of the heartbeat.
type Peers interface {
	// Peer returns false for a node whose supervisor was never heard.
	Peer(node string) (heartbeat.Peer, bool)
}

// Hear makes the agent listen to the heartbeat. To be called before Run.
func (a *Agent) Hear(peers Peers) { a.peers = peers }

// State is what this supervisor says of itself: nothing while another one acts on
// this node.
func (a *Agent) State() heartbeat.State {
	if !a.active.Load() {
		return heartbeat.State{}
	}
	return heartbeat.State{
		Node: a.settings.NodeName, Leaving: a.leaving.Load(), Cordoned: a.cache.Cordoned(),
		Ready: a.ready.Load(), Exports: a.served(),
	}
}

// Watched are the nodes that share a volume with this one.
func (a *Agent) Watched() []string {
	a.lock.Lock()
	defer a.lock.Unlock()
	var nodes []string
	for _, memory := range a.memories {
		memory.lock.Lock()
		nodes = append(nodes, memory.watched...)
		memory.lock.Unlock()
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// TriggerPeer has the exports looked at that share a volume with a node.
func (a *Agent) TriggerPeer(node string) {
	a.lock.Lock()
	defer a.lock.Unlock()
	for name, memory := range a.memories {
		memory.lock.Lock()
		if slices.Contains(memory.watched, node) {
			a.work.Add(name)
		}
		memory.lock.Unlock()
	}
}

// peersOf is what is known of the nodes that DRBD connects a resource to. Nodes
// that were never heard are in it with an empty Peer, so that they are watched.
func (a *Agent) peersOf(resource *drbd.Resource) map[string]heartbeat.Peer {
	if resource == nil || a.peers == nil {
		return nil
	}
	known := map[string]heartbeat.Peer{}
	for _, connection := range resource.Connections {
		known[connection.Name], _ = a.peers.Peer(connection.Name)
	}
	return known
}

// served is how many exports this node serves.
func (a *Agent) served() int {
	a.lock.Lock()
	defer a.lock.Unlock()
	count := 0
	for _, memory := range a.memories {
		if memory.currentServer() != nil {
			count++
		}
	}
	return count
}
