package linstor

import (
	"maps"
	"net/http"
	"slices"
)

func (c *Controller) listGroups(*request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []groupJSON{}
	for _, name := range slices.Sorted(maps.Keys(c.groups)) {
		out = append(out, c.groups[name].json())
	}
	return http.StatusOK, out
}

func (g *resourceGroup) json() groupJSON {
	return groupJSON{Name: g.name, Description: g.description, Props: clone(g.props), SelectFilter: g.filter, UUID: g.uuid}
}

func groupNotFound(name string) Replies {
	return fail(failNotFoundGroup, objGroup, "Resource group '%s' not found.", name)
}

func (c *Controller) getGroup(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.groups[q.PathValue("group")]
	if !ok {
		return http.StatusNotFound, groupNotFound(q.PathValue("group"))
	}
	return http.StatusOK, g.json()
}

func (c *Controller) createGroup(q *request) Replies {
	var in groupJSON
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.groups[in.Name]; ok {
		return fail(failExistsGroup, objGroup|opCreate, "Resource group '%s' already exists.", in.Name)
	}
	if rs := checkProps(objGroup, in.Props); rs != nil {
		return rs
	}
	c.groups[in.Name] = &resourceGroup{name: in.Name, uuid: newUUID(), description: in.Description, props: clone(in.Props), filter: in.SelectFilter, volumes: map[int]*volumeGroup{}}
	return Replies{success(codeCreated, objGroup|opCreate, "New resource group '%s' created.", in.Name)}
}

func (c *Controller) modifyGroup(q *request) Replies {
	var in groupModify
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.groups[q.PathValue("group")]
	if !ok {
		return groupNotFound(q.PathValue("group"))
	}
	if rs := checkProps(objGroup, in.OverrideProps); rs != nil {
		return rs
	}
	if in.Description != nil {
		g.description = *in.Description
	}
	in.modify(g.props)
	g.filter = g.filter.overriddenBy(in.SelectFilter)
	return Replies{success(codeModified, objGroup|opModify, "Resource group '%s' modified.", g.name)}
}

func (c *Controller) deleteGroup(q *request) Replies {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := q.PathValue("group")
	if _, ok := c.groups[name]; !ok {
		return Replies{warning(warnNotFound, objGroup|opDelete, "Resource group '%s' not found.", name)}
	}
	if name == defaultGroup {
		return fail(failInvalidRequest+3, objGroup|opDelete, "Default resource group cannot be deleted")
	}
	for _, rd := range c.definitions {
		if rd.group == name {
			return fail(failExistsDefinition, objGroup|opDelete, "Cannot delete resource group '%s' because it has existing resource definitions.", name)
		}
	}
	delete(c.groups, name)
	return Replies{success(codeDeleted, objGroup|opDelete, "Resource group '%s' deleted.", name)}
}

// overriddenBy returns the filter with every set field of the other.
func (f selectFilter) overriddenBy(o selectFilter) selectFilter {
	set := func(target *[]string, value []string) {
		if value != nil {
			*target = value
		}
	}
	if o.PlaceCount != 0 {
		f.PlaceCount = o.PlaceCount
	}
	if o.AdditionalPlaceCount != 0 {
		f.AdditionalPlaceCount = o.AdditionalPlaceCount
	}
	if o.StoragePool != "" {
		f.StoragePool = o.StoragePool
	}
	if o.NotPlaceWithRscRegex != "" {
		f.NotPlaceWithRscRegex = o.NotPlaceWithRscRegex
	}
	if o.DisklessType != "" {
		f.DisklessType = o.DisklessType
	}
	if o.XReplicasOnDifferent != nil {
		f.XReplicasOnDifferent = o.XReplicasOnDifferent
	}
	if o.OverprovisioningRatio != nil {
		f.OverprovisioningRatio = o.OverprovisioningRatio
	}
	f.DisklessOnRemaining = f.DisklessOnRemaining || o.DisklessOnRemaining
	set(&f.NodeNameList, o.NodeNameList)
	set(&f.StoragePoolList, o.StoragePoolList)
	set(&f.StoragePoolDiskless, o.StoragePoolDiskless)
	set(&f.NotPlaceWithRsc, o.NotPlaceWithRsc)
	set(&f.ReplicasOnSame, o.ReplicasOnSame)
	set(&f.ReplicasOnDifferent, o.ReplicasOnDifferent)
	set(&f.LayerStack, o.LayerStack)
	set(&f.ProviderList, o.ProviderList)
	return f
}
