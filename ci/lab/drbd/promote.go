package drbd

import (
	"context"
	"fmt"
	"time"
)

// Codes of refusals (drbd-headers, drbd_strings.c).
const (
	codeTwoPrimaries    = -1
	codeNoUpToDateData  = -2
	codeDeclined        = -10
	codeHeldOpen        = -12
	codeWeaklyConnected = -24
	codeNoQuorum        = -25
)

var refusals = map[int]string{
	codeTwoPrimaries:    "Multiple primaries not allowed by config",
	codeNoUpToDateData:  "Need access to UpToDate data",
	codeDeclined:        "State change was refused by peer node",
	codeHeldOpen:        "Device is held open by someone",
	codeWeaklyConnected: "Primary nodes must be strongly connected among each other",
	codeNoQuorum:        "No quorum",
}

func refuse(r *replica, code int, info string) *StateError {
	return &StateError{Resource: r.res.name, Code: code, Text: refusals[code], Info: info}
}

// Promote is `drbdsetup primary` on the node. It blocks for as long as DRBD
// would: half a second to find out that a silent peer is dead or that a living
// Primary stays it, a second and more when the other peers have to find out.
// Refusals are *StateError. Promoting a Primary is a success, even one without
// quorum; one that was promoted automatically then stays it after the last
// close. force overrides missing data and quorum: nearly always a violation.
func (c *Cluster) Promote(ctx context.Context, nodeName, resourceName string, force bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.running(nodeName, resourceName)
	if err != nil {
		return err
	}
	if r.role != Primary {
		if err := c.promote(ctx, r, force, false); err != nil {
			return err
		}
	}
	r.auto = false
	return nil
}

// promote makes the node Primary until `secondary`, or (auto) until the last
// close; or it refuses. The buffers of a node that is promoted automatically
// are not flushed: its kernel waits for the request that caused it. What they
// hold was read while nobody could be Primary elsewhere, else it is stale.
func (c *Cluster) promote(ctx context.Context, r *replica, force, auto bool) error {
	// Requests of other Secondaries wait meanwhile: what they read would stay
	// in their buffers.
	r.promoting++
	defer func() {
		r.promoting--
		c.wake()
	}()
	if r.forceIO {
		if opener := c.firstOpener(ctx, r, false); opener != "" {
			return refuse(r, codeHeldOpen, opener)
		}
		c.releaseForceIO(r)
	}
	if err := c.checkPeers(ctx, r); err != nil {
		return err
	}
	c.releasePeers(ctx, r)
	if r.otherPrimary() {
		// Perhaps it is about to demote: DRBD gives it one ping-timeout.
		if err := c.pause(ctx, c.timing.PingTimeout); err != nil {
			return err
		}
		if r.otherPrimary() {
			return refuse(r, codeTwoPrimaries, "")
		}
	}
	if err := c.mayPromote(r, force); err != nil {
		return err
	}
	reader, unused := c.readingPeer(ctx, r)
	if reader != nil {
		if err := c.pause(ctx, c.timing.ReaderRefusal); err != nil {
			return err
		}
		return refuse(r, codeDeclined, fmt.Sprintf("Declined by peer %s (id: %d), see the kernel log there", reader.node.name, reader.id))
	}
	if !auto {
		if err := c.flush(ctx, r); err != nil {
			return err
		}
		r.stale = false
	}
	// All requests of others that were admitted before are executed first.
	for _, other := range r.res.sortedReplicas() {
		if other != r {
			if err := c.drain(ctx, other); err != nil {
				return err
			}
		}
	}
	// The world went on while nothing was locked.
	if current, err := c.running(r.node.name, r.res.name); err != nil || current != r {
		return fmt.Errorf("promote %s on %s: %w", r.res.name, r.node.name, ErrUnknown)
	}
	if r.role == Primary {
		return nil
	}
	if r.otherPrimary() {
		return refuse(r, codeTwoPrimaries, "")
	}
	if r.weakPrimary() {
		return refuse(r, codeWeaklyConnected, "")
	}
	if err := c.mayPromote(r, force); err != nil {
		return err
	}
	if r.stale {
		return refuse(r, codeNoUpToDateData, "")
	}
	r.auto = auto
	c.becomePrimary(r, force, unused)
	return nil
}

// mayPromote checks data before quorum, as DRBD does.
func (c *Cluster) mayPromote(r *replica, force bool) error {
	if force {
		return nil
	}
	if !r.hasData() {
		return refuse(r, codeNoUpToDateData, "")
	}
	for _, number := range r.res.sortedVolumes() {
		if d := r.disks[number]; d != nil && !d.quorum {
			v := c.votesFor(r, number)
			return refuse(r, codeNoQuorum, fmt.Sprintf("%d of %d nodes visible, need %d for quorum", v.present, v.present+v.unknown, v.needed()))
		}
	}
	return nil
}

// becomePrimary makes the node Primary. unused are the peers on which nobody
// has the device open.
func (c *Cluster) becomePrimary(r *replica, force bool, unused map[*replica]bool) {
	if force && (!r.hasData() || !r.hasQuorum()) {
		c.forcePrimary(r)
	}
	for number, d := range r.disks {
		if d.state == UpToDate && !d.missing.empty() && !c.readable(r, number) {
			c.violate("%s: %s became Primary on old data of volume %d; the real one would have lost acknowledged writes", r.res.name, r.node.name, number)
		}
	}
	for _, other := range r.res.sortedReplicas() {
		if other == r || !other.node.up || r.res.options.TwoPrimaries && r.connected(other) {
			continue
		}
		other.stale = c.driver != nil && !unused[other]
		if other.role == Primary {
			// It was cut off and does not know yet. Until it does, it reads
			// what was there when it was cut off.
			for _, v := range r.res.volumes {
				v.store.freeze(other.node.name)
			}
		}
	}
	for _, v := range r.res.volumes {
		v.store.thaw(r.node.name)
	}
	r.role = Primary
	c.settle(r.res)
}

// forcePrimary is what --force overrides. Only a resource that never had
// UpToDate data may be started so.
func (c *Cluster) forcePrimary(r *replica) {
	for number := range r.disks {
		for _, other := range r.res.replicas {
			if other.disks[number] != nil && other.disks[number].state == UpToDate {
				c.violate("%s: %s was promoted by force against quorum or newer data: split brain", r.res.name, r.node.name)
			}
		}
	}
	for _, d := range r.disks {
		if !d.client {
			d.state = UpToDate
			d.missing.clear()
		}
		d.quorum = true
	}
	r.suspendedQuorum = false
}

// Demote is `drbdsetup secondary` on the node. It is refused (-12) while the
// device is open; force demotes at once, and until the last opener has closed
// all its I/O fails.
func (c *Cluster) Demote(ctx context.Context, nodeName, resourceName string, force bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.running(nodeName, resourceName)
	if err != nil {
		return err
	}
	if r.role != Primary {
		return nil
	}
	if force {
		c.forceSecondary(r)
		return nil
	}
	if opener := c.firstOpener(ctx, r, false); opener != "" {
		return refuse(r, codeHeldOpen, opener)
	}
	if err := c.drain(ctx, r); err != nil {
		return err
	}
	c.becomeSecondary(r)
	c.settle(r.res)
	return nil
}

func (c *Cluster) becomeSecondary(r *replica) {
	r.role, r.auto = Secondary, false
	for _, v := range r.res.volumes {
		v.store.thaw(r.node.name)
	}
}

// forceSecondary demotes and watches for the last close when somebody can
// still have the device open.
func (c *Cluster) forceSecondary(r *replica) {
	c.becomeSecondary(r)
	if c.driver != nil {
		r.forceIO = true
	}
	c.settle(r.res)
	if r.forceIO {
		c.watchClose(r)
	}
}

// closePoll is how often a forcibly demoted device is looked at.
const closePoll = 200 * time.Millisecond

// watchClose ends force-io-failures after the last close, as DRBD does.
func (c *Cluster) watchClose(r *replica) {
	if r.watchingClose {
		return
	}
	r.watchingClose = true
	epoch := r.node.epoch
	go func() {
		for {
			c.mu.Lock()
			if c.closed || !r.forceIO || r.node.epoch != epoch || len(r.disks) == 0 {
				r.watchingClose = false
				c.mu.Unlock()
				return
			}
			ctx, cancel := context.WithTimeout(c.lifetime, 5*time.Second)
			if c.firstOpener(ctx, r, true) == "" {
				c.releaseForceIO(r)
			}
			cancel()
			c.mu.Unlock()
			_ = sleep(c.lifetime, closePoll)
		}
	}()
}

func (c *Cluster) releaseForceIO(r *replica) {
	r.forceIO, r.stale = false, false
	c.settle(r.res)
}

// pause waits without the lock.
func (c *Cluster) pause(ctx context.Context, d time.Duration) error {
	c.mu.Unlock()
	defer c.mu.Lock()
	return sleep(ctx, d)
}

// checkPeers pings the peers, as `primary` does first: silent ones are found
// dead in a ping-timeout. When one of them was Primary the others have to find
// out too before the own data counts as UpToDate again.
func (c *Cluster) checkPeers(ctx context.Context, r *replica) error {
	silent := len(c.silent(r)) > 0
	if silent {
		if err := c.pause(ctx, c.timing.PingTimeout); err != nil {
			return err
		}
		c.dropLinks(r, c.silent(r))
	}
	if c.peersSilent(r) && (silent || r.consistent()) && r.mayHaveData() {
		if err := c.pause(ctx, between(c.timing.LostPeerMin, c.timing.LostPeerMax)); err != nil {
			return err
		}
		c.dropSilent(r)
	}
	c.resolveLost(r)
	return nil
}

// mayHaveData tells whether the node would have data for all volumes if its
// Consistent disks turned out to be UpToDate.
func (r *replica) mayHaveData() bool {
	for number, d := range r.disks {
		if d.state != Consistent && !r.upToDate(number) {
			return false
		}
	}
	return true
}
