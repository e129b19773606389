package drbd

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// crashedActivityLog is what DRBD resyncs after the crash of a Primary, at
// least: the area its activity log marks as possibly being written.
const crashedActivityLog = 4 << 20

// PowerOff kills the node: its requests fail, what its kernel knew is gone,
// peers notice after the detection time. Acknowledged writes are kept.
func (c *Cluster) PowerOff(nodeName string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[nodeName]
	if n == nil || !n.on {
		return
	}
	c.powerOff(n)
	n.on = false
}

func (c *Cluster) powerOff(n *node) {
	n.up, n.paused = false, false
	n.epoch++
	for s := range n.streams {
		s.end()
	}
	n.streams = map[*stream]struct{}{}
	for _, res := range c.resources {
		r := res.replicas[n.name]
		if r == nil {
			continue
		}
		for number, d := range r.disks {
			if r.role == Primary && !d.client && d.state != Diskless {
				d.missing.add(0, min(crashedActivityLog, res.volumes[number].size))
			}
			if d.sync != nil {
				d.sync.cancel()
				d.sync = nil
			}
			d.quorum, d.open = false, false
		}
		if r.role == Primary {
			c.subscribers.add(Event{Time: time.Now(), Node: n.name, Resource: res.name, Kind: EventInUse})
		}
		c.becomeSecondary(r)
		r.suspendedUser, r.suspendedQuorum, r.forceIO, r.stale, r.last = false, false, false, false, nil
		for _, l := range r.links {
			l.cancel()
			l.state, l.role = stateConnecting, Unknown
			clear(l.disks)
			clear(l.repl)
		}
	}
	c.rescan()
}

// PowerOn gives the node power. Its resources come up, Secondary, when its
// agent registers; without a node driver, at once.
func (c *Cluster) PowerOn(nodeName string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[nodeName]
	if n == nil || n.on {
		return
	}
	n.on = true
	if c.driver == nil {
		c.bringUp(n)
	}
}

func (c *Cluster) bringUp(n *node) {
	n.up = true
	for _, res := range c.resources {
		r := res.replicas[n.name]
		if r == nil {
			continue
		}
		for _, peer := range res.sortedReplicas() {
			if peer == r || !c.reach(n, peer.node) {
				continue
			}
			back := peer.links[n.name]
			if back.state == stateConnected {
				c.dropLinks(peer, []*link{back}) // it did not even notice the reboot
			}
			back.cancel()
			back.state = stateConnecting
			c.attempt(r, r.links[peer.node.name], between(c.timing.ConnectMin, c.timing.ConnectMax))
		}
	}
	c.rescan()
}

// Register is called when a node's agent has started. A boot id that differs
// from the last one means that the node was rebooted. It blocks until all
// devices that the node should have are attached.
func (c *Cluster) Register(ctx context.Context, nodeName, bootID string) error {
	c.mu.Lock()
	n := c.nodes[nodeName]
	if n == nil {
		c.mu.Unlock()
		return fmt.Errorf("register node %s: %w", nodeName, ErrUnknown)
	}
	rebooted := n.bootID != "" && n.bootID != bootID
	if rebooted && n.up {
		c.powerOff(n)
	}
	n.bootID, n.on = bootID, true
	if !n.up {
		c.bringUp(n)
	}
	var devices []Device
	for _, res := range c.resources {
		if r := res.replicas[nodeName]; r != nil {
			devices = append(devices, r.devices()...)
		}
	}
	c.mu.Unlock()
	if c.driver == nil {
		return nil
	}
	var failed []error
	for _, device := range devices {
		if err := c.driver.Attach(ctx, nodeName, device); err != nil {
			failed = append(failed, fmt.Errorf("attach %s/%d to %s: %w", device.Resource, device.Volume, nodeName, err))
		}
	}
	return errors.Join(failed...)
}

// Partition cuts DRBD's network: two nodes reach each other when a set has
// both of them, so a node in no set is alone, and one in two sets sees both.
func (c *Cluster) Partition(sets ...[]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partition = append([][]string{}, sets...)
	c.rescan()
}

// Heal ends the partition.
func (c *Cluster) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partition = nil
	c.rescan()
}

// Pause makes the node hang: it answers nobody, its I/O does not return. Peers
// notice as with a power-off.
func (c *Cluster) Pause(nodeName string) {
	c.setPaused(nodeName, true)
}

// Unpause lets it go on. If its peers gave it up meanwhile it learns so first,
// before any request that hung is looked at again.
func (c *Cluster) Unpause(nodeName string) {
	c.setPaused(nodeName, false)
}

func (c *Cluster) setPaused(nodeName string, paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[nodeName]; n != nil && n.paused != paused {
		n.paused = paused
		c.rescan()
	}
}

// SuspendIO suspends the resource's I/O on all nodes that are up, as
// `drbdadm suspend-io` on each. It returns when no request is in flight, so
// that the backing files are at one instant and can be copied.
func (c *Cluster) SuspendIO(ctx context.Context, resourceName string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	res := c.resources[resourceName]
	if res == nil {
		return fmt.Errorf("suspend %s: %w", resourceName, ErrUnknown)
	}
	replicas := res.sortedReplicas()
	for _, r := range replicas {
		r.suspendedUser = r.node.up
	}
	c.settle(res)
	for _, r := range replicas {
		if err := c.drain(ctx, r); err != nil {
			return fmt.Errorf("suspend %s: wait for requests: %w", resourceName, err)
		}
	}
	return nil
}

// ResumeIO ends SuspendIO on all nodes.
func (c *Cluster) ResumeIO(resourceName string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	res := c.resources[resourceName]
	if res == nil {
		return fmt.Errorf("resume %s: %w", resourceName, ErrUnknown)
	}
	for _, r := range res.replicas {
		r.suspendedUser = false
	}
	c.settle(res)
	return nil
}

// withDisk runs f on a disk under the lock and tells what it changed. It works
// on nodes without power too.
func (c *Cluster) withDisk(nodeName, resourceName string, number int, f func(*replica, *disk) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	res := c.resources[resourceName]
	if res == nil || res.replicas[nodeName] == nil || res.replicas[nodeName].disks[number] == nil {
		return fmt.Errorf("volume %d of %s on %s: %w", number, resourceName, nodeName, ErrUnknown)
	}
	r := res.replicas[nodeName]
	if r.disks[number].client {
		return fmt.Errorf("volume %d of %s on %s has no disk", number, resourceName, nodeName)
	}
	if err := f(r, r.disks[number]); err != nil {
		return err
	}
	c.settle(res)
	return nil
}

// SetDiskState sets a disk's state and keeps it so until a resync or a
// reconnection changes it.
func (c *Cluster) SetDiskState(nodeName, resourceName string, number int, state DiskState) error {
	return c.withDisk(nodeName, resourceName, number, func(r *replica, d *disk) error {
		c.stopResync(r, number)
		d.state = state
		if state == UpToDate {
			d.missing.clear()
		}
		return nil
	})
}

// DetachDisk is a disk failure (on-io-error detach): the disk goes Diskless, a
// Primary carries on through its peers.
func (c *Cluster) DetachDisk(nodeName, resourceName string, number int) error {
	return c.withDisk(nodeName, resourceName, number, func(r *replica, d *disk) error {
		c.stopResync(r, number)
		d.state = Diskless
		return nil
	})
}

// AttachDisk ends it: the disk is back and resyncs what was written meanwhile;
// without anything to copy it is UpToDate at once.
func (c *Cluster) AttachDisk(nodeName, resourceName string, number int) error {
	return c.withDisk(nodeName, resourceName, number, func(r *replica, d *disk) error {
		if d.state != Diskless {
			return nil
		}
		d.state = UpToDate
		if !d.missing.empty() {
			d.state = Outdated
		}
		c.settle(r.res)
		c.startResync(r, number)
		return nil
	})
}

// Outdate is `drbdsetup outdate`.
func (c *Cluster) Outdate(nodeName, resourceName string, number int) error {
	return c.SetDiskState(nodeName, resourceName, number, Outdated)
}

// Resync makes the node copy the whole volume from a peer, for a duration
// (0: at the usual speed), as `drbdsetup invalidate` does. Without a connected
// UpToDate peer the disk stays Inconsistent until there is one.
func (c *Cluster) Resync(nodeName, resourceName string, number int, duration time.Duration) error {
	return c.withDisk(nodeName, resourceName, number, func(r *replica, d *disk) error {
		c.stopResync(r, number)
		d.state = Inconsistent
		d.missing.add(0, r.res.volumes[number].size)
		if duration == 0 {
			c.startResync(r, number)
			return nil
		}
		for _, l := range r.links {
			if l.state == stateConnected && l.disks[number] == UpToDate && c.linkHolds(r, l) {
				c.beginResync(r, number, l.peer, d.missing.bytes(), duration)
				return nil
			}
		}
		return nil
	})
}

// HoldResync keeps resyncs towards the node from starting (a peer that stays
// Outdated or Inconsistent), or lets them start again.
func (c *Cluster) HoldResync(nodeName, resourceName string, hold bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	res := c.resources[resourceName]
	if res == nil || res.replicas[nodeName] == nil {
		return fmt.Errorf("resource %s on %s: %w", resourceName, nodeName, ErrUnknown)
	}
	res.held[nodeName] = hold
	r := res.replicas[nodeName]
	for number := range r.disks {
		if hold {
			c.stopResync(r, number)
		} else {
			c.startResync(r, number)
		}
	}
	c.settle(res)
	return nil
}

// stopResync ends a running resync without result.
func (c *Cluster) stopResync(r *replica, number int) {
	d := r.disks[number]
	if d.sync == nil {
		return
	}
	source := d.sync.source
	d.sync.cancel()
	d.sync = nil
	if l := r.links[source]; l != nil && l.state == stateConnected {
		l.repl[number] = "Established"
		r.res.replicas[source].links[r.node.name].repl[number] = "Established"
	}
}
