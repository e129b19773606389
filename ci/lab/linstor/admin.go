package linstor

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// SetPool changes what a pool has.
func (c *Controller) SetPool(nodeName, poolName string, p control.Pool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[nodeName]
	if n == nil || n.pools[poolName] == nil {
		return fmt.Errorf("set pool %q of node %q: not found", poolName, nodeName)
	}
	if p.TotalKiB != 0 {
		n.pools[poolName].totalKiB = p.TotalKiB
	}
	n.pools[poolName].freeKiB = p.FreeKiB
	return nil
}

// State dumps the database and DRBD's view of it.
func (c *Controller) State() control.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := control.State{
		Version: c.version, Groups: slices.Sorted(maps.Keys(c.groups)), Primaries: map[string][]string{}, KeyValues: map[string]bool{},
		Definitions: []control.Definition{}, Snapshots: []control.Snapshot{}, Nodes: []control.Node{},
	}
	for name := range c.keyValues {
		out.KeyValues[name] = true
	}
	for _, n := range c.sortedNodes() {
		node := control.Node{Name: n.name, Online: n.online, Pools: []control.PoolState{}}
		for _, name := range slices.Sorted(maps.Keys(n.pools)) {
			if p := n.pools[name]; p.kind != kindDiskless {
				node.Pools = append(node.Pools, control.PoolState{Name: p.name, Kind: p.kind, TotalKiB: p.totalKiB, FreeKiB: c.freeKiB(n, p)})
			}
		}
		out.Nodes = append(out.Nodes, node)
	}
	for _, rd := range c.sortedDefinitions() {
		out.Definitions = append(out.Definitions, c.definitionState(rd, out.Primaries))
		for _, name := range slices.Sorted(maps.Keys(rd.snapshots)) {
			s := rd.snapshots[name]
			out.Snapshots = append(out.Snapshots, control.Snapshot{
				Resource: rd.name, Name: name, Flags: orEmpty(slices.Clone(s.flags)),
				Nodes: slices.Sorted(maps.Keys(s.nodes)), Volumes: slices.Sorted(maps.Keys(s.files)),
			})
		}
	}
	return out
}

func (c *Controller) definitionState(rd *resourceDefinition, primaries map[string][]string) control.Definition {
	d := control.Definition{
		Name: rd.name, UUID: rd.uuid, Group: rd.group, Props: clone(rd.props), Flags: orEmpty(slices.Clone(rd.flags)),
		Volumes: []control.VolumeDefinition{}, Resources: []control.Resource{},
	}
	for _, vd := range rd.sortedVolumes() {
		d.Volumes = append(d.Volumes, control.VolumeDefinition{
			Number: vd.number, Minor: vd.minor, SizeKiB: vd.sizeKiB, DeviceKiB: vd.deviceKiB, Props: clone(vd.props),
			Flags: orEmpty(slices.Clone(vd.flags)), BackingFile: c.backingFile(rd, vd.number),
		})
	}
	for _, r := range rd.sortedResources() {
		res := control.Resource{Node: r.node, Flags: orEmpty(slices.Clone(r.flags)), Diskless: r.diskless(), InUse: r.inUse, Role: c.role(r.node, rd.name), Volumes: []control.VolumeState{}}
		if !r.diskless() {
			res.Pool = r.props[propPool]
		}
		if res.Role == drbd.Primary {
			primaries[rd.name] = append(primaries[rd.name], r.node)
		}
		state, err := c.replication.State(r.node, rd.name)
		for _, number := range slices.Sorted(maps.Keys(r.volumes)) {
			v := control.VolumeState{Number: number, Deployed: r.volumes[number].deployed}
			if err == nil && v.Deployed {
				v.DiskState = string(diskOf(state, number))
			}
			res.Volumes = append(res.Volumes, v)
		}
		d.Resources = append(d.Resources, res)
	}
	return d
}

// Reset ends all faults: behaviour of satellites, version and times, HTTP
// faults, pool sizes claimed, and brings offline satellites back but for those
// to leave as they are.
func (c *Controller) Reset(leave map[string]bool) error {
	c.ClearFaults()
	c.SetHanging(false)
	c.mu.Lock()
	c.version, c.inUseDelay, c.suspendTime, c.cloneTime = DefaultVersion, DefaultInUseDelay, 0, 0
	var offline []string
	for _, n := range c.sortedNodes() {
		n.deploy = deployBehaviour{}
		for _, p := range n.pools {
			p.freeKiB = nil
		}
		if !n.online && !leave[n.name] {
			offline = append(offline, n.name)
		}
	}
	c.mu.Unlock()
	var first error
	for _, name := range offline {
		if err := c.SetOnline(name, true); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// AdminHandler serves the part of the control API that concerns LINSTOR only;
// see package control for the client.
func (c *Controller) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /linstor/state", func(w http.ResponseWriter, _ *http.Request) { Answer(w, c.State(), nil) })
	mux.HandleFunc("GET /linstor/requests", func(w http.ResponseWriter, r *http.Request) {
		after, _ := strconv.Atoi(r.URL.Query().Get("after"))
		Answer(w, c.Requests(after), nil)
	})
	mux.HandleFunc("GET /linstor/faults", func(w http.ResponseWriter, _ *http.Request) { Answer(w, c.Faults(), nil) })
	mux.HandleFunc("POST /linstor/faults", func(w http.ResponseWriter, r *http.Request) {
		var f control.Fault
		if Question(w, r, &f) {
			f, err := c.AddFault(f)
			Answer(w, f, err)
		}
	})
	mux.HandleFunc("DELETE /linstor/faults", func(w http.ResponseWriter, _ *http.Request) { c.ClearFaults(); Answer(w, nil, nil) })
	mux.HandleFunc("PUT /linstor/settings", func(w http.ResponseWriter, r *http.Request) {
		var s control.Settings
		if Question(w, r, &s) {
			c.Apply(s)
			Answer(w, nil, nil)
		}
	})
	mux.HandleFunc("POST /linstor/satellites/{node}/{state}", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("state") {
		case "offline":
			Answer(w, nil, c.SetOnline(r.PathValue("node"), false))
		case "online":
			Answer(w, nil, c.SetOnline(r.PathValue("node"), true))
		default:
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("PUT /linstor/satellites/{node}/deploy", func(w http.ResponseWriter, r *http.Request) {
		var d control.Deploy
		if Question(w, r, &d) {
			Answer(w, nil, c.SetDeploy(r.PathValue("node"), d))
		}
	})
	mux.HandleFunc("PUT /linstor/pools/{node}/{pool}", func(w http.ResponseWriter, r *http.Request) {
		var p control.Pool
		if Question(w, r, &p) {
			Answer(w, nil, c.SetPool(r.PathValue("node"), r.PathValue("pool"), p))
		}
	})
	return mux
}

// Question decodes a control request's JSON body; on failure it has answered.
func Question(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		http.Error(w, "decode request: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// Answer writes a control answer: JSON, or the error as text with status 500.
func Answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
