package supervisor

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	// turnStagger is how long each candidate waits for the one before it. The
	// first does not wait at all: DRBD lets only one be Primary anyway.
	turnStagger = 1500 * time.Millisecond
	// cordonDelay lets nodes that are not cordoned go first.
	cordonDelay = 3 * time.Second
	// loadStep is how many exports more make a node the second choice. A finer
	// measure would differ from node to node while many start at once.
	loadStep = 4
)

// turnDelay says how long this node leaves the promotion to others. The node to
// which the last server handed the export over does not wait. The order of the
// others is the same on all nodes: not cordoned; the last server (its caches are
// warm, and its supervisor may just be starting again); few exports; then by a
// hash of export and node, so that exports spread.
func turnDelay(f Facts) time.Duration {
	heir := f.handedTo()
	if heir == f.Node {
		return 0
	}
	candidates := upToDateNodes(f)
	last := f.Export.Status.Node
	slices.SortFunc(candidates, func(a, b string) int {
		return cmp.Or(
			compareBool(f.cordoned(a), f.cordoned(b)),
			compareBool(a != last, b != last),
			cmp.Compare(f.load(a), f.load(b)),
			cmp.Compare(spread(f.Name, a), spread(f.Name, b)), cmp.Compare(a, b))
	})
	delay := time.Duration(max(slices.Index(candidates, f.Node), 0)) * turnStagger
	if heir != "" {
		delay += handOverDelay
	}
	if f.Cordoned && len(candidates) > 1 {
		delay += cordonDelay
	}
	return delay
}

func (f Facts) cordoned(node string) bool {
	if node == f.Node {
		return f.Cordoned
	}
	return f.Peers[node].Cordoned
}

func (f Facts) load(node string) int {
	if node == f.Node {
		return f.Exports / loadStep
	}
	return f.Peers[node].Exports / loadStep
}

// upToDateNodes are this node and the connected peers whose replicas of all
// volumes are UpToDate, but for those that will not serve.
func upToDateNodes(f Facts) []string {
	nodes := []string{f.Node}
	for _, connection := range f.Resource.Connections {
		peer := f.Peers[connection.Name]
		if connection.State == drbd.ConnectionConnected && peerUpToDate(connection) && !peer.Silent && !peer.Leaving {
			nodes = append(nodes, connection.Name)
		}
	}
	return nodes
}

func peerUpToDate(connection drbd.Connection) bool {
	for _, volume := range []int{names.DataVolume, names.RecoveryVolume} {
		if !slices.ContainsFunc(connection.PeerDevices, func(d drbd.PeerDevice) bool {
			return d.Volume == volume && d.DiskState == drbd.DiskUpToDate && !d.Client
		}) {
			return false
		}
	}
	return true
}

// speakRank is this node's place among those that may write the status of an
// export that nobody serves: UpToDate replicas by name, then the other nodes of
// the resource by name.
func speakRank(f Facts) int {
	type speaker struct {
		class int
		name  string
	}
	own := speaker{1, f.Node}
	if reason, _ := mayServe(*f.Resource); reason == "" {
		own.class = 0
	}
	rank := 0
	for _, connection := range f.Resource.Connections {
		if connection.State != drbd.ConnectionConnected {
			continue
		}
		other := speaker{1, connection.Name}
		if peerUpToDate(connection) {
			other.class = 0
		}
		if cmp.Or(cmp.Compare(other.class, own.class), cmp.Compare(other.name, own.name)) < 0 {
			rank++
		}
	}
	return rank
}

// spread gives an order of nodes that differs from export to export.
func spread(export, node string) uint32 {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(export + "/" + node))
	return hash.Sum32()
}
