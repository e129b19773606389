package linstor

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

func snapshotNotFound(rd, name string) Replies {
	return fail(failNotFoundSnapshot, objSnapshot, "Snapshot '%s' of resource '%s' not found.", name, rd)
}

func (s *snapshot) json(rd *resourceDefinition) snapshotJSON {
	out := snapshotJSON{
		Name: s.name, ResourceName: rd.name, Nodes: slices.Sorted(maps.Keys(s.nodes)), SnapshotDefinitionProps: map[string]string{},
		ResourceDefinitionProps: clone(s.props), Props: clone(s.props), Flags: orEmpty(slices.Clone(s.flags)),
		VolumeDefinitions: s.volumes, UUID: s.uuid, Snapshots: []snapshotNodeJSON{},
	}
	for _, name := range out.Nodes {
		n := snapshotNodeJSON{SnapshotName: s.name, NodeName: name, CreateTimestamp: s.nodes[name].UnixMilli(), Flags: []string{}, UUID: s.uuid}
		for _, v := range s.volumes {
			n.SnapshotVolumes = append(n.SnapshotVolumes, snapshotVolumeJSON{UUID: s.uuid, Number: v.VolumeNumber, Props: map[string]string{}})
		}
		out.Snapshots = append(out.Snapshots, n)
	}
	return out
}

func (c *Controller) viewSnapshots(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	query := q.URL.Query()
	out := []snapshotJSON{}
	for _, rd := range c.sortedDefinitions() {
		if !wanted(query["resources"], rd.name) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(rd.snapshots)) {
			s := rd.snapshots[name]
			onNode := len(query["nodes"]) == 0
			for node := range s.nodes {
				onNode = onNode || wanted(query["nodes"], node)
			}
			if onNode && wanted(query["snapshots"], name) {
				out = append(out, s.json(rd))
			}
		}
	}
	return http.StatusOK, page(query, out)
}

func (c *Controller) listSnapshots(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return http.StatusNotFound, definitionNotFound(q.PathValue("rd"))
	}
	out := []snapshotJSON{}
	for _, name := range slices.Sorted(maps.Keys(rd.snapshots)) {
		out = append(out, rd.snapshots[name].json(rd))
	}
	return http.StatusOK, out
}

func (c *Controller) getSnapshot(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return http.StatusNotFound, definitionNotFound(q.PathValue("rd"))
	}
	s, ok := rd.snapshots[q.PathValue("snapshot")]
	if !ok {
		return http.StatusNotFound, snapshotNotFound(rd.name, q.PathValue("snapshot"))
	}
	return http.StatusOK, s.json(rd)
}

func (c *Controller) createSnapshot(q *request) Replies {
	var in snapshotCreate
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	in.ResourceName = q.PathValue("rd")
	return c.takeSnapshots([]snapshotCreate{in})
}

func (c *Controller) createSnapshots(q *request) Replies {
	var in struct {
		Snapshots []snapshotCreate `json:"snapshots"`
	}
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	slices.SortFunc(in.Snapshots, func(a, b snapshotCreate) int { return cmp.Compare(a.ResourceName, b.ResourceName) })
	return c.takeSnapshots(in.Snapshots)
}

type pendingSnapshot struct {
	rd     *resourceDefinition
	s      *snapshot
	failed bool
}

// takeSnapshots suspends the I/O of all the resources on all nodes, copies
// all volumes, and resumes: all volumes of all snapshots show one instant.
// The snapshot definitions are committed first and become SUCCESSFUL last.
func (c *Controller) takeSnapshots(in []snapshotCreate) Replies {
	pending, rs := c.commitSnapshots(in)
	if rs.failed() {
		return rs
	}
	for i := range pending {
		pending[i].rd.work.Lock()
		defer pending[i].rd.work.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), satelliteTimeout)
	defer cancel()
	started := time.Now()
	for i, p := range pending {
		if err := c.replication.SuspendIO(ctx, p.rd.name); err != nil {
			pending[i].failed = true
			rs = append(rs, failure(failUnknown, objSnapshot|opCreate, "Failed to suspend IO of resource '%s': %v", p.rd.name, err))
		}
	}
	for i, p := range pending {
		if p.failed {
			continue
		}
		if failures := c.copySnapshot(ctx, p); failures != nil {
			pending[i].failed = true
			rs = append(rs, failures...)
		}
	}
	c.mu.Lock()
	suspendTime := c.suspendTime
	c.mu.Unlock()
	time.Sleep(suspendTime - time.Since(started))
	for _, p := range pending {
		if err := c.replication.ResumeIO(p.rd.name); err != nil {
			rs = append(rs, failure(failUnknown, objSnapshot|opCreate, "Failed to resume IO of resource '%s': %v", p.rd.name, err))
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range pending {
		if p.failed {
			p.s.flags = addFlag(p.s.flags, flagFailedDeploy)
			continue
		}
		p.s.flags = addFlag(p.s.flags, flagSuccessful)
		rs = append(rs, success(codeCreated, objSnapshot|opCreate, "New snapshot '%s' of resource '%s' registered.", p.s.name, p.rd.name))
	}
	return rs
}

// commitSnapshots checks all and creates all snapshot definitions, or none.
func (c *Controller) commitSnapshots(in []snapshotCreate) ([]pendingSnapshot, Replies) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rs Replies
	var pending []pendingSnapshot
	for _, want := range in {
		rd, ok := c.definitions[want.ResourceName]
		if !ok {
			return nil, definitionNotFound(want.ResourceName)
		}
		if _, ok := rd.snapshots[want.Name]; ok {
			return nil, fail(failExistsSnapshot, objSnapshot|opCreate, "A snapshot '%s' of resource '%s' already exists.", want.Name, rd.name)
		}
		s := &snapshot{name: want.Name, uuid: newUUID(), props: clone(rd.props), nodes: map[string]time.Time{}, pools: map[string]string{}, files: map[int]string{}}
		diskful, _, _ := rd.placed()
		for _, r := range diskful {
			p := c.nodes[r.node].pools[r.props[propPool]]
			switch {
			case len(want.Nodes) > 0 && !slices.Contains(want.Nodes, r.node):
				continue
			case !poolSupportsSnapshots(p.kind):
				return nil, fail(failSnapshotsUnsupported, objSnapshot|opCreate, "Storage driver '%s' of storage pool '%s' on node '%s' does not support snapshots.", p.kind, p.name, r.node)
			case !c.online(r.node):
				rs = append(rs, notConnected(r.node))
				continue
			}
			s.nodes[r.node], s.pools[r.node] = time.Now(), p.name
		}
		if len(s.nodes) == 0 {
			return nil, fail(failNotFoundResource, objSnapshot|opCreate, "No resources found for snapshotting")
		}
		for _, vd := range rd.sortedVolumes() {
			if !vd.deleted() {
				s.volumes = append(s.volumes, snapshotVolumeDefinitionJSON{VolumeNumber: vd.number, SizeKiB: vd.sizeKiB, Props: clone(vd.props)})
				s.files[vd.number] = c.snapshotFile(rd, s.name, vd.number)
			}
		}
		pending = append(pending, pendingSnapshot{rd: rd, s: s})
	}
	for _, p := range pending {
		p.rd.snapshots[p.s.name] = p.s
	}
	return pending, rs
}

func (c *Controller) copySnapshot(ctx context.Context, p pendingSnapshot) Replies {
	for _, name := range slices.Sorted(maps.Keys(p.s.nodes)) {
		c.mu.Lock()
		delay := c.nodes[name].deploy.delay
		c.mu.Unlock()
		time.Sleep(delay)
		if c.takeFailure(p.rd, name) {
			return Replies{deployError(p.rd, name, "snapshot failed (injected by the laboratory)")}
		}
	}
	for number, file := range p.s.files {
		if err := copyFile(ctx, c.backingFile(p.rd, number), file); err != nil {
			return Replies{failure(failUnknown, objSnapshot|opCreate, "Failed to take snapshot '%s' of '%s': %v", p.s.name, p.rd.name, err)}
		}
	}
	return nil
}

func (c *Controller) deleteSnapshot(q *request) Replies {
	c.mu.Lock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		c.mu.Unlock()
		return definitionNotFound(q.PathValue("rd"))
	}
	name := q.PathValue("snapshot")
	s, ok := rd.snapshots[name]
	if !ok {
		c.mu.Unlock()
		return Replies{warning(warnNotFound, objSnapshot|opDelete, "Snapshot '%s' of resource '%s' not found.", name, rd.name)}
	}
	s.flags = addFlag(removeFlag(s.flags, flagSuccessful), flagDelete)
	rs := Replies{success(codeDeleted, objSnapshot|opDelete, "Snapshot '%s' of resource '%s' deleted.", name, rd.name)}
	for node := range s.nodes {
		if !c.online(node) {
			rs = append(rs, notConnected(node))
		}
	}
	c.mu.Unlock()
	c.finishSnapshotDeletions()
	return rs
}

// finishSnapshotDeletions forgets the deleted snapshots whose nodes are all
// there to remove them.
func (c *Controller) finishSnapshotDeletions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rd := range c.definitions {
		for name, s := range rd.snapshots {
			gone := slices.Contains(s.flags, flagDelete)
			for node := range s.nodes {
				gone = gone && c.online(node)
			}
			if gone {
				delete(rd.snapshots, name)
				_ = os.RemoveAll(filepath.Dir(c.snapshotFile(rd, name, 0)))
			}
		}
	}
}

// restoreTarget finds the snapshot and the resource definition to restore to.
func (c *Controller) restoreTarget(q *request, in snapshotRestore) (*snapshot, *resourceDefinition, Replies) {
	source, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return nil, nil, definitionNotFound(q.PathValue("rd"))
	}
	s, ok := source.snapshots[q.PathValue("snapshot")]
	if !ok {
		return nil, nil, snapshotNotFound(source.name, q.PathValue("snapshot"))
	}
	target, ok := c.definitions[in.ToResource]
	if !ok {
		return nil, nil, definitionNotFound(in.ToResource)
	}
	return s, target, nil
}

// restoreVolumeDefinitions copies all volume definitions of the snapshot and
// the resource definition's properties, whatever they are.
func (c *Controller) restoreVolumeDefinitions(q *request) Replies {
	var in snapshotRestore
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, target, rs := c.restoreTarget(q, in)
	if rs != nil {
		return rs
	}
	for _, v := range s.volumes {
		if target.volumes[v.VolumeNumber] != nil {
			return fail(failExistsVolume, objVolume|opCreate, "A volume definition with the number %d already exists in resource definition '%s'.", v.VolumeNumber, target.name)
		}
	}
	c.copySnapshotProps(s, target)
	for _, v := range s.volumes {
		minor, ok := c.freeMinor()
		if !ok {
			return fail(failMinorsExhausted, objVolume|opCreate, "No free minor number for a new volume definition.")
		}
		target.volumes[v.VolumeNumber] = &volumeDefinition{
			number: v.VolumeNumber, sizeKiB: v.SizeKiB, deviceKiB: v.SizeKiB, uuid: newUUID(), props: clone(v.Props), minor: minor,
		}
	}
	return Replies{success(codeCreated, objDefinition|opCreate, "Volume definitions of snapshot '%s' restored to resource definition '%s'.", s.name, target.name)}
}

// copySnapshotProps copies what the real server copies: everything but what it
// computes for each resource definition itself.
func (c *Controller) copySnapshotProps(s *snapshot, target *resourceDefinition) {
	quorum, had := target.props[propQuorum]
	maps.Copy(target.props, s.props)
	delete(target.props, propQuorum)
	if had {
		target.props[propQuorum] = quorum
	}
}

func (c *Controller) restoreResource(q *request) Replies {
	var in snapshotRestore
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	s, target, rs := c.restoreTarget(q, in)
	if rs == nil {
		rs = c.commitRestore(s, target, in.Nodes)
	}
	c.mu.Unlock()
	if rs.failed() {
		return rs
	}
	return append(rs, c.deploy(target)...)
}

func (c *Controller) commitRestore(s *snapshot, target *resourceDefinition, nodes []string) Replies {
	if !slices.Contains(s.flags, flagSuccessful) {
		return fail(failNotFoundSnapshot, objSnapshot|opCreate, "Snapshot '%s' is not successful.", s.name)
	}
	if len(target.volumes) == 0 {
		return fail(failNotFoundVolume, objSnapshot|opCreate, "Resource definition '%s' has no volume definitions.", target.name)
	}
	if len(target.resources) > 0 {
		return fail(failExistsResource, objSnapshot|opCreate, "Cannot restore to resource definition '%s' which already has resources.", target.name)
	}
	if len(nodes) == 0 {
		nodes = slices.Sorted(maps.Keys(s.nodes))
	}
	for _, name := range nodes {
		if _, ok := s.nodes[name]; !ok {
			return fail(failNotFoundSnapshot+2, objSnapshot|opCreate, "Snapshot '%s' of resource not found on node '%s'.", s.name, name)
		}
	}
	c.copySnapshotProps(s, target)
	for _, vd := range target.sortedVolumes() {
		vd.source = s.files[vd.number]
	}
	var rs Replies
	for _, name := range nodes {
		c.addResource(target, name, s.pools[name], false)
		rs = append(rs, success(codeCreated, objResource|opCreate, "Resource '%s' restored from snapshot '%s' on node '%s'.", target.name, s.name, name))
	}
	return append(rs, c.placementChanged(target)...)
}
