package linstor

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

// wanted applies a list filter of the REST API; names compare as LINSTOR's do,
// without regard to case.
func wanted(filter []string, name string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, name) })
}

// wantedProps applies the filter by properties: "key" or "key=value".
func wantedProps(filter []string, props map[string]string) bool {
	for _, f := range filter {
		key, value, exact := strings.Cut(f, "=")
		have, ok := props[key]
		if !ok || exact && have != value {
			return false
		}
	}
	return true
}

// page applies limit and offset; no or a zero limit is no limit.
func page[T any](query url.Values, all []T) []T {
	limit, _ := strconv.Atoi(query.Get("limit"))
	if limit <= 0 {
		return all
	}
	offset, _ := strconv.Atoi(query.Get("offset"))
	offset = min(max(offset, 0), len(all))
	return all[offset:min(offset+limit, len(all))]
}

func (c *Controller) getVersion(*request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return http.StatusOK, versionJSON{Version: c.version, GitHash: "laboratory", BuildTime: "2026-01-01T00:00:00+00:00", RestAPIVersion: "1.28.0"}
}

func (c *Controller) listNodes(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	query := q.URL.Query()
	out := []nodeJSON{}
	for _, n := range c.sortedNodes() {
		if wanted(query["nodes"], n.name) && wantedProps(query["props"], n.props) {
			out = append(out, n.json())
		}
	}
	return http.StatusOK, page(query, out)
}

func (c *Controller) getNode(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[q.PathValue("node")]
	if !ok {
		return http.StatusNotFound, fail(failNotFoundNode, objNode, "Node '%s' not found.", q.PathValue("node"))
	}
	return http.StatusOK, n.json()
}

func (n *node) json() nodeJSON {
	status := "OFFLINE"
	if n.online {
		status = "ONLINE"
	}
	return nodeJSON{
		Name: n.name, Type: "SATELLITE", UUID: n.uuid, Props: clone(n.props), Flags: orEmpty(slices.Clone(n.flags)), ConnectionStatus: status,
		NetInterfaces:  []netInterface{{Name: "default", Address: n.address, SatellitePort: 3366, Encryption: "PLAIN", IsActive: true, UUID: n.uuid}},
		ResourceLayers: []string{"DRBD", "STORAGE"}, StorageProviders: []string{"DISKLESS", "LVM", "LVM_THIN", "FILE", "FILE_THIN"},
	}
}

// viewResources answers an unknown resource with an empty list, never 404.
func (c *Controller) viewResources(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	query := q.URL.Query()
	out := []resourceJSON{}
	for _, rd := range c.sortedDefinitions() {
		if !wanted(query["resources"], rd.name) {
			continue
		}
		for _, r := range rd.sortedResources() {
			if wanted(query["nodes"], r.node) && wantedProps(query["props"], r.props) {
				out = append(out, c.resourceJSON(rd, r))
			}
		}
	}
	return http.StatusOK, page(query, out)
}

// resourceJSON shows a resource as its satellite reports it: nothing of its
// state is known while the satellite is offline.
func (c *Controller) resourceJSON(rd *resourceDefinition, r *resource) resourceJSON {
	out := resourceJSON{
		Name: rd.name, NodeName: r.node, Props: clone(r.props), Flags: orEmpty(slices.Clone(r.flags)), UUID: r.uuid,
		CreateTimestamp: r.created.UnixMilli(),
		LayerObject:     layerObjectJSON{Type: "DRBD", Children: []layerObjectJSON{{Type: "STORAGE", Storage: &struct{}{}}}},
	}
	layer := &drbdResourceJSON{NodeID: r.nodeID, PeerSlots: 7, Connections: map[string]drbdConnection{}}
	out.LayerObject.Drbd = layer
	online := c.online(r.node)
	state, err := c.replication.State(r.node, rd.name)
	known := online && err == nil
	if known {
		out.State = &resourceState{InUse: r.inUse}
		layer.MayPromote, layer.PromotionScore = state.MayPromote, state.PromotionScore
		for _, peer := range state.Connections {
			layer.Connections[peer.Peer] = drbdConnection{Connected: peer.State == "Connected", Message: peer.State}
		}
	}
	for _, vd := range rd.sortedVolumes() {
		v := r.volumes[vd.number]
		if v == nil {
			continue
		}
		j := volumeJSON{
			VolumeNumber: vd.number, StoragePoolName: v.pool, ProviderKind: v.kind, Props: clone(v.props),
			Flags: orEmpty(slices.Clone(vd.flags)), UUID: v.uuid, Reports: v.reports,
		}
		if v.deployed {
			j.DevicePath = fmt.Sprintf("/dev/drbd%d", vd.minor)
			j.UsableSizeKiB = vd.deviceKiB
			if !r.diskless() {
				j.AllocatedSizeKiB = v.sizeKiB
				if p := c.nodes[r.node].pools[v.pool]; p.thin() {
					j.AllocatedSizeKiB = allocatedKiB(c.backingFile(rd, vd.number))
				}
			}
		}
		if known && v.deployed {
			j.State = &volumeState{DiskState: string(diskOf(state, vd.number))}
		}
		out.Volumes = append(out.Volumes, j)
	}
	return out
}

func (c *Controller) role(node, resource string) string {
	state, err := c.replication.State(node, resource)
	if err != nil {
		return drbd.Unknown
	}
	return state.Role
}
