package linstor

import (
	"net/http"
	"slices"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

func definitionNotFound(name string) Replies {
	return fail(failNotFoundDefinition, objDefinition, "Resource definition '%s' not found.", name)
}

func (c *Controller) definitionJSON(rd *resourceDefinition, volumes bool) definitionJSON {
	out := definitionJSON{
		Name: rd.name, Props: clone(rd.props), Flags: orEmpty(slices.Clone(rd.flags)), UUID: rd.uuid, ResourceGroupName: rd.group,
	}
	for _, layer := range rd.layers {
		l := layerJSON{Type: layer}
		if layer == "DRBD" {
			l.Data = drbdDefinitionJSON{PeerSlots: 7, AlStripes: 1, AlStripeSize: 32, Port: rd.port, TransportType: "IP", Secret: "laboratory"}
		}
		out.LayerData = append(out.LayerData, l)
	}
	if volumes {
		for _, vd := range rd.sortedVolumes() {
			out.VolumeDefinitions = append(out.VolumeDefinitions, vd.json())
		}
	}
	return out
}

func (c *Controller) listDefinitions(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	query := q.URL.Query()
	out := []definitionJSON{}
	for _, rd := range c.sortedDefinitions() {
		if wanted(query["resource_definitions"], rd.name) && wantedProps(query["props"], rd.props) {
			out = append(out, c.definitionJSON(rd, query.Get("with_volume_definitions") == "true"))
		}
	}
	return http.StatusOK, page(query, out)
}

func (c *Controller) getDefinition(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return http.StatusNotFound, definitionNotFound(q.PathValue("rd"))
	}
	return http.StatusOK, c.definitionJSON(rd, false)
}

func (c *Controller) createDefinition(q *request) Replies {
	var in definitionCreate
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	d := in.ResourceDefinition
	c.mu.Lock()
	defer c.mu.Unlock()
	if !resourceName.MatchString(d.Name) {
		return fail(failInvalidResourceName, objDefinition|opCreate, "Invalid name: '%s'", d.Name)
	}
	if d.ResourceGroupName == "" {
		d.ResourceGroupName = defaultGroup
	}
	group, ok := c.groups[d.ResourceGroupName]
	if !ok {
		return groupNotFound(d.ResourceGroupName)
	}
	if _, ok := c.definitions[d.Name]; ok {
		return fail(failExistsDefinition, objDefinition|opCreate, "Resource definition '%s' already exists.", d.Name)
	}
	if rs := checkProps(objDefinition, d.Props); rs != nil {
		return rs
	}
	layers := []string{}
	for _, l := range d.LayerData {
		layers = append(layers, l.Type)
	}
	if len(layers) == 0 {
		layers = slices.Clone(group.filter.LayerStack)
	}
	c.addDefinition(d.Name, d.ResourceGroupName, d.Props, layers)
	return Replies{success(codeCreated, objDefinition|opCreate, "New resource definition '%s' created.", d.Name)}
}

func (c *Controller) addDefinition(name, group string, props map[string]string, layers []string) *resourceDefinition {
	if len(layers) == 0 {
		layers = []string{"DRBD", "STORAGE"}
	}
	rd := &resourceDefinition{
		name: name, uuid: newUUID(), group: group, props: clone(props), layers: layers, port: c.freePort(),
		volumes: map[int]*volumeDefinition{}, resources: map[string]*resource{}, snapshots: map[string]*snapshot{},
	}
	c.definitions[name] = rd
	return rd
}

func (c *Controller) modifyDefinition(q *request) Replies {
	var in definitionModify
	if rs := q.decode(&in); rs != nil {
		return rs
	}
	c.mu.Lock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		c.mu.Unlock()
		return definitionNotFound(q.PathValue("rd"))
	}
	if rs := checkProps(objDefinition, in.OverrideProps); rs != nil {
		c.mu.Unlock()
		return rs
	}
	if in.ResourceGroup != "" {
		if _, ok := c.groups[in.ResourceGroup]; !ok {
			c.mu.Unlock()
			return groupNotFound(in.ResourceGroup)
		}
		rd.group = in.ResourceGroup
	}
	in.modify(rd.props)
	c.placementChanged(rd)
	c.mu.Unlock()
	done := success(codeModified, objDefinition|opModify, "Definition modified '%s'.", rd.name)
	return append(Replies{done}, c.deploy(rd)...)
}

func (c *Controller) deleteDefinition(q *request) Replies {
	name := q.PathValue("rd")
	c.mu.Lock()
	rd, ok := c.definitions[name]
	switch {
	case !ok:
		c.mu.Unlock()
		return Replies{warning(warnNotFound, objDefinition|opDelete, "Resource definition '%s' not found.", name)}
	case len(rd.snapshots) > 0:
		c.mu.Unlock()
		return fail(failExistsSnapshot, objDefinition|opDelete, "Resource definition '%s' cannot be deleted because it has snapshots.", name)
	case c.inUseNode(rd) != "":
		node := c.inUseNode(rd)
		c.mu.Unlock()
		return fail(failInUse, objDefinition|opDelete, "Resource '%s' on node '%s' is still in use.", name, node)
	}
	rd.flags = addFlag(rd.flags, flagDelete)
	for _, vd := range rd.volumes {
		vd.flags = addFlag(vd.flags, flagDelete)
	}
	for _, r := range rd.resources {
		r.flags = addFlag(addFlag(r.flags, flagDelete), flagDRBDDelete)
	}
	c.mu.Unlock()
	done := success(codeDeleted, objDefinition|opDelete, "Resource definition '%s' marked for deletion.", name)
	return append(Replies{done}, c.deploy(rd)...)
}

func (c *Controller) syncStatus(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return http.StatusNotFound, definitionNotFound(q.PathValue("rd"))
	}
	return http.StatusOK, map[string]bool{"synced_on_all": c.allUpToDate(rd)}
}

// allUpToDate says whether every volume of every diskful resource is UpToDate
// and known to be: a satellite that is offline reports nothing.
func (c *Controller) allUpToDate(rd *resourceDefinition) bool {
	diskful, _, _ := rd.placed()
	for _, r := range diskful {
		if !c.online(r.node) {
			return false
		}
		state, err := c.replication.State(r.node, rd.name)
		if err != nil {
			return false
		}
		for number := range r.volumes {
			if diskOf(state, number) != drbd.UpToDate {
				return false
			}
		}
	}
	return true
}

func diskOf(state drbd.State, number int) drbd.DiskState {
	for _, v := range state.Volumes {
		if v.Number == number {
			return v.Disk
		}
	}
	return drbd.DUnknown
}
