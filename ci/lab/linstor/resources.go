package linstor

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

func (c *Controller) createResources(q *request) Replies {
	var in []resourceCreate
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	return c.create(q, in...)
}

func (c *Controller) createResource(q *request) Replies {
	var in resourceCreate
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	in.Resource.NodeName = q.PathValue("node")
	return c.create(q, in)
}

func (c *Controller) create(q *request, wanted ...resourceCreate) Replies {
	c.mu.Lock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		c.mu.Unlock()
		return definitionNotFound(q.PathValue("rd"))
	}
	var done Replies
	for _, w := range wanted {
		diskless := slices.Contains(w.Resource.Flags, flagDiskless) || slices.Contains(w.Resource.Flags, flagDRBDDiskless)
		rs := c.ensureResource(rd, w.Resource.NodeName, diskless, w.Resource.Props, false)
		if rs.failed() {
			c.mu.Unlock()
			return rs
		}
		done = append(done, rs...)
	}
	done = append(done, c.placementChanged(rd)...)
	c.mu.Unlock()
	return append(done, c.deploy(rd)...)
}

// ensureResource commits a resource on a node, or turns the tiebreaker there
// into the wanted kind. An existing resource is an error (502), unless it may
// be changed: then a diskless one becomes diskful if wanted.
func (c *Controller) ensureResource(rd *resourceDefinition, name string, diskless bool, props map[string]string, change bool) Replies {
	n, ok := c.nodes[name]
	if !ok {
		return fail(failNotFoundNode, objResource|opCreate, "Node '%s' not found.", name)
	}
	r := rd.resources[name]
	switch {
	case r == nil:
	case r.deleted():
		return fail(failExistsResource, objResource|opCreate, "A resource '%s' on node '%s' already exists and is being deleted.", rd.name, name)
	case r.tieBreaker() && diskless:
		r.flags = removeFlag(r.flags, flagTieBreaker)
		return Replies{success(codeModified, objResource|opModify, "Tiebreaker resource '%s' on '%s' marked as diskless.", rd.name, name)}
	case r.diskless() && !diskless && (change || r.tieBreaker()):
		return c.makeDiskful(rd, r, props, change)
	case change:
		return Replies{success(codeModified, objResource|opModify, "Resource '%s' is already available on node '%s'.", rd.name, name)}
	default:
		return fail(failExistsResource, objResource|opCreate, "A resource '%s' on node '%s' already exists.", rd.name, name)
	}
	pool := ""
	if !diskless {
		p, rs := c.choosePool(rd, n, props, change)
		if rs != nil {
			return rs
		}
		pool = p.name
	}
	c.addResource(rd, name, pool, false)
	maps.Copy(rd.resources[name].props, props)
	return Replies{success(codeCreated, objResource|opCreate, "New resource '%s' on node '%s' registered.", rd.name, name)}
}

func (c *Controller) makeDiskful(rd *resourceDefinition, r *resource, props map[string]string, change bool) Replies {
	p, rs := c.choosePool(rd, c.nodes[r.node], props, change)
	if rs != nil {
		return rs
	}
	r.flags = nil
	r.props[propPool] = p.name
	for _, vd := range rd.volumes {
		r.volumes[vd.number] = c.newVolume(r, vd.initialised)
	}
	return Replies{success(codeModified, objResource|opModify, "Addition of disk to resource '%s' on node '%s' registered.", rd.name, r.node)}
}

// choosePool resolves the pool for a resource on a given node and checks a
// thick pool's space. With auto the autoplacer's choice is taken if no pool is
// named, as make-available does.
func (c *Controller) choosePool(rd *resourceDefinition, n *node, props map[string]string, auto bool) (*pool, Replies) {
	name := props[propPool]
	if name == "" {
		name = c.prop(rd, propPool)
	}
	if name == "" {
		if group := c.groups[rd.group]; group != nil {
			for _, candidate := range append(slices.Clone(group.filter.StoragePoolList), group.filter.StoragePool) {
				if n.pools[candidate] != nil {
					name = candidate
					break
				}
			}
		}
	}
	if name == "" && auto {
		if best := c.bestPool(rd, n, c.groups[rd.group].filter); best != nil {
			name = best.pool.name
		}
	}
	if name == "" {
		name = "DfltStorPool"
	}
	p := n.pools[name]
	if p == nil || p.kind == kindDiskless {
		return nil, fail(failNotFoundPool, objResource|opCreate, "Storage pool '%s' for resource '%s' on node '%s' not found.", name, rd.name, n.name)
	}
	if size := rd.sizeKiB(); !p.thin() && c.freeKiB(n, p) < size {
		return nil, fail(failNotEnoughSpace, objResource|opCreate, "Not enough free space in storage pool '%s' on node '%s' for resource '%s'.", p.name, n.name, rd.name)
	}
	return p, nil
}

// sizeKiB is what one diskful replica of all volumes needs.
func (rd *resourceDefinition) sizeKiB() int64 {
	var sum int64
	for _, vd := range rd.volumes {
		if !vd.deleted() {
			sum += vd.sizeKiB
		}
	}
	return sum
}

// addResource commits a new resource with its volumes; pool "" is diskless.
func (c *Controller) addResource(rd *resourceDefinition, name, pool string, tieBreaker bool) {
	r := &resource{node: name, uuid: newUUID(), props: map[string]string{}, created: time.Now(), nodeID: rd.freeNodeID(), volumes: map[int]*volume{}}
	if pool == "" {
		r.flags = []string{flagDiskless, flagDRBDDiskless}
		r.props[propPool] = disklessPool
	} else {
		r.props[propPool] = pool
	}
	if tieBreaker {
		r.flags = append(r.flags, flagTieBreaker)
	}
	rd.resources[name] = r
	for _, vd := range rd.sortedVolumes() {
		r.volumes[vd.number] = c.newVolume(r, vd.initialised)
	}
}

func (rd *resourceDefinition) freeNodeID() int {
	used := map[int]bool{}
	for _, r := range rd.resources {
		used[r.nodeID] = true
	}
	id := 0
	for used[id] {
		id++
	}
	return id
}

func (c *Controller) makeAvailable(q *request) Replies {
	var in makeAvailable
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		c.mu.Unlock()
		return definitionNotFound(q.PathValue("rd"))
	}
	name := q.PathValue("node")
	r := rd.resources[name]
	diskless := !in.Diskful
	if r != nil && !r.diskless() {
		diskless = false
	}
	rs := c.ensureResource(rd, name, diskless, nil, true)
	if !rs.failed() {
		rs = append(rs, c.placementChanged(rd)...)
	}
	c.mu.Unlock()
	if rs.failed() {
		return rs
	}
	return append(rs, c.deploy(rd)...)
}

func (c *Controller) deleteResource(q *request) Replies {
	c.mu.Lock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		c.mu.Unlock()
		return definitionNotFound(q.PathValue("rd"))
	}
	rs := c.markDeleted(rd, q.PathValue("node"), q.URL.Query().Get("keep_tiebreaker") == "true")
	c.mu.Unlock()
	if rs.failed() {
		return rs
	}
	return append(rs, c.deploy(rd)...)
}

// markDeleted commits the deletion of a resource, or makes it the tiebreaker
// where one is needed and may be kept.
func (c *Controller) markDeleted(rd *resourceDefinition, name string, keepTieBreaker bool) Replies {
	r := rd.resources[name]
	if r == nil {
		return Replies{warning(warnNotFound, objResource|opDelete, "Node: %s, Resource: %s not found.", name, rd.name)}
	}
	diskful, diskless, tieBreakers := rd.placed()
	if r.inUse && c.online(name) {
		return fail(failInUse, objResource|opDelete, "Resource '%s' on node '%s' is still in use.", rd.name, name)
	}
	if len(diskful) == 1 && diskful[0] == r && len(diskless) > 0 {
		return fail(failInUse, objResource|opDelete, "Last resource of '%s' with disk still has diskless resources attached.", rd.name)
	}
	others := slices.DeleteFunc(append(slices.Clone(diskless), tieBreakers...), func(o *resource) bool { return o == r })
	if r.diskless() && keepTieBreaker && c.tieBreakerWanted(rd) && len(diskful) > 0 && len(diskful)%2 == 0 && len(others) == 0 {
		r.flags = addFlag(r.flags, flagTieBreaker)
		c.setQuorum(rd)
		return Replies{success(codeModified, objResource|opModify, "Resource '%s' on node '%s' is kept as tiebreaker.", rd.name, name)}
	}
	if r.tieBreaker() && !keepTieBreaker {
		rd.props[propAutoTieBreaker] = "False"
	}
	r.flags = addFlag(addFlag(r.flags, flagDelete), flagDRBDDelete)
	done := success(codeDeleted, objResource|opDelete, "Node: %s, Resource: %s marked for deletion.", name, rd.name)
	return append(Replies{done}, c.placementChanged(rd)...)
}

func (c *Controller) listResources(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return http.StatusNotFound, definitionNotFound(q.PathValue("rd"))
	}
	out := []resourceJSON{}
	for _, r := range rd.sortedResources() {
		out = append(out, c.resourceJSON(rd, r))
	}
	return http.StatusOK, out
}

func (c *Controller) getResource(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, r, rs := c.resourceOf(q)
	if rs != nil {
		return http.StatusNotFound, rs
	}
	return http.StatusOK, c.resourceJSON(rd, r)
}

// resourceOf finds the resource that the request's path names.
func (c *Controller) resourceOf(q *request) (*resourceDefinition, *resource, Replies) {
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return nil, nil, definitionNotFound(q.PathValue("rd"))
	}
	r, ok := rd.resources[q.PathValue("node")]
	if !ok {
		return rd, nil, fail(failNotFoundResource, objResource, "Resource '%s' on node '%s' not found.", rd.name, q.PathValue("node"))
	}
	return rd, r, nil
}

func (c *Controller) listVolumes(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, r, rs := c.resourceOf(q)
	if rs != nil {
		return http.StatusNotFound, rs
	}
	return http.StatusOK, append([]volumeJSON{}, c.resourceJSON(rd, r).Volumes...)
}

func (c *Controller) getVolume(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, r, rs := c.resourceOf(q)
	if rs != nil {
		return http.StatusNotFound, rs
	}
	for _, v := range c.resourceJSON(rd, r).Volumes {
		if strconv.Itoa(v.VolumeNumber) == q.PathValue("number") {
			return http.StatusOK, v
		}
	}
	return http.StatusNotFound, volumeMissing(q)
}

func volumeMissing(q *request) Replies {
	return fail(failNotFoundVolume+1, objVolume, "Volume '%s' of resource '%s' on node '%s' not found.", q.PathValue("number"), q.PathValue("rd"), q.PathValue("node"))
}

func (c *Controller) modifyVolume(q *request) Replies {
	var in propsModify
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, r, rs := c.resourceOf(q)
	if rs == nil {
		rs = checkProps(objVolume, in.OverrideProps)
	}
	if rs != nil {
		return rs
	}
	number, err := strconv.Atoi(q.PathValue("number"))
	if err != nil || r.volumes[number] == nil {
		return volumeMissing(q)
	}
	in.modify(r.volumes[number].props)
	return Replies{success(codeModified, objVolume|opModify, "Volume %d of resource '%s' on node '%s' modified.", number, q.PathValue("rd"), r.node)}
}
