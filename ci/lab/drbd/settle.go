package drbd

import (
	"reflect"
	"sort"
	"time"
)

// settle is called after every change of a resource: it lets connected nodes
// learn of each other, counts quorum, checks what must never be, tells
// streams and subscribers, and wakes the I/O that hangs.
func (c *Cluster) settle(res *resource) {
	for _, r := range res.replicas {
		for _, l := range r.links {
			if l.state != stateConnected || !c.linkHolds(r, l) {
				continue // what was known last stays
			}
			peer := res.replicas[l.peer]
			l.role = peer.role
			for number, d := range peer.disks {
				l.disks[number] = d.state
				if d.state == Consistent && d.quorum {
					// Peers see it only for a moment, while the node asks
					// them about the lost Primary.
					l.disks[number] = UpToDate
				}
			}
		}
	}
	lost := map[*replica][]int{}
	for _, r := range res.replicas {
		if !r.node.up {
			continue
		}
		for _, number := range res.sortedVolumes() {
			d := r.disks[number]
			if d == nil {
				continue
			}
			had := d.quorum
			d.quorum = res.options.Quorum != QuorumMajority || c.votesFor(r, number).quorum()
			if had && !d.quorum {
				lost[r] = append(lost[r], number)
			}
		}
		switch {
		case r.hasQuorum() || res.options.OnNoQuorum != OnNoQuorumSuspendIO:
			r.suspendedQuorum = false
		case r.role == Primary:
			r.suspendedQuorum = true
		}
	}
	c.checkPrimaries(res)
	for _, r := range res.sortedReplicas() {
		c.tell(r)
		for _, number := range lost[r] {
			c.helper(r, "", "quorum-lost", number)
		}
	}
	c.wake()
}

// checkPrimaries records two Primaries that both could write, or that see
// each other.
func (c *Cluster) checkPrimaries(res *resource) {
	writers := map[int]string{}
	for _, r := range res.sortedReplicas() {
		if r.role != Primary || !r.node.up {
			continue
		}
		for _, l := range r.links {
			if !res.options.TwoPrimaries && l.state == stateConnected && c.linkHolds(r, l) && l.role == Primary && r.node.name < l.peer {
				c.violate("%s: %s and %s are Primary and connected", res.name, r.node.name, l.peer)
			}
		}
		for _, number := range res.sortedVolumes() {
			// Suspension by the user ends, so it is no excuse.
			suspended := r.suspendedUser
			r.suspendedUser = false
			what := c.judge(r, number, true)
			r.suspendedUser = suspended
			if what != allow {
				continue
			}
			other, two := writers[number]
			if two && !(res.options.TwoPrimaries && r.connected(res.replicas[other])) {
				c.violate("%s: %s and %s can both write to volume %d: split brain", res.name, other, r.node.name, number)
			}
			writers[number] = r.node.name
		}
	}
}

// snapshot is the node's knowledge as a State, ordered as drbdsetup prints.
func (c *Cluster) snapshot(r *replica) State {
	s := State{
		Node: r.node.name, Resource: r.res.name, NodeID: r.id, Role: r.role,
		SuspendedUser: r.suspendedUser, SuspendedQuorum: r.suspendedQuorum, ForceIOFailures: r.forceIO,
	}
	s.MayPromote, s.PromotionScore = r.promotion()
	numbers := make([]int, 0, len(r.disks))
	for number := range r.disks {
		numbers = append(numbers, number)
	}
	sort.Ints(numbers)
	syncing := map[int]bool{}
	for _, number := range numbers {
		d, v := r.disks[number], r.res.volumes[number]
		s.Volumes = append(s.Volumes, VolumeState{
			Number: number, Minor: v.minor, SizeBytes: v.shown, Disk: d.state, Client: d.client,
			Open: d.open, Quorum: d.quorum, ReadBytes: d.read, WrittenBytes: d.written,
		})
		syncing[number] = d.sync != nil
	}
	for _, l := range r.links {
		peer := r.res.replicas[l.peer]
		connection := ConnectionState{Peer: l.peer, PeerID: peer.id, State: l.state, PeerRole: l.role}
		for _, number := range numbers {
			connection.Volumes = append(connection.Volumes, c.peerVolume(r, l, peer, number, syncing[number]))
		}
		s.Connections = append(s.Connections, connection)
	}
	sort.Slice(s.Connections, func(i, j int) bool { return s.Connections[i].PeerID < s.Connections[j].PeerID })
	return s
}

func (c *Cluster) peerVolume(r *replica, l *link, peer *replica, number int, syncing bool) PeerVolumeState {
	now := time.Now()
	p := PeerVolumeState{
		Number: number, Disk: DUnknown, Replication: "Off", ResyncSuspended: "no", DonePercent: -1,
	}
	if state, ok := l.disks[number]; ok && l.state == stateConnected {
		p.Disk = state
	}
	if repl := l.repl[number]; repl != "" && l.state == stateConnected {
		p.Replication = repl
	}
	own, theirs := r.disks[number], peer.disks[number]
	if theirs != nil {
		p.Client = theirs.client
	}
	target := own
	if theirs != nil && !theirs.client && own.sync == nil {
		target = theirs
	}
	if theirs != nil && !theirs.client && !own.client {
		p.OutOfSyncBytes = target.missing.bytes()
	}
	held := r.res.held
	switch {
	case held[r.node.name] && !own.client && own.state == Inconsistent && theirs != nil && !theirs.client:
		p.ResyncSuspended = "user"
		if p.Replication == "Established" && p.Disk == UpToDate {
			p.Replication = "PausedSyncT"
		}
	case held[l.peer] && p.Disk == Inconsistent && own.state == UpToDate:
		p.ResyncSuspended, p.Replication = "peer", "PausedSyncS"
	case p.Replication == "SyncTarget" && own.sync != nil:
		p.DonePercent, p.OutOfSyncBytes = own.sync.done(now), own.sync.left(now)
	case p.Replication == "SyncSource" && theirs != nil && theirs.sync != nil:
		p.DonePercent, p.OutOfSyncBytes = theirs.sync.done(now), theirs.sync.left(now)
	case syncing && own.sync.source != l.peer && own.state == Inconsistent:
		p.ResyncSuspended = "dependency"
	}
	return p
}

// tell compares with what was told last and tells the difference.
func (c *Cluster) tell(r *replica) {
	if !r.node.up {
		return
	}
	s := c.snapshot(r)
	if r.last != nil && reflect.DeepEqual(*r.last, s) {
		return
	}
	old := r.last
	r.last = &s
	for stream := range r.node.streams {
		stream.change(time.Now(), c.addresses(r.res), old, s)
	}
	for _, event := range differences(old, s) {
		event.Time = time.Now()
		c.subscribers.add(event)
	}
}

// differences lists what subscribers want to know.
func differences(old *State, s State) []Event {
	base := Event{Node: s.Node, Resource: s.Resource}
	var events []Event
	add := func(kind EventKind, fill func(*Event)) {
		e := base
		e.Kind = kind
		fill(&e)
		events = append(events, e)
	}
	before := State{Role: Secondary}
	if old != nil {
		before = *old
	}
	volumes := map[int]VolumeState{}
	for _, v := range before.Volumes {
		volumes[v.Number] = v
	}
	for _, v := range s.Volumes {
		was, known := volumes[v.Number]
		if !known || was.Disk != v.Disk {
			add(EventDisk, func(e *Event) { e.Volume, e.Disk = v.Number, v.Disk })
		}
		if !known || was.Quorum != v.Quorum {
			add(EventQuorum, func(e *Event) { e.Volume, e.Yes = v.Number, v.Quorum })
		}
	}
	connections := map[string]ConnectionState{}
	for _, connection := range before.Connections {
		connections[connection.Peer] = connection
	}
	for _, connection := range s.Connections {
		if connections[connection.Peer].State != connection.State {
			add(EventConnection, func(e *Event) { e.Peer, e.State = connection.Peer, connection.State })
		}
	}
	if before.Role != s.Role {
		add(EventInUse, func(e *Event) { e.Yes = s.Role == Primary })
	}
	if old == nil || before.MayPromote != s.MayPromote {
		add(EventMayPromote, func(e *Event) { e.Yes = s.MayPromote })
	}
	return events
}

// destroyed tells that the resource is gone from the node.
func (c *Cluster) destroyed(r *replica) {
	if r.last == nil {
		return
	}
	for stream := range r.node.streams {
		stream.destroy(time.Now(), c.addresses(r.res), *r.last)
	}
	c.subscribers.add(Event{Time: time.Now(), Node: r.node.name, Resource: r.res.name, Kind: EventRemoved})
	r.last = nil
}

// helper tells that DRBD calls one of its handlers; they all succeed.
func (c *Cluster) helper(r *replica, peer, name string, number ...int) {
	if !r.node.up {
		return
	}
	context := " name:" + r.res.name
	if peer != "" {
		context += " " + connectionContext(r.res.replicas[peer].id, peer)
	}
	for _, n := range number {
		if v := r.res.volumes[n]; v != nil {
			context += volumeContext(n, v.minor)
		}
	}
	for stream := range r.node.streams {
		stream.helper(time.Now(), r.res.name, context, name)
	}
}
