package linstor

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// DRBD's limits for a volume in KiB (linstor-server MetaData.java).
const (
	minVolumeKiB = 4
	maxVolumeKiB = 1 << 40
)

func (vd *volumeDefinition) json() volumeDefinitionJSON {
	return volumeDefinitionJSON{
		VolumeNumber: vd.number, SizeKiB: vd.sizeKiB, Props: clone(vd.props), Flags: orEmpty(slices.Clone(vd.flags)), UUID: vd.uuid,
		LayerData: []layerJSON{{Type: "DRBD", Data: drbdVolumeDefinitionJSON{VolumeNumber: vd.number, MinorNumber: vd.minor}}, {Type: "STORAGE"}},
	}
}

func volumeNotFound(rd, number string) Replies {
	return fail(failNotFoundVolume, objVolume, "Volume definition '%s' of resource definition '%s' not found.", number, rd)
}

func (c *Controller) listVolumeDefinitions(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return http.StatusNotFound, definitionNotFound(q.PathValue("rd"))
	}
	out := []volumeDefinitionJSON{}
	for _, vd := range rd.sortedVolumes() {
		out = append(out, vd.json())
	}
	return http.StatusOK, out
}

// volumeOf finds the volume definition that the request's path names.
func (c *Controller) volumeOf(q *request) (*resourceDefinition, *volumeDefinition, Replies) {
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return nil, nil, definitionNotFound(q.PathValue("rd"))
	}
	number, err := strconv.Atoi(q.PathValue("number"))
	if err != nil {
		return rd, nil, fail(failInvalidVolumeNumber, objVolume, "The given volume number '%s' is invalid.", q.PathValue("number"))
	}
	vd, ok := rd.volumes[number]
	if !ok {
		return rd, nil, volumeNotFound(rd.name, q.PathValue("number"))
	}
	return rd, vd, nil
}

func (c *Controller) getVolumeDefinition(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, vd, rs := c.volumeOf(q)
	if rs != nil {
		return rs.status(http.StatusOK), rs
	}
	return http.StatusOK, vd.json()
}

func (c *Controller) createVolumeDefinition(q *request) Replies {
	var in volumeDefinitionCreate
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		c.mu.Unlock()
		return definitionNotFound(q.PathValue("rd"))
	}
	vd, rs := c.addVolumeDefinition(rd, in)
	c.mu.Unlock()
	if rs != nil {
		return rs
	}
	done := success(codeCreated, objVolume|opCreate, "New volume definition with number '%d' of resource definition '%s' created.", vd.number, rd.name)
	return append(Replies{done}, c.deploy(rd)...)
}

// addVolumeDefinition commits a new volume definition, and a volume on every
// resource, diskless and tiebreaker included; nothing is deployed by it.
func (c *Controller) addVolumeDefinition(rd *resourceDefinition, in volumeDefinitionCreate) (*volumeDefinition, Replies) {
	v := in.VolumeDefinition
	number := 0
	if v.VolumeNumber != nil {
		number = *v.VolumeNumber
	} else {
		for rd.volumes[number] != nil {
			number++
		}
	}
	if rd.volumes[number] != nil {
		return nil, fail(failExistsVolume, objVolume|opCreate, "A volume definition with the number %d already exists in resource definition '%s'.", number, rd.name)
	}
	if number < 0 || number > 65534 {
		return nil, fail(failInvalidVolumeNumber, objVolume|opCreate, "The given volume number '%d' is invalid.", number)
	}
	if v.SizeKiB < minVolumeKiB || v.SizeKiB > maxVolumeKiB {
		return nil, fail(failInvalidVolumeSize, objVolume|opCreate, "The specified volume size %d KiB is out of range [%d - %d].", v.SizeKiB, minVolumeKiB, int64(maxVolumeKiB))
	}
	if rs := checkProps(objVolume, v.Props); rs != nil {
		return nil, rs
	}
	for _, r := range rd.sortedResources() {
		p := c.nodes[r.node].pools[r.props[propPool]]
		if r.diskless() || r.deleted() || p == nil || p.thin() || !c.online(r.node) {
			continue
		}
		if free := c.freeKiB(c.nodes[r.node], p); free < v.SizeKiB {
			return nil, fail(failInvalidVolumeSize, objVolume|opCreate, "Not enough free space in storage pool '%s' on node '%s': %d KiB are available, %d KiB are needed.", p.name, r.node, free, v.SizeKiB)
		}
	}
	minor, ok := c.freeMinor()
	if !ok {
		return nil, fail(failMinorsExhausted, objVolume|opCreate, "No free minor number for a new volume definition.")
	}
	vd := &volumeDefinition{
		number: number, sizeKiB: v.SizeKiB, deviceKiB: v.SizeKiB, uuid: newUUID(), props: clone(v.Props), minor: minor,
		addedLater: rd.props[propPrimarySet] != "" && len(rd.resources) > 0,
	}
	rd.volumes[number] = vd
	for _, r := range rd.sortedResources() {
		r.volumes[number] = c.newVolume(r, false)
	}
	c.chooseWinner(rd, vd)
	return vd, nil
}

// newVolume makes a volume in the pool that the resource's properties name:
// resource properties have priority over those of the volume definition, so
// that all volumes of a resource share a pool.
func (c *Controller) newVolume(r *resource, sync bool) *volume {
	if r.diskless() {
		return &volume{pool: disklessPool, kind: kindDiskless, props: map[string]string{}, uuid: newUUID()}
	}
	name := r.props[propPool]
	return &volume{pool: name, kind: c.nodes[r.node].pools[name].kind, props: map[string]string{}, uuid: newUUID(), sync: sync}
}

// chooseWinner fixes the node whose disk becomes UpToDate first, as servers
// since 1.33.2 do: the one in use, else the first diskful one. Older servers
// take the satellite that comes first.
func (c *Controller) chooseWinner(rd *resourceDefinition, vd *volumeDefinition) {
	diskful, _, _ := rd.placed()
	if !laterVolumesInitialised(c.version) || vd.winner != "" || len(diskful) == 0 {
		return
	}
	vd.winner = diskful[0].node
	if node := c.inUseNode(rd); node != "" && !rd.resources[node].diskless() {
		vd.winner = node
	}
	vd.props[propInitialUpToDate] = vd.winner
}

func (c *Controller) modifyVolumeDefinition(q *request) Replies {
	var in volumeDefinitionModify
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	rd, vd, rs := c.volumeOf(q)
	if rs == nil {
		rs = checkProps(objVolume, in.OverrideProps)
	}
	var notes Replies
	if rs == nil && in.SizeKiB != 0 {
		notes = c.resizeVolume(rd, vd, in.SizeKiB)
		if notes.failed() {
			rs = notes
		}
	}
	if rs != nil {
		c.mu.Unlock()
		return rs
	}
	before := clone(vd.props)
	in.modify(vd.props)
	grows := in.SizeKiB != 0 && len(notes) == 0
	changed := grows || !maps.Equal(before, vd.props)
	c.mu.Unlock()
	notes = append(notes, success(codeModified, objVolume|opModify, "Volume definition with number '%d' of resource definition '%s' modified.", vd.number, rd.name))
	if !changed { // the satellites are not bothered, whatever they have failed to do
		return notes
	}
	return append(notes, c.deploy(rd)...)
}

// resizeVolume commits a new size, by the rules of CtrlVlmDfnModifyApiCallHandler,
// with its texts: they do not say which replica is not UpToDate.
func (c *Controller) resizeVolume(rd *resourceDefinition, vd *volumeDefinition, sizeKiB int64) Replies {
	diskful, _, _ := rd.placed()
	switch additional := sizeKiB - vd.sizeKiB; {
	case additional == 0:
		return Replies{warning(warnResizeSameSize, objVolume|opModify, "VolumeDefinition already has the expected size, no satellite update will be triggered.")}
	case additional < 0 && len(diskful) > 0:
		return fail(failInvalidVolumeSize, objVolume|opModify, "Shrinking volumes is not supported by layer 'DRBD'. Volumes can only grow in size.")
	case additional > 0:
		if full := c.tooFull(diskful, additional); full != "" {
			return fail(failNotEnoughSpace, objVolume|opModify, "Cannot grow the volume definition by %dKiB, as the following storage pool do not have enough free space:\n%s", additional, full)
		}
	}
	if sizeKiB > maxVolumeKiB {
		return fail(failInvalidVolumeSize, objVolume|opModify, "The given size [%dKiB] is too big", sizeKiB)
	}
	if !c.allUpToDate(rd) {
		return fail(failNotAllUpToDate, objVolume|opModify, "Cannot resize volume, because we have a non-UpToDate DRBD device.")
	}
	vd.sizeKiB = sizeKiB
	if len(rd.resources) == 0 {
		vd.deviceKiB = sizeKiB
	} else {
		vd.flags = addFlag(vd.flags, flagResize)
	}
	return nil
}

// tooFull lists the thick pools that cannot give so much more. Thin pools always can,
// as far as the controller is concerned.
func (c *Controller) tooFull(diskful []*resource, additionalKiB int64) string {
	var full []string
	for _, r := range diskful {
		n := c.nodes[r.node]
		if p := n.pools[r.props[propPool]]; !p.thin() && c.freeKiB(n, p) < additionalKiB {
			full = append(full, fmt.Sprintf("Node: %s, StorPool: %s", r.node, p.name))
		}
	}
	return strings.Join(full, "\n")
}

func (c *Controller) deleteVolumeDefinition(q *request) Replies {
	c.mu.Lock()
	rd, vd, rs := c.volumeOf(q)
	switch {
	case rd != nil && vd == nil:
		rs = Replies{warning(warnNotFound, objVolume|opDelete, "Volume definition '%s' of resource definition '%s' not found.", q.PathValue("number"), rd.name)}
	case rs == nil && c.inUseNode(rd) != "":
		rs = fail(failInUse, objVolume|opDelete, "Resource '%s' on node '%s' is still in use.", rd.name, c.inUseNode(rd))
	}
	if rs != nil {
		c.mu.Unlock()
		return rs
	}
	vd.flags = addFlag(vd.flags, flagDelete)
	c.mu.Unlock()
	done := success(codeDeleted, objVolume|opDelete, "Volume definition with number '%d' of resource definition '%s' deleted.", vd.number, rd.name)
	return append(Replies{done}, c.deploy(rd)...)
}
