// Package fake is a LINSTOR controller in memory, for tests: the few REST calls that
// linstor-rwx makes, with LINSTOR's own return codes, and methods for what linstor-csi
// and DRBD would do. The laboratory has a complete one.
package fake

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	linstor "github.com/LINBIT/golinstor"
	lapi "github.com/LINBIT/golinstor/client"
)

// Node is a satellite with one storage pool.
type Node struct {
	Name     string
	Offline  bool
	Provider string // LVM, LVM_THIN ...
	Full     bool
}

// Controller is the controller. Its exported fields may be set before it is used.
type Controller struct {
	Version string
	Nodes   []*Node
	// Syncing: new volumes stay Inconsistent until Sync is called.
	Syncing bool

	mu          sync.Mutex
	before      func(request string) int
	uuids       int
	groups      map[string]bool
	definitions map[string]*definition
	requests    []string
}

type definition struct {
	name, uuid, group string
	props             map[string]string
	deleting          bool
	volumes           map[int]*volume
	replicas          map[string]*replica
}

type volume struct {
	sizeKiB uint64
	props   map[string]string
	late    bool // added when there were replicas
}

type replica struct {
	inUse  bool
	states map[int]string
}

// New returns a controller of a recent version with three thin nodes.
func New() *Controller {
	c := &Controller{Version: "1.33.3", groups: map[string]bool{"DfltRscGrp": true}, definitions: map[string]*definition{}}
	for i := range 3 {
		c.Nodes = append(c.Nodes, &Node{Name: fmt.Sprintf("n%d", i+1), Provider: "LVM_THIN"})
	}
	return c
}

// Before makes the controller call before for each request, such as "POST
// /v1/resource-definitions"; a status other than 0 is the answer.
func (c *Controller) Before(before func(request string) int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = before
}

// SetOffline makes a satellite lose its controller, or come back.
func (c *Controller) SetOffline(node string, offline bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node(node).Offline = offline
}

// Start serves the controller until the test ends, and returns its address.
func (c *Controller) Start(t testing.TB) *url.URL {
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// Requests returns all modifying requests so far.
func (c *Controller) Requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Leftovers names all resource definitions and all resource groups but LINSTOR's own.
func (c *Controller) Leftovers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for name := range c.definitions {
		all = append(all, "definition "+name)
	}
	for name := range c.groups {
		if name != "DfltRscGrp" {
			all = append(all, "group "+name)
		}
	}
	slices.Sort(all)
	return all
}

// failure is an answer of LINSTOR.
type failure struct {
	status  int
	code    uint64
	message string
}

func (f *failure) Error() string { return f.message }

func fail(status int, code uint64, format string, args ...any) *failure {
	return &failure{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func unknown(kind, name string) *failure {
	return fail(http.StatusNotFound, linstor.FailNotFoundRscDfn, "%s '%s' not found.", kind, name)
}

// ServeHTTP implements http.Handler.
func (c *Controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := r.Method + " " + r.URL.Path
	c.mu.Lock()
	before := c.before
	c.mu.Unlock()
	if before != nil {
		if status := before(request); status != 0 {
			reply(w, nil, fail(status, linstor.FailUnknownError, "injected"))
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Method != http.MethodGet {
		c.requests = append(c.requests, request)
	}
	answer, err := c.serve(r)
	reply(w, answer, err)
}

func reply(w http.ResponseWriter, answer any, err *failure) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(err.status)
		answer = []lapi.ApiCallRc{{RetCode: int64(err.code), Message: err.message}}
	}
	if answer == nil {
		answer = []lapi.ApiCallRc{}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (c *Controller) serve(r *http.Request) (any, *failure) {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/v1/"), "/"), "/")
	decode := func(into any) *failure {
		if err := json.NewDecoder(r.Body).Decode(into); err != nil {
			return fail(http.StatusBadRequest, linstor.FailUnknownError, "%v", err)
		}
		return nil
	}
	switch route := r.Method + " " + parts[0]; {
	case route == "GET controller":
		return lapi.ControllerVersion{Version: c.Version}, nil
	case route == "GET view" && parts[1] == "resources":
		return c.view(r.URL.Query()["resources"]), nil
	case route == "GET resource-groups":
		groups := []lapi.ResourceGroup{}
		for _, name := range slices.Sorted(maps.Keys(c.groups)) {
			groups = append(groups, lapi.ResourceGroup{Name: name})
		}
		return groups, nil
	case route == "POST resource-groups":
		var body lapi.ResourceGroup
		if err := decode(&body); err != nil {
			return nil, err
		}
		return nil, c.createGroup(body.Name)
	case route == "DELETE resource-groups":
		return nil, c.deleteGroup(parts[1])
	case parts[0] == "resource-definitions" && len(parts) == 1:
		if r.Method == http.MethodGet {
			return c.list(), nil
		}
		var body lapi.ResourceDefinitionCreate
		if err := decode(&body); err != nil {
			return nil, err
		}
		return nil, c.createDefinition(body.ResourceDefinition)
	case parts[0] != "resource-definitions":
		return nil, fail(http.StatusNotImplemented, linstor.FailUnknownError, "the fake does not know %s %s", r.Method, r.URL.Path)
	}

	d := c.definitions[parts[1]]
	if d == nil {
		return nil, unknown("Resource definition", parts[1])
	}
	switch route := r.Method + " " + strings.Join(parts[2:min(3, len(parts))], ""); {
	case route == "GET ":
		return d.rest(), nil
	case route == "PUT ":
		var body lapi.GenericPropsModify
		if err := decode(&body); err != nil {
			return nil, err
		}
		maps.Copy(d.props, body.OverrideProps)
		for _, key := range body.DeleteProps {
			delete(d.props, key)
		}
		return nil, nil
	case route == "DELETE ":
		if err := d.checkUnused(); err != nil {
			return nil, err
		}
		delete(c.definitions, d.name)
		return nil, nil
	case route == "GET volume-definitions" && len(parts) == 3:
		return d.restVolumes(), nil
	case route == "POST volume-definitions":
		var body lapi.VolumeDefinitionCreate
		if err := decode(&body); err != nil {
			return nil, err
		}
		return nil, c.addVolume(d, int(*body.VolumeDefinition.VolumeNumber), body.VolumeDefinition.SizeKib, body.VolumeDefinition.Props)
	case route == "PUT volume-definitions" && len(parts) == 4:
		var body lapi.VolumeDefinitionModify
		if err := decode(&body); err != nil {
			return nil, err
		}
		number, _ := strconv.Atoi(parts[3])
		v := d.volumes[number]
		if v == nil {
			return nil, unknown("Volume definition", parts[3])
		}
		if v.props == nil {
			v.props = map[string]string{}
		}
		maps.Copy(v.props, body.OverrideProps)
		return nil, nil
	case route == "DELETE volume-definitions" && len(parts) == 4:
		if err := d.checkUnused(); err != nil {
			return nil, err
		}
		number, _ := strconv.Atoi(parts[3])
		delete(d.volumes, number)
		for _, replica := range d.replicas {
			delete(replica.states, number)
		}
		return nil, nil
	}
	return nil, fail(http.StatusNotImplemented, linstor.FailUnknownError, "the fake does not know %s %s", r.Method, r.URL.Path)
}

func (c *Controller) createGroup(name string) *failure {
	if c.groups[name] {
		return fail(http.StatusInternalServerError, linstor.FailExistsRscGrp, "Resource group '%s' already exists.", name)
	}
	c.groups[name] = true
	return nil
}

func (c *Controller) deleteGroup(name string) *failure {
	if !c.groups[name] {
		return unknown("Resource group", name)
	}
	for _, d := range c.definitions {
		if d.group == name {
			return fail(http.StatusInternalServerError, linstor.FailExistsRscDfn, "Cannot delete resource group '%s' because it has existing resource definitions.", name)
		}
	}
	delete(c.groups, name)
	return nil
}

func (c *Controller) createDefinition(raw lapi.ResourceDefinition) *failure {
	if _, found := c.definitions[raw.Name]; found {
		return fail(http.StatusInternalServerError, linstor.FailExistsRscDfn, "Resource definition '%s' already exists.", raw.Name)
	}
	if !c.groups[raw.ResourceGroupName] {
		return fail(http.StatusNotFound, linstor.FailNotFoundRscGrp, "Resource group '%s' not found.", raw.ResourceGroupName)
	}
	c.uuids++
	c.definitions[raw.Name] = &definition{
		name: raw.Name, uuid: fmt.Sprintf("uuid-%d", c.uuids), group: raw.ResourceGroupName,
		props: maps.Clone(raw.Props), volumes: map[int]*volume{}, replicas: map[string]*replica{},
	}
	if c.definitions[raw.Name].props == nil {
		c.definitions[raw.Name].props = map[string]string{}
	}
	return nil
}

func (c *Controller) addVolume(d *definition, number int, sizeKiB uint64, props map[string]string) *failure {
	if _, found := d.volumes[number]; found {
		return fail(http.StatusInternalServerError, linstor.FailExistsVlmDfn, "A volume definition with the number %d already exists in resource definition '%s'.", number, d.name)
	}
	d.volumes[number] = &volume{sizeKiB: sizeKiB, props: maps.Clone(props), late: len(d.replicas) > 0}
	for node, replica := range d.replicas {
		replica.states[number] = c.newState(d, node, number)
	}
	return nil
}

// newState is the disk state of a new volume: see AddsVolumesSafely for old versions.
func (c *Controller) newState(d *definition, node string, number int) string {
	stuck := d.volumes[number].late && c.node(node).Provider == "LVM" && c.Version < "1.33.3"
	if c.Syncing || stuck {
		return "Inconsistent"
	}
	return "UpToDate"
}

func (c *Controller) node(name string) *Node {
	return c.Nodes[slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == name })]
}

func (d *definition) checkUnused() *failure {
	for node, replica := range d.replicas {
		if replica.inUse {
			return fail(http.StatusInternalServerError, linstor.FailInUse, "Resource '%s' on node '%s' is still in use.", d.name, node)
		}
	}
	return nil
}

func (d *definition) rest() lapi.ResourceDefinition {
	raw := lapi.ResourceDefinition{Name: d.name, Uuid: d.uuid, ResourceGroupName: d.group, Props: maps.Clone(d.props)}
	if d.deleting {
		raw.Flags = []string{linstor.FlagDelete}
	}
	return raw
}

func (d *definition) restVolumes() []lapi.VolumeDefinition {
	all := []lapi.VolumeDefinition{}
	for _, number := range slices.Sorted(maps.Keys(d.volumes)) {
		n := int32(number)
		all = append(all, lapi.VolumeDefinition{VolumeNumber: &n, SizeKib: d.volumes[number].sizeKiB, Props: maps.Clone(d.volumes[number].props)})
	}
	return all
}

func (c *Controller) list() []lapi.ResourceDefinitionWithVolumeDefinition {
	all := []lapi.ResourceDefinitionWithVolumeDefinition{}
	for _, name := range slices.Sorted(maps.Keys(c.definitions)) {
		d := c.definitions[name]
		all = append(all, lapi.ResourceDefinitionWithVolumeDefinition{ResourceDefinition: d.rest(), VolumeDefinitions: d.restVolumes()})
	}
	return all
}

func (c *Controller) view(resources []string) []lapi.ResourceWithVolumes {
	all := []lapi.ResourceWithVolumes{}
	for _, name := range slices.Sorted(maps.Keys(c.definitions)) {
		if len(resources) > 0 && !slices.Contains(resources, name) {
			continue
		}
		d := c.definitions[name]
		for _, nodeName := range slices.Sorted(maps.Keys(d.replicas)) {
			replica, node := d.replicas[nodeName], c.node(nodeName)
			raw := lapi.ResourceWithVolumes{Resource: lapi.Resource{Name: name, NodeName: nodeName}}
			if !node.Offline { // an offline satellite's state is null
				inUse := replica.inUse
				raw.State = &lapi.ResourceState{InUse: &inUse}
			}
			for _, number := range slices.Sorted(maps.Keys(replica.states)) {
				v := lapi.Volume{VolumeNumber: int32(number), ProviderKind: lapi.ProviderKind(node.Provider)}
				if !node.Offline {
					v.State.DiskState = replica.states[number]
				}
				raw.Volumes = append(raw.Volumes, v)
			}
			all = append(all, raw)
		}
	}
	return all
}
