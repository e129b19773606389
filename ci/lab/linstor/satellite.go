package linstor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// satelliteTimeout bounds one command to the replication layer.
const satelliteTimeout = 2 * time.Minute

type deployBehaviour struct {
	delay             time.Duration
	failures          int
	resource, message string
}

// SetDeploy changes how a node's satellite deploys.
func (c *Controller) SetDeploy(name string, d control.Deploy) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[name]
	if !ok {
		return fmt.Errorf("set deployment of node %q: unknown node", name)
	}
	n.deploy = deployBehaviour{delay: time.Duration(d.Delay), failures: d.Failures, resource: d.Resource, message: d.Message}
	return nil
}

// deploy lets all satellites of a resource definition follow the database and
// returns what they said: an error for each that failed, a warning (1002) for
// each that is offline. It blocks until the online ones have answered. Nothing
// is ever taken back.
func (c *Controller) deploy(rd *resourceDefinition) Replies {
	c.mu.Lock()
	immediate, delayed := []string{}, []string{}
	for _, name := range c.deployOrder(rd) {
		if c.nodes[name].deploy.delay > 0 && c.online(name) {
			delayed = append(delayed, name)
		} else {
			immediate = append(immediate, name)
		}
	}
	c.mu.Unlock()

	var mu sync.Mutex
	var all Replies
	var wait sync.WaitGroup
	run := func(nodes ...string) {
		wait.Go(func() {
			for _, name := range nodes {
				rs := c.deployOn(rd, name)
				mu.Lock()
				all = append(all, rs...)
				mu.Unlock()
			}
		})
	}
	run(immediate...)
	for _, name := range delayed {
		run(name)
	}
	wait.Wait()
	return append(all, c.finish(rd)...)
}

// deployOrder lists the resource definition's nodes, those first whose disk
// the others copy from.
func (c *Controller) deployOrder(rd *resourceDefinition) []string {
	var first, rest []string
	for _, r := range rd.sortedResources() {
		winner := false
		for _, vd := range rd.volumes {
			winner = winner || vd.winner == r.node
		}
		if winner {
			first = append(first, r.node)
		} else {
			rest = append(rest, r.node)
		}
	}
	return append(first, rest...)
}

// deployOn lets one satellite follow the database for one resource definition.
func (c *Controller) deployOn(rd *resourceDefinition, name string) Replies {
	c.mu.Lock()
	behaviour := c.nodes[name].deploy
	c.mu.Unlock()
	time.Sleep(behaviour.delay)

	rd.work.Lock()
	defer rd.work.Unlock()
	plan, ok := c.plan(rd, name)
	switch {
	case !ok:
		return nil
	case plan.offline:
		return Replies{notConnected(name)}
	case plan.hasWork() && c.takeFailure(rd, name):
		return c.reportFailure(rd, plan, deployError(rd, name, behaviour.message))
	case plan.remove:
		return c.remove(rd, name)
	}
	return c.configure(rd, plan)
}

func notConnected(name string) Reply {
	r := warning(warnNotConnected, objNode, "No active connection to satellite '%s'", name)
	r.Details = "The controller is trying to (re-) establish a connection to the satellite. " +
		"The controller stored the changes and as soon the satellite is connected, it will receive this update."
	return r
}

func deployError(rd *resourceDefinition, name, message string) Reply {
	if message == "" {
		message = "lvcreate: failed (injected by the laboratory)"
	}
	r := failure(failUnknown, objResource, "(Node: '%s') Failed to create or change the volumes of resource '%s': %s", name, rd.name, message)
	r.ObjRefs = map[string]string{"Node": name, "RscDfn": rd.name}
	return r
}

// takeFailure consumes one injected failure that fits.
func (c *Controller) takeFailure(rd *resourceDefinition, name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.nodes[name].deploy
	if d.failures == 0 || d.resource != "" && d.resource != rd.name {
		return false
	}
	if d.failures > 0 {
		d.failures--
	}
	return true
}

// nodePlan is what one satellite has to do, gathered from the database.
type nodePlan struct {
	node    string
	offline bool
	remove  bool
	config  drbd.ResourceConfig
	volumes []volumePlan
	gone    []int // volumes whose definition is being deleted
	mustUp  bool  // the resource is not configured yet
}

type volumePlan struct {
	number   int
	sizeKiB  int64
	file     string
	source   string
	fsType   string
	mkfs     string
	create   bool
	grow     bool
	diskless bool
	initial  drbd.DiskState
	minor    int
	device   int64 // KiB
}

func (p nodePlan) hasWork() bool {
	if p.remove || p.mustUp || len(p.gone) > 0 {
		return true
	}
	return slices.ContainsFunc(p.volumes, func(v volumePlan) bool { return v.create || v.grow })
}

func (c *Controller) plan(rd *resourceDefinition, name string) (nodePlan, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := rd.resources[name]
	if !ok {
		return nodePlan{}, false
	}
	p := nodePlan{node: name, offline: !c.online(name), mustUp: !r.configured}
	if rd.deleted() || r.deleted() {
		p.remove = true
		return p, true
	}
	p.config = drbd.ResourceConfig{
		Name: rd.name, NodeID: r.nodeID,
		Options: drbd.ResourceOptions{
			Quorum: rd.props[propQuorum], OnNoQuorum: c.prop(rd, propOnNoQuorum),
			AutoPromote: c.prop(rd, propAutoPromote) != "no", TwoPrimaries: c.prop(rd, propTwoPrimaries) == "yes",
		},
	}
	for _, vd := range rd.sortedVolumes() {
		v := r.volumes[vd.number]
		switch {
		case v == nil:
			continue
		case vd.deleted():
			p.gone = append(p.gone, vd.number)
			continue
		}
		vp := volumePlan{
			number: vd.number, sizeKiB: vd.sizeKiB, file: c.backingFile(rd, vd.number), source: vd.source,
			create: !v.deployed, grow: v.deployed && !r.diskless() && v.sizeKiB < vd.sizeKiB,
			diskless: r.diskless(), minor: vd.minor, device: vd.deviceKiB,
		}
		if vp.create && !r.diskless() {
			if vd.winner == "" {
				vd.winner = name
			}
			f := initialFacts{
				thin: c.nodes[name].pools[v.pool].thin(), later: vd.addedLater, perVolume: laterVolumesInitialised(c.version),
				winner: vd.winner == name, initialised: vd.initialised, joins: v.sync, copied: vd.source != "",
			}
			vp.initial = f.diskState()
			if f.formats() {
				vp.fsType = c.volumeProp(rd, vd, r, propFileSystem)
				vp.mkfs = c.volumeProp(rd, vd, r, propMkfsParams)
			}
		}
		p.volumes = append(p.volumes, vp)
	}
	return p, true
}

// initialFacts decide how a new volume's disk starts on one node.
type initialFacts struct {
	thin        bool // the pool reads zeros, so that nothing needs a first sync
	later       bool // the definition was added to initialised resources
	perVolume   bool // server >= 1.33.2
	winner      bool // this node's disk is the one that becomes UpToDate first
	initialised bool // some node's disk is UpToDate
	joins       bool // a further replica of existing data
	copied      bool // the data come from a snapshot or clone
}

// diskState is the disk state that the volume starts with; empty lets DRBD
// decide (UpToDate, or a resync from an UpToDate peer). The rules are those of
// linstor-server before and after commit 0e1bc18b7 (1.33.2).
func (f initialFacts) diskState() drbd.DiskState {
	switch {
	case f.joins:
		return ""
	case f.copied:
		return drbd.UpToDate
	case !f.perVolume && f.thin:
		return drbd.UpToDate
	case !f.perVolume && f.later:
		return drbd.Inconsistent
	case f.winner:
		return drbd.UpToDate
	case !f.initialised:
		return drbd.Inconsistent
	case f.thin:
		return drbd.UpToDate
	default:
		return ""
	}
}

// formats says whether this node's satellite runs mkfs on the new volume.
func (f initialFacts) formats() bool {
	return f.winner && !f.initialised && !f.joins && !f.copied && (f.perVolume || !f.later)
}

// configure creates backing files and file systems and brings the resource up.
func (c *Controller) configure(rd *resourceDefinition, p nodePlan) Replies {
	ctx, cancel := context.WithTimeout(context.Background(), satelliteTimeout)
	defer cancel()
	var failures Replies
	done := []volumePlan{}
	for _, v := range p.volumes {
		if v.create {
			if err := prepareFile(ctx, v); err != nil {
				failures = append(failures, deployError(rd, p.node, err.Error()))
				continue
			}
		}
		done = append(done, v)
		p.config.Volumes = append(p.config.Volumes, drbd.VolumeConfig{
			Number: v.number, Minor: v.minor, SizeBytes: v.device << 10, BackingFile: v.file,
			Diskless: v.diskless, InitialDiskState: v.initial,
		})
	}
	switch err := c.replication.Configure(ctx, p.node, p.config); {
	case errors.Is(err, drbd.ErrNodeDown):
		return append(failures, notConnected(p.node))
	case err != nil:
		return c.reportFailure(rd, p, append(failures, deployError(rd, p.node, err.Error()))...)
	}

	c.mu.Lock()
	r, ok := rd.resources[p.node]
	if ok {
		r.configured = true
		for _, v := range done {
			volume := r.volumes[v.number]
			volume.deployed, volume.sizeKiB, volume.reports = true, v.sizeKiB, nil
			volume.waits = v.create && v.initial == drbd.Inconsistent || volume.waits && !v.create
			if vd := rd.volumes[v.number]; v.create && !v.diskless && v.initial != drbd.Inconsistent {
				vd.initialised = true
				if rd.props[propPrimarySet] == "" {
					rd.props[propPrimarySet] = p.node
				}
			}
		}
		for _, number := range p.gone {
			delete(r.volumes, number)
		}
	}
	waiting := c.waiting(rd)
	c.mu.Unlock()
	for _, w := range waiting {
		if err := c.replication.SetDiskState(w.node, rd.name, w.number, drbd.UpToDate); err != nil {
			failures = append(failures, deployError(rd, w.node, "skip initial sync: "+err.Error()))
		}
	}
	return c.reportFailure(rd, p, failures...)
}

type waitingDisk struct {
	node   string
	number int
}

// waiting takes the disks whose winner has become UpToDate meanwhile: it skips
// the initial sync for them, as `new-current-uuid --clear-bitmap` does.
func (c *Controller) waiting(rd *resourceDefinition) []waitingDisk {
	var out []waitingDisk
	for _, r := range rd.sortedResources() {
		for number, v := range r.volumes {
			if vd := rd.volumes[number]; v.waits && vd != nil && vd.initialised {
				v.waits = false
				out = append(out, waitingDisk{node: r.node, number: number})
			}
		}
	}
	return out
}

// reportFailure keeps the failures with the volumes that are not deployed.
func (c *Controller) reportFailure(rd *resourceDefinition, p nodePlan, failures ...Reply) Replies {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := rd.resources[p.node]; ok && len(failures) > 0 {
		for _, v := range r.volumes {
			if !v.deployed {
				v.reports = failures
			}
		}
	}
	return failures
}

// remove takes the resource down on the node and forgets it.
func (c *Controller) remove(rd *resourceDefinition, name string) Replies {
	ctx, cancel := context.WithTimeout(context.Background(), satelliteTimeout)
	defer cancel()
	switch err := c.replication.Deconfigure(ctx, name, rd.name); {
	case errors.Is(err, drbd.ErrNodeDown):
		return Replies{notConnected(name)}
	case err != nil:
		return Replies{deployError(rd, name, "drbdadm down: "+err.Error())}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(rd.resources, name)
	return nil
}

// finish does what needs all satellites: grows the devices when every node has
// grown its disk, and forgets what every node has removed.
func (c *Controller) finish(rd *resourceDefinition) Replies {
	rd.work.Lock()
	defer rd.work.Unlock()
	var failures Replies
	for _, vd := range c.grown(rd) {
		ctx, cancel := context.WithTimeout(context.Background(), satelliteTimeout)
		err := c.replication.Resize(ctx, rd.name, vd.number, vd.sizeKiB<<10)
		cancel()
		if err != nil {
			failures = append(failures, failure(failUnknown, objVolume, "drbdadm resize of volume %d of '%s' failed: %v", vd.number, rd.name, err))
			continue
		}
		c.mu.Lock()
		vd.deviceKiB = vd.sizeKiB
		vd.flags = removeFlag(vd.flags, flagResize)
		c.mu.Unlock()
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, vd := range rd.sortedVolumes() {
		if (vd.deleted() || rd.deleted()) && !rd.hasVolume(vd.number) {
			delete(rd.volumes, vd.number)
			c.removeFile(rd, vd.number)
		}
	}
	c.settleClone(rd)
	if rd.deleted() && len(rd.resources) == 0 && c.definitions[rd.name] == rd {
		delete(c.definitions, rd.name)
		c.removeFiles(rd)
	}
	return failures
}

func (rd *resourceDefinition) hasVolume(number int) bool {
	for _, r := range rd.resources {
		if r.volumes[number] != nil {
			return true
		}
	}
	return false
}

// grown returns the volume definitions whose disks have all been extended
// while the devices have not.
func (c *Controller) grown(rd *resourceDefinition) []*volumeDefinition {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*volumeDefinition
	for _, vd := range rd.sortedVolumes() {
		ready := vd.sizeKiB > vd.deviceKiB && !vd.deleted() && !rd.deleted()
		for _, r := range rd.resources {
			v := r.volumes[vd.number]
			if v != nil && !r.diskless() && !r.deleted() && v.sizeKiB < vd.sizeKiB {
				ready = false
			}
		}
		if ready {
			out = append(out, vd)
		}
	}
	return out
}

// SetOnline connects or disconnects a node's satellite. DRBD on the node goes
// on as it is. A satellite that comes back makes up for what it missed before
// SetOnline returns; what fails then is returned.
func (c *Controller) SetOnline(name string, online bool) error {
	c.mu.Lock()
	n, ok := c.nodes[name]
	if !ok {
		c.mu.Unlock()
		return fmt.Errorf("set connection of node %q: unknown node", name)
	}
	n.online = online
	c.mu.Unlock()
	if !online {
		return nil
	}
	return c.FullSync(name)
}

// FullSync lets the node's satellite deploy everything it has not deployed.
func (c *Controller) FullSync(name string) error {
	c.mu.Lock()
	var mine []*resourceDefinition
	for _, rd := range c.sortedDefinitions() {
		if r := rd.resources[name]; r != nil {
			mine = append(mine, rd)
			state, err := c.replication.State(name, rd.name)
			r.inUse = err == nil && state.Role == drbd.Primary
		}
	}
	c.mu.Unlock()
	var problems []error
	for _, rd := range mine {
		rs := append(c.deployOn(rd, name), c.finish(rd)...)
		for _, reply := range rs {
			if reply.isError() {
				problems = append(problems, errors.New(reply.Message))
			}
		}
	}
	c.finishSnapshotDeletions()
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("full sync of node %q: %w", name, err)
	}
	return nil
}
