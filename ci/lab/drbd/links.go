package drbd

import "time"

// rescan looks at all connections after the network, a node's power or a
// configuration changed, and starts what DRBD would start by itself:
// detection of silent peers, new attempts to connect.
func (c *Cluster) rescan() {
	// A cut is noticed by all at nearly the same time.
	detect := between(c.timing.DetectMin, c.timing.DetectMax)
	for _, res := range c.resources {
		for _, r := range res.sortedReplicas() {
			if !r.node.up || r.node.paused {
				continue
			}
			var reset []*link
			for _, l := range r.links {
				if l.state == stateConnected && c.reach(r.node, c.nodes[l.peer]) && !c.linkHolds(r, l) {
					// The peer gave the connection up; its reset arrives now.
					reset = append(reset, l)
					continue
				}
				c.rescanLink(r, l, detect)
			}
			c.dropLinks(r, reset)
		}
		c.settle(res)
	}
}

func (c *Cluster) rescanLink(r *replica, l *link, detect time.Duration) {
	other := r.res.replicas[l.peer]
	back := other.links[r.node.name]
	reachable := c.reach(r.node, other.node)
	switch {
	case l.state == stateConnected && reachable:
		l.cancel() // healed before anybody noticed
	case l.state == stateConnected:
		if l.kind != timerDetect {
			// Both ends send the pings, the last ones 0.3 s apart at most.
			c.after(l, timerDetect, max(detect-between(0, 300*time.Millisecond), 0), func() {
				// Before the quorum is counted again the other peers are
				// pinged as well; those that are silent go at once.
				c.dropLinks(r, c.silent(r))
			})
		}
	case l.state == stateConnecting && reachable && back.state == stateConnecting:
		if l.kind != timerConnect && back.kind != timerConnect {
			c.attempt(r, l, between(c.timing.ReconnectMin, c.timing.ReconnectMax))
		}
	case l.state == stateConnecting && l.kind == timerConnect && !reachable:
		l.cancel()
	}
}

// linkHolds tells whether both ends of a connection still have it.
func (c *Cluster) linkHolds(r *replica, l *link) bool {
	other := r.res.replicas[l.peer]
	return other != nil && c.reach(r.node, other.node) && other.links[r.node.name].state == stateConnected
}

// after runs f under the lock after d, unless the link's timer is replaced or
// cancelled before, and tells everybody what f changed.
func (c *Cluster) after(l *link, kind timerKind, d time.Duration, f func()) {
	l.cancel()
	token := new(int)
	l.kind = kind
	var mine func()
	stop := afterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed || l.token != token {
			return
		}
		l.timer, l.kind, l.token = nil, timerNone, nil
		f()
		c.rescan()
	})
	mine = stop
	l.timer, l.token = mine, token
}

// attempt makes the two ends connect after d.
func (c *Cluster) attempt(r *replica, l *link, d time.Duration) {
	c.after(l, timerConnect, d, func() {
		other := r.res.replicas[l.peer]
		if other == nil || !c.reach(r.node, other.node) {
			return
		}
		if !c.handshake(r, other) {
			// One of them has to become Secondary first (rr-conflict
			// retry-connect).
			c.attempt(r, l, c.timing.ReconnectMax)
		}
	})
}

// dropLinks is the loss of connections as one end notices it, all at once.
func (c *Cluster) dropLinks(r *replica, links []*link) {
	var lost []*link
	for _, l := range links {
		if l.state == stateConnected {
			lost = append(lost, l)
			c.dropLink(r, l)
		}
	}
	if len(lost) == 0 {
		return
	}
	c.settle(r.res)
	for _, l := range lost {
		c.helper(r, l.peer, "disconnected")
		c.after(l, timerSettle, c.timing.Settle, func() {
			l.state = stateUnconnected
			c.settle(r.res)
			l.state = stateConnecting
		})
	}
	if r.consistent() {
		afterFunc(5*time.Millisecond, func() { c.findLost(r) })
	}
}

// dropLink is the part of dropLinks that changes one link.
func (c *Cluster) dropLink(r *replica, l *link) {
	lostPrimary := l.role == Primary
	l.cancel()
	l.state, l.role = stateNetworkFailure, Unknown
	for number, d := range r.disks {
		l.disks[number], l.repl[number] = DUnknown, "Off"
		if d.sync != nil && d.sync.source == l.peer {
			d.sync.cancel()
			d.sync = nil
		}
		if lostPrimary && r.role == Secondary && d.state == UpToDate {
			// The lost Primary may have written since.
			d.state = Consistent
		}
	}
}

// consistent tells whether a disk waits to be declared UpToDate or Outdated.
func (r *replica) consistent() bool {
	for _, d := range r.disks {
		if d.state == Consistent {
			return true
		}
	}
	return false
}

// silent lists the links of a node that are Connected but get no answer.
func (c *Cluster) silent(r *replica) []*link {
	var links []*link
	for _, l := range r.links {
		if l.state == stateConnected && !c.reach(r.node, c.nodes[l.peer]) {
			links = append(links, l)
		}
	}
	return links
}

// findLost asks the remaining peers whether they lost the Primary as well; a
// peer that has not noticed pings it first.
func (c *Cluster) findLost(r *replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !r.consistent() {
		return
	}
	if !c.peersSilent(r) {
		c.resolveLost(r)
		return
	}
	afterFunc(c.timing.PingTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed {
			return
		}
		c.dropSilent(r)
		c.resolveLost(r)
	})
}

// peersSilent tells whether a connected peer has a connection that gets no
// answer.
func (c *Cluster) peersSilent(r *replica) bool {
	for _, l := range r.links {
		if l.state == stateConnected && len(c.silent(r.res.replicas[l.peer])) > 0 {
			return true
		}
	}
	return false
}

// dropSilent makes the connected peers notice their silent connections.
func (c *Cluster) dropSilent(r *replica) {
	for _, l := range r.links {
		if l.state != stateConnected || !c.linkHolds(r, l) {
			continue
		}
		peer := r.res.replicas[l.peer]
		c.dropLinks(peer, c.silent(peer))
	}
}

// resolveLost makes a Consistent disk UpToDate when the remaining nodes have
// quorum, Outdated when one of them still has the Primary that was lost here. One
// of them that was promoted meanwhile has the same data.
func (c *Cluster) resolveLost(r *replica) {
	lost := false
	for _, l := range r.links {
		if l.state != stateConnected {
			continue
		}
		primary := r.res.replicas[l.peer].primaryPeer()
		if primary != "" && primary != r.node.name && !r.connected(r.res.replicas[primary]) {
			lost = true
		}
	}
	for _, d := range r.disks {
		switch {
		case d.state != Consistent:
		case lost || (r.primaryPeer() != "" && !d.missing.empty()):
			d.state = Outdated
		case d.quorum:
			d.state = UpToDate
		}
	}
	c.settle(r.res)
	// A peer that connected before had nobody good enough to copy from.
	for _, l := range r.links {
		if l.state != stateConnected {
			continue
		}
		for number := range r.disks {
			c.startResync(r.res.replicas[l.peer], number)
		}
	}
}

// handshake connects two replicas; false when two Primaries would meet.
func (c *Cluster) handshake(a, b *replica) bool {
	for _, r := range []*replica{a, b} {
		other := b
		if r == b {
			other = a
		}
		if r.role != Primary || !c.olderData(r, other) {
			continue
		}
		if r.suspendedQuorum && r.res.options.OnSuspendedPrimaryOutdated == "force-secondary" {
			c.forceSecondary(r)
			continue
		}
		return false // a Primary cannot become the target of a resync
	}
	if c.primariesIn(a, b) > 1 && !a.res.options.TwoPrimaries {
		return false
	}
	la, lb := a.links[b.node.name], b.links[a.node.name]
	la.cancel()
	lb.cancel()
	la.state, lb.state = stateConnected, stateConnected
	for _, number := range a.res.sortedVolumes() {
		da, db := a.disks[number], b.disks[number]
		if da == nil || db == nil {
			continue
		}
		la.repl[number], lb.repl[number] = "Established", "Established"
		c.compare(a, b, number)
	}
	c.settle(a.res)
	c.resolveLost(a)
	c.resolveLost(b)
	for _, number := range a.res.sortedVolumes() {
		c.startResync(a, number)
		c.startResync(b, number)
	}
	c.settle(a.res)
	return true
}

// primariesIn counts the Primaries among the two and whom they are connected
// with.
func (c *Cluster) primariesIn(a, b *replica) int {
	seen := map[*replica]bool{}
	for _, r := range []*replica{a, b} {
		seen[r] = true
		for _, l := range r.links {
			if l.state == stateConnected && c.linkHolds(r, l) {
				seen[r.res.replicas[l.peer]] = true
			}
		}
	}
	count := 0
	for r := range seen {
		if r.role == Primary {
			count++
		}
	}
	return count
}

// olderData tells whether the replica lacks blocks that the other has.
func (c *Cluster) olderData(r, other *replica) bool {
	for number, d := range r.disks {
		o := other.disks[number]
		if o != nil && !d.client && !o.client && !d.missing.empty() && o.missing.empty() && d.state != Diskless && o.state == UpToDate {
			return true
		}
	}
	return false
}

// compare decides what a new connection means for the disks of a volume.
func (c *Cluster) compare(a, b *replica, number int) {
	da, db := a.disks[number], b.disks[number]
	if da.state == Diskless || db.state == Diskless {
		return
	}
	good := func(d *disk) bool { return d.missing.empty() && (d.state == UpToDate || d.state == Consistent) }
	improve := func(d, other *disk) {
		switch {
		case !d.missing.empty() && good(other):
			if d.state != Inconsistent {
				d.state = Outdated
			}
		case d.missing.empty() && d.state != Inconsistent && good(other):
			d.state = UpToDate
		}
	}
	improve(da, db)
	improve(db, da)
}
