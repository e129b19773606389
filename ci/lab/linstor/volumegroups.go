package linstor

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
)

const failExistsVolumeGroup = 523

type volumeGroup struct {
	number int
	uuid   string
	props  map[string]string
	flags  []string
}

type volumeGroupJSON struct {
	VolumeNumber *int              `json:"volume_number"`
	Props        map[string]string `json:"props"`
	UUID         string            `json:"uuid"`
	Flags        []string          `json:"flags"`
}

func (v *volumeGroup) json() volumeGroupJSON {
	return volumeGroupJSON{VolumeNumber: &v.number, Props: clone(v.props), UUID: v.uuid, Flags: orEmpty(slices.Clone(v.flags))}
}

func (c *Controller) listVolumeGroups(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.groups[q.PathValue("group")]
	if !ok {
		return http.StatusNotFound, groupNotFound(q.PathValue("group"))
	}
	out := []volumeGroupJSON{}
	for _, number := range slices.Sorted(maps.Keys(g.volumes)) {
		out = append(out, g.volumes[number].json())
	}
	return http.StatusOK, out
}

func (c *Controller) getVolumeGroup(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.groups[q.PathValue("group")]
	if !ok {
		return http.StatusNotFound, groupNotFound(q.PathValue("group"))
	}
	number, err := strconv.Atoi(q.PathValue("number"))
	if v := g.volumes[number]; err == nil && v != nil {
		return http.StatusOK, v.json()
	}
	return http.StatusNotFound, fail(failNotFoundGroup+1, objGroup, "Volume group '%s' of resource group '%s' not found.", q.PathValue("number"), g.name)
}

func (c *Controller) createVolumeGroup(q *request) Replies {
	var in volumeGroupJSON
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.groups[q.PathValue("group")]
	if !ok {
		return groupNotFound(q.PathValue("group"))
	}
	number := 0
	if in.VolumeNumber != nil {
		number = *in.VolumeNumber
	} else {
		for g.volumes[number] != nil {
			number++
		}
	}
	if g.volumes[number] != nil {
		return fail(failExistsVolumeGroup, objGroup|opCreate, "A volume group with the number %d already exists in resource group '%s'.", number, g.name)
	}
	if rs := checkProps(objGroup, in.Props); rs != nil {
		return rs
	}
	g.volumes[number] = &volumeGroup{number: number, uuid: newUUID(), props: clone(in.Props), flags: in.Flags}
	return Replies{success(codeCreated, objGroup|opCreate, "New volume group with number '%d' of resource group '%s' created.", number, g.name)}
}
