package linstor

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// oversubscription is LINSTOR's default ratio for thin pools.
const oversubscription = 20

func (c *Controller) autoplace(q *request) Replies {
	var in autoPlaceRequest
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		c.mu.Unlock()
		return definitionNotFound(q.PathValue("rd"))
	}
	filter := c.groups[rd.group].filter.overriddenBy(in.SelectFilter)
	rs := c.place(rd, filter)
	if !rs.failed() && (filter.DisklessOnRemaining || in.DisklessOnRemaining) {
		for _, n := range c.sortedNodes() {
			if n.online && rd.resources[n.name] == nil {
				c.addResource(rd, n.name, "", false)
			}
		}
	}
	if !rs.failed() {
		rs = append(rs, c.placementChanged(rd)...)
	}
	c.mu.Unlock()
	if rs.failed() {
		return rs
	}
	return append(rs, c.deploy(rd)...)
}

type candidate struct {
	node *node
	pool *pool
	free int64
}

// place commits as many further diskful resources as the filter asks for.
func (c *Controller) place(rd *resourceDefinition, filter selectFilter) Replies {
	diskful, _, _ := rd.placed()
	missing := filter.AdditionalPlaceCount
	if missing == 0 {
		missing = max(filter.PlaceCount, 1) - len(diskful)
		if filter.PlaceCount == 0 {
			missing = 2 - len(diskful) // LINSTOR's default replica count
		}
	}
	if missing <= 0 {
		return Replies{success(codeModified, objDefinition|opModify, "Resource '%s' is already placed as requested.", rd.name)}
	}
	chosen := c.choose(rd, filter, diskful, missing)
	if chosen == nil {
		return Replies{c.notEnoughNodes(rd, filter, missing)}
	}
	var done Replies
	// A node that is already initialised decides about the others: commit all
	// before any is deployed.
	for _, ch := range chosen {
		if old := rd.resources[ch.node.name]; old != nil {
			old.props[propPool] = ch.pool.name
			old.flags = nil
			for _, vd := range rd.volumes {
				old.volumes[vd.number] = c.newVolume(old, vd.initialised)
			}
		} else {
			c.addResource(rd, ch.node.name, ch.pool.name, false)
		}
		done = append(done, success(codeCreated, objResource|opCreate, "Resource '%s' successfully autoplaced on node '%s' in pool '%s'.", rd.name, ch.node.name, ch.pool.name))
	}
	return done
}

// choose returns the nodes and pools for missing further replicas: those with
// most free space that together fulfil the filter. Nil if there are none.
func (c *Controller) choose(rd *resourceDefinition, filter selectFilter, diskful []*resource, missing int) []candidate {
	var candidates []candidate
	for _, n := range c.sortedNodes() {
		if r := rd.resources[n.name]; r != nil && (!r.diskless() || r.deleted()) {
			continue
		}
		if best := c.bestPool(rd, n, filter); best != nil {
			candidates = append(candidates, *best)
		}
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(b.free, a.free) })
	var existing []*node
	for _, r := range diskful {
		existing = append(existing, c.nodes[r.node])
	}
	return search(candidates, nil, missing, func(chosen []candidate) bool {
		nodes := slices.Clone(existing)
		for _, ch := range chosen {
			nodes = append(nodes, ch.node)
		}
		return filter.fits(nodes)
	})
}

// search finds the first combination of count candidates that fits.
func search(candidates, chosen []candidate, count int, fits func([]candidate) bool) []candidate {
	if !fits(chosen) {
		return nil
	}
	if count == 0 {
		return chosen
	}
	for i := range candidates {
		if found := search(candidates[i+1:], append(slices.Clone(chosen), candidates[i]), count-1, fits); found != nil {
			return found
		}
	}
	return nil
}

// fits checks replicas_on_same and replicas_on_different ("Aux/key" or
// "Aux/key=value").
func (f selectFilter) fits(nodes []*node) bool {
	for _, rule := range f.ReplicasOnSame {
		key, value, fixed := strings.Cut(rule, "=")
		for _, n := range nodes {
			if fixed && n.props[key] != value || !fixed && n.props[key] != nodes[0].props[key] {
				return false
			}
		}
	}
	limits := maps.Clone(f.XReplicasOnDifferent)
	if limits == nil {
		limits = map[string]int{}
	}
	for _, rule := range f.ReplicasOnDifferent {
		limits[rule] = 1
	}
	for rule, limit := range limits {
		key, value, fixed := strings.Cut(rule, "=")
		count := map[string]int{}
		for _, n := range nodes {
			count[n.props[key]]++
			if fixed && n.props[key] == value || !fixed && count[n.props[key]] > limit {
				return false
			}
		}
	}
	return true
}

// bestPool returns the node's pool with most space that fits, or nil.
func (c *Controller) bestPool(rd *resourceDefinition, n *node, f selectFilter) *candidate {
	if !n.online || slices.Contains(n.flags, "EVICTED") || slices.Contains(n.flags, "EVACUATE") ||
		strings.EqualFold(n.props["AutoplaceTarget"], "false") ||
		len(f.NodeNameList) > 0 && !slices.Contains(f.NodeNameList, n.name) || c.avoided(n, f) {
		return nil
	}
	allowed := slices.Clone(f.StoragePoolList)
	if f.StoragePool != "" {
		allowed = append(allowed, f.StoragePool)
	}
	var best *candidate
	for _, name := range slices.Sorted(maps.Keys(n.pools)) {
		p := n.pools[name]
		if p.kind == kindDiskless || len(allowed) > 0 && !slices.Contains(allowed, name) ||
			len(f.ProviderList) > 0 && !slices.Contains(f.ProviderList, p.kind) {
			continue
		}
		free := c.freeKiB(n, p)
		space, size := free, rd.sizeKiB()
		if p.thin() {
			space = min(free*oversubscription, p.totalKiB*oversubscription-c.reservedKiB(n, p))
		}
		if space >= size && (best == nil || free > best.free) {
			best = &candidate{node: n, pool: p, free: free}
		}
	}
	return best
}

func (c *Controller) avoided(n *node, f selectFilter) bool {
	pattern, err := regexp.Compile("(?i)^(?:" + f.NotPlaceWithRscRegex + ")$")
	for _, rd := range c.definitions {
		if r := rd.resources[n.name]; r == nil || r.diskless() {
			continue
		}
		if slices.Contains(f.NotPlaceWithRsc, rd.name) || f.NotPlaceWithRscRegex != "" && err == nil && pattern.MatchString(rd.name) {
			return true
		}
	}
	return false
}

func (c *Controller) notEnoughNodes(rd *resourceDefinition, f selectFilter, missing int) Reply {
	r := failure(failNotEnoughNodes, objDefinition|opCreate, "Not enough available nodes")
	pools := slices.Clone(f.StoragePoolList)
	if f.StoragePool != "" {
		pools = append(pools, f.StoragePool)
	}
	var b strings.Builder
	b.WriteString("Not enough nodes fulfilling the following auto-place criteria:\n")
	if len(pools) > 0 {
		fmt.Fprintf(&b, " * has a deployed storage pool named [%s]\n", strings.Join(pools, ", "))
	}
	fmt.Fprintf(&b, " * the storage pools have to have at least '%d' free space\n", rd.sizeKiB())
	b.WriteString(" * the current access context has enough privileges to use the node and the storage pool\n * the node is online\n\n")
	fmt.Fprintf(&b, "Auto-place configuration details:\n   Additional place count: %d\n   Replica count: %d\n", missing, f.PlaceCount)
	if len(f.NodeNameList) > 0 {
		fmt.Fprintf(&b, "   Node name: [%s]\n", strings.Join(f.NodeNameList, ", "))
	}
	r.Details = b.String()
	return r
}

// reservedKiB is what the volumes in the pool could grow to.
func (c *Controller) reservedKiB(n *node, p *pool) int64 {
	var sum int64
	for _, rd := range c.definitions {
		r := rd.resources[n.name]
		if r == nil {
			continue
		}
		for number, v := range r.volumes {
			if vd := rd.volumes[number]; v.pool == p.name && vd != nil {
				sum += vd.sizeKiB
			}
		}
	}
	return sum
}

// freeKiB is the pool's free space: what is not reserved in a thick pool, what
// is not written in a thin one.
func (c *Controller) freeKiB(n *node, p *pool) int64 {
	if p.freeKiB != nil {
		return *p.freeKiB
	}
	if !p.thin() {
		return max(0, p.totalKiB-c.reservedKiB(n, p))
	}
	used := int64(0)
	for _, rd := range c.definitions {
		r := rd.resources[n.name]
		if r == nil {
			continue
		}
		for number, v := range r.volumes {
			if v.pool == p.name && v.deployed {
				used += allocatedKiB(c.backingFile(rd, number))
			}
		}
	}
	return max(0, p.totalKiB-used)
}

func poolSupportsSnapshots(kind string) bool {
	return strings.HasSuffix(kind, "_THIN") || kind == "ZFS"
}

func (c *Controller) poolJSON(n *node, p *pool) poolJSON {
	out := poolJSON{
		Name: p.name, NodeName: n.name, ProviderKind: p.kind, Props: clone(p.props), StaticTraits: map[string]string{},
		FreeSpaceManager: n.name + ";" + p.name, UUID: p.uuid, SupportsSnapshots: poolSupportsSnapshots(p.kind), Reports: []Reply{},
	}
	if p.kind == kindDiskless {
		out.FreeCapacity, out.TotalCapacity = 1<<53, 1<<53
		return out
	}
	out.StaticTraits["Provisioning"] = "Fat"
	if p.thin() {
		out.StaticTraits["Provisioning"] = "Thin"
	}
	if n.online {
		out.FreeCapacity, out.TotalCapacity = c.freeKiB(n, p), p.totalKiB
	}
	return out
}

func (c *Controller) listPools(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	query := q.URL.Query()
	out := []poolJSON{}
	for _, n := range c.sortedNodes() {
		if !wanted(query["nodes"], n.name) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(n.pools)) {
			if wanted(query["storage_pools"], name) {
				out = append(out, c.poolJSON(n, n.pools[name]))
			}
		}
	}
	return http.StatusOK, page(query, out)
}

func (c *Controller) listNodePools(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[q.PathValue("node")]
	if !ok {
		return http.StatusNotFound, fail(failNotFoundNode, objNode, "Node '%s' not found.", q.PathValue("node"))
	}
	out := []poolJSON{}
	for _, name := range slices.Sorted(maps.Keys(n.pools)) {
		out = append(out, c.poolJSON(n, n.pools[name]))
	}
	return http.StatusOK, out
}
