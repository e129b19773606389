package drbd

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Configure brings the resource up on the node or adjusts it: new and removed
// volumes, options, clients that get a disk and back. Idempotent. It blocks
// until the devices are attached on the node. ErrNodeDown when it has no power.
func (c *Cluster) Configure(ctx context.Context, nodeName string, config ResourceConfig) error {
	devices, removed, err := c.configure(nodeName, config)
	if err != nil {
		return fmt.Errorf("configure %s on %s: %w", config.Name, nodeName, err)
	}
	if c.driver == nil {
		return nil
	}
	for _, device := range removed {
		if err := c.driver.Detach(ctx, nodeName, device); err != nil {
			return fmt.Errorf("detach %s/%d from %s: %w", device.Resource, device.Volume, nodeName, err)
		}
	}
	for _, device := range devices {
		if err := c.driver.Attach(ctx, nodeName, device); err != nil {
			return fmt.Errorf("attach %s/%d to %s: %w", device.Resource, device.Volume, nodeName, err)
		}
	}
	return nil
}

// configure changes the state and returns the devices that the node should
// have and those it should lose.
func (c *Cluster) configure(nodeName string, config ResourceConfig) (devices, removed []Device, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[nodeName]
	switch {
	case n == nil:
		return nil, nil, fmt.Errorf("node: %w", ErrUnknown)
	case !n.on || !n.up:
		return nil, nil, ErrNodeDown
	}
	res := c.resources[config.Name]
	if res == nil {
		res = &resource{name: config.Name, volumes: map[int]*volume{}, replicas: map[string]*replica{}, held: map[string]bool{}}
	}
	for _, v := range config.Volumes {
		if err := c.ensureVolume(res, v); err != nil {
			return nil, nil, fmt.Errorf("volume %d: %w", v.Number, err)
		}
	}
	c.resources[config.Name] = res
	res.options = config.Options.withDefaults()
	r := res.replicas[nodeName]
	if r == nil {
		if r, err = c.addReplica(res, n, config.NodeID); err != nil {
			return nil, nil, err
		}
	}
	for _, v := range config.Volumes {
		c.ensureDisk(r, v)
	}
	removed = c.removeDisks(r, config.Volumes)
	for _, peer := range res.sortedReplicas() {
		for number := range res.volumes {
			if r.disks[number] == nil || peer.disks[number] == nil {
				continue // one of the two does not have the new volume yet
			}
			if l := r.links[peer.node.name]; l != nil && l.state == stateConnected && l.repl[number] == "" {
				l.repl[number], peer.links[nodeName].repl[number] = "Established", "Established"
				c.compare(r, peer, number)
			}
		}
	}
	c.settle(res)
	c.connectNew(r)
	for _, peer := range res.sortedReplicas() {
		for number := range peer.disks {
			c.startResync(peer, number)
		}
	}
	c.rescan()
	return r.devices(), removed, nil
}

func (o ResourceOptions) withDefaults() ResourceOptions {
	if o.Quorum == "" {
		o.Quorum = QuorumOff
	}
	if o.OnNoQuorum == "" {
		o.OnNoQuorum = OnNoQuorumIOError
	}
	if o.OnSuspendedPrimaryOutdated == "" {
		o.OnSuspendedPrimaryOutdated = "disconnect"
	}
	return o
}

// ensureVolume makes the shared part of a volume.
func (c *Cluster) ensureVolume(res *resource, config VolumeConfig) error {
	if v := res.volumes[config.Number]; v != nil {
		if v.minor != config.Minor {
			return fmt.Errorf("minor %d differs from %d on other nodes", config.Minor, v.minor)
		}
		if config.SizeBytes <= v.size {
			return nil
		}
		v.size, v.shown = config.SizeBytes, config.SizeBytes
		return v.store.grow(v.size)
	}
	for _, other := range c.resources {
		for _, v := range other.volumes {
			if v.minor == config.Minor {
				return fmt.Errorf("minor %d belongs to %s/%d", config.Minor, other.name, v.number)
			}
		}
	}
	s, err := openStore(config.BackingFile, config.SizeBytes)
	if err != nil {
		return err
	}
	res.volumes[config.Number] = &volume{number: config.Number, minor: config.Minor, size: config.SizeBytes, shown: config.SizeBytes, store: s}
	return nil
}

// addReplica adds the resource to a node and the links to its peers.
func (c *Cluster) addReplica(res *resource, n *node, id int) (*replica, error) {
	used := map[int]bool{}
	for _, other := range res.replicas {
		used[other.id] = true
	}
	if id < 0 {
		for id = 0; used[id]; id++ {
		}
	}
	if used[id] {
		return nil, fmt.Errorf("node id %d is taken", id)
	}
	r := &replica{node: n, res: res, id: id, role: Secondary, disks: map[int]*disk{}, links: map[string]*link{}}
	for _, other := range res.replicas {
		r.links[other.node.name] = newLink(other.node.name)
		other.links[n.name] = newLink(n.name)
	}
	res.replicas[n.name] = r
	return r, nil
}

func newLink(peer string) *link {
	return &link{peer: peer, state: stateConnecting, role: Unknown, disks: map[int]DiskState{}, repl: map[int]string{}}
}

// ensureDisk gives the node its disk of a volume, or takes it.
func (c *Cluster) ensureDisk(r *replica, config VolumeConfig) {
	d := r.disks[config.Number]
	if d == nil {
		d = &disk{client: true, state: Diskless}
		r.disks[config.Number] = d
		if r.res.options.Quorum == QuorumMajority {
			// A new volume of a resource with quorum inherits it from the
			// resource's other volumes and peers at the next count.
			d.quorum = false
		}
	}
	switch {
	case config.Diskless:
		d.client, d.state = true, Diskless
		d.missing.clear()
	case d.client:
		d.client = false
		d.state = config.InitialDiskState
		if d.state == "" {
			d.state = UpToDate
			if r.res.volumes[config.Number].store.written() {
				d.state = Inconsistent
				d.missing.add(0, config.SizeBytes)
			}
		}
	}
}

// removeDisks takes away the volumes that are not configured any more.
func (c *Cluster) removeDisks(r *replica, keep []VolumeConfig) []Device {
	var removed []Device
	for _, device := range r.devices() {
		if slices.ContainsFunc(keep, func(v VolumeConfig) bool { return v.Number == device.Volume }) {
			continue
		}
		removed = append(removed, device)
		c.removeDisk(r, device.Volume)
	}
	return removed
}

func (c *Cluster) removeDisk(r *replica, number int) {
	if d := r.disks[number]; d != nil && d.sync != nil {
		d.sync.cancel()
	}
	delete(r.disks, number)
	for _, l := range r.links {
		delete(l.disks, number)
		delete(l.repl, number)
	}
	for _, other := range r.res.replicas {
		if other.disks[number] != nil {
			return
		}
	}
	if v := r.res.volumes[number]; v != nil {
		v.store.close()
		delete(r.res.volumes, number)
	}
}

// connectNew connects a freshly configured resource at once: in the real one
// it takes a second, which tests nothing here.
func (c *Cluster) connectNew(r *replica) {
	for _, peer := range r.res.sortedReplicas() {
		l := r.links[peer.node.name]
		if peer == r || l.state != stateConnecting || l.kind != timerNone || peer.links[r.node.name].kind != timerNone {
			continue
		}
		if peer.links[r.node.name].state == stateConnecting && c.reach(r.node, peer.node) {
			c.handshake(peer, r)
		}
	}
}

// Deconfigure takes the resource down on the node. ErrInUse while it is
// Primary there or a device is open; ErrNodeDown without power; nil when it is
// not configured.
func (c *Cluster) Deconfigure(ctx context.Context, nodeName, resourceName string) error {
	c.mu.Lock()
	r, err := c.running(nodeName, resourceName)
	if err != nil {
		c.mu.Unlock()
		if errors.Is(err, ErrUnknown) {
			return nil
		}
		return err
	}
	c.releaseAuto(ctx, r)
	if r.role == Primary || c.firstOpener(ctx, r, true) != "" {
		c.mu.Unlock()
		return fmt.Errorf("take down %s on %s: %w", resourceName, nodeName, ErrInUse)
	}
	devices := r.devices()
	c.mu.Unlock()
	if c.driver != nil {
		for _, device := range devices {
			if err := c.driver.Detach(ctx, nodeName, device); err != nil {
				return fmt.Errorf("detach %s/%d from %s: %w", resourceName, device.Volume, nodeName, err)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resources[resourceName] == nil || c.resources[resourceName].replicas[nodeName] != r {
		return nil
	}
	c.remove(r)
	return nil
}

// Forget removes the resource from a node that is gone for good (LINSTOR's
// `node lost`), without asking it.
func (c *Cluster) Forget(nodeName, resourceName string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if res := c.resources[resourceName]; res != nil && res.replicas[nodeName] != nil {
		c.remove(res.replicas[nodeName])
	}
}

// remove takes a replica out of the state and tells.
func (c *Cluster) remove(r *replica) {
	res := r.res
	name := r.node.name
	c.destroyed(r)
	for _, number := range res.sortedVolumes() {
		c.removeDisk(r, number)
	}
	for peer, l := range r.links {
		l.cancel()
		res.replicas[peer].links[name].cancel()
		delete(res.replicas[peer].links, name)
	}
	r.links = map[string]*link{}
	delete(res.replicas, name)
	if len(res.replicas) == 0 {
		delete(c.resources, res.name)
	}
	c.settle(res)
}

// Resize extends the volume on all nodes that are up; the others find the new
// size when they return. Only when their devices have grown does anybody see the new
// size: DRBD's is that of the device. A size that is not larger changes nothing.
func (c *Cluster) Resize(ctx context.Context, resourceName string, number int, sizeBytes int64) error {
	c.mu.Lock()
	res := c.resources[resourceName]
	if res == nil || res.volumes[number] == nil {
		c.mu.Unlock()
		return fmt.Errorf("volume %d of %s: %w", number, resourceName, ErrUnknown)
	}
	v := res.volumes[number]
	if err := v.store.grow(sizeBytes); err != nil {
		c.mu.Unlock()
		return fmt.Errorf("resize %s/%d: %w", resourceName, number, err)
	}
	v.size = max(v.size, sizeBytes)
	device := Device{Resource: resourceName, Volume: number, Minor: v.minor, SizeBytes: v.size}
	var names []string
	for _, r := range res.sortedReplicas() {
		if r.node.up && r.disks[number] != nil {
			names = append(names, r.node.name)
		}
	}
	c.mu.Unlock()
	var failed []error
	for _, name := range names {
		if c.driver == nil {
			break
		}
		if err := c.driver.Resize(ctx, name, device); err != nil {
			failed = append(failed, fmt.Errorf("resize %s/%d on %s: %w", resourceName, number, name, err))
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v.shown = max(v.shown, device.SizeBytes)
	c.settle(res)
	return nil
}
