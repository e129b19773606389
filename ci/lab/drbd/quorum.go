package drbd

// votes is what one node counts for one volume, as DRBD's calc_quorum does.
type votes struct {
	present         int // disks that are there: the own one and connected peers'
	unknown         int // disks of peers that are not connected
	diskless        int // connected clients, the own node included
	missingDiskless int // clients that are not connected
	had             bool
}

// needed is the number of present disks for a majority.
func (v votes) needed() int { return (v.present+v.unknown)/2 + 1 }

// quorum decides by majority of the disks. When exactly half of an even
// number is present, a majority of the clients breaks the tie, but only to
// keep a quorum, not to regain one.
func (v votes) quorum() bool {
	voters := v.present + v.unknown
	if v.present >= v.needed() {
		return true
	}
	if !v.had || voters == 0 || voters%2 != 0 || v.present != v.needed()-1 {
		return false
	}
	return v.diskless >= (v.diskless+v.missingDiskless)/2+1
}

// votesFor counts. Outdated disks do not vote, and neither do disks that were
// detached on a connected node.
func (c *Cluster) votesFor(r *replica, number int) votes {
	own := r.disks[number]
	v := votes{had: own.quorum}
	count := func(client bool, state DiskState) {
		switch {
		case client:
			v.diskless++
		case state == UpToDate || state == Consistent || state == Inconsistent:
			v.present++
		}
	}
	count(own.client, own.state)
	for _, l := range r.links {
		peer := r.res.replicas[l.peer].disks[number]
		if peer == nil {
			continue
		}
		switch {
		case l.state == stateConnected:
			count(peer.client, l.disks[number])
		case peer.client:
			v.missingDiskless++
		default:
			v.unknown++
		}
	}
	return v
}

// upToDate tells whether the node sees UpToDate data of the volume.
func (r *replica) upToDate(number int) bool {
	if r.disks[number].state == UpToDate {
		return true
	}
	for _, l := range r.links {
		if l.state == stateConnected && l.disks[number] == UpToDate {
			return true
		}
	}
	return false
}

// hasData tells the same for all volumes.
func (r *replica) hasData() bool {
	for number := range r.disks {
		if !r.upToDate(number) {
			return false
		}
	}
	return true
}

// hasQuorum tells whether all volumes have quorum.
func (r *replica) hasQuorum() bool {
	for _, d := range r.disks {
		if !d.quorum {
			return false
		}
	}
	return true
}

// primaryPeer returns a connected peer that is known to be Primary.
func (r *replica) primaryPeer() string {
	for _, l := range r.links {
		if l.state == stateConnected && l.role == Primary {
			return l.peer
		}
	}
	return ""
}

// otherPrimary tells the same, where there may only be one.
func (r *replica) otherPrimary() bool {
	return !r.res.options.TwoPrimaries && r.primaryPeer() != ""
}

// weakPrimary tells whether the node reaches a Primary through others only: DRBD
// asks all nodes that can be reached before it promotes one.
func (r *replica) weakPrimary() bool {
	seen := map[*replica]bool{r: true}
	next := []*replica{r}
	for len(next) > 0 {
		current := next[0]
		next = next[1:]
		for _, other := range r.res.sortedReplicas() {
			if seen[other] || !other.node.up || !current.connected(other) || !other.connected(current) {
				continue
			}
			if other.role == Primary && !r.connected(other) {
				return true
			}
			seen[other] = true
			next = append(next, other)
		}
	}
	return false
}

// connected tells whether the node is connected with another one.
func (r *replica) connected(other *replica) bool {
	l := r.links[other.node.name]
	return l != nil && l.state == stateConnected
}

// promotion computes may_promote and promotion_score as `drbdsetup events2`
// does: the score is all local disks * 10000 + UpToDate local disks * 100 +
// the smallest number of UpToDate copies; 0 without data or quorum.
func (r *replica) promotion() (may bool, score int) {
	if len(r.disks) == 0 || !r.hasQuorum() || !r.hasData() {
		return false, 0
	}
	allLocal, localUpToDate, smallest := 1, 0, -1
	for number, d := range r.disks {
		copies := 0
		switch d.state {
		case UpToDate:
			localUpToDate++
			copies++
		case Inconsistent, Consistent:
		default:
			allLocal = 0
		}
		for _, l := range r.links {
			if l.state == stateConnected && l.disks[number] == UpToDate {
				copies++
			}
		}
		if smallest < 0 || copies < smallest {
			smallest = copies
		}
	}
	may = r.role != Primary && r.primaryPeer() == ""
	return may, allLocal*10000 + localUpToDate*100 + smallest
}
