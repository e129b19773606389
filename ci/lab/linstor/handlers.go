package linstor

import "net/http"

// handlers is the REST API as far as the stand-in knows it. The patterns are
// those of LINSTOR's rest_v1_openapi.yaml.
func (c *Controller) handlers() map[string]handler {
	const (
		rd     = "/v1/resource-definitions/{rd}"
		volume = rd + "/volume-definitions/{number}"
		res    = rd + "/resources/{node}"
		snap   = rd + "/snapshots/{snapshot}"
		group  = "/v1/resource-groups/{group}"
		kv     = "/v1/key-value-store/{store}"
	)
	ok, created := http.StatusOK, http.StatusCreated
	return map[string]handler{
		"GET /v1/controller/version":                           c.getVersion,
		"GET /v1/controller/properties":                        c.getControllerProps,
		"PUT /v1/controller/properties":                        replies(ok, c.modifyControllerProps),
		"POST /v1/controller/properties":                       replies(ok, c.modifyControllerProps),
		"DELETE /v1/controller/properties/{key...}":            replies(ok, c.deleteControllerProp),
		"GET /v1/nodes":                                        c.listNodes,
		"GET /v1/nodes/{node}":                                 c.getNode,
		"GET /v1/nodes/{node}/storage-pools":                   c.listNodePools,
		"GET /v1/view/storage-pools":                           c.listPools,
		"GET /v1/view/resources":                               c.viewResources,
		"GET /v1/view/snapshots":                               c.viewSnapshots,
		"GET /v1/resource-groups":                              c.listGroups,
		"POST /v1/resource-groups":                             replies(created, c.createGroup),
		"GET " + group:                                         c.getGroup,
		"PUT " + group:                                         replies(ok, c.modifyGroup),
		"DELETE " + group:                                      replies(ok, c.deleteGroup),
		"GET " + group + "/volume-groups":                      c.listVolumeGroups,
		"POST " + group + "/volume-groups":                     replies(created, c.createVolumeGroup),
		"GET " + group + "/volume-groups/{number}":             c.getVolumeGroup,
		"GET /v1/resource-definitions":                         c.listDefinitions,
		"POST /v1/resource-definitions":                        replies(created, c.createDefinition),
		"GET " + rd:                                            c.getDefinition,
		"PUT " + rd:                                            replies(ok, c.modifyDefinition),
		"DELETE " + rd:                                         replies(ok, c.deleteDefinition),
		"GET " + rd + "/volume-definitions":                    c.listVolumeDefinitions,
		"POST " + rd + "/volume-definitions":                   replies(created, c.createVolumeDefinition),
		"GET " + volume:                                        c.getVolumeDefinition,
		"PUT " + volume:                                        replies(ok, c.modifyVolumeDefinition),
		"DELETE " + volume:                                     replies(ok, c.deleteVolumeDefinition),
		"POST " + rd + "/autoplace":                            replies(created, c.autoplace),
		"GET " + rd + "/resources":                             c.listResources,
		"POST " + rd + "/resources":                            replies(created, c.createResources),
		"GET " + res:                                           c.getResource,
		"POST " + res:                                          replies(created, c.createResource),
		"DELETE " + res:                                        replies(ok, c.deleteResource),
		"GET " + res + "/volumes":                              c.listVolumes,
		"GET " + res + "/volumes/{number}":                     c.getVolume,
		"PUT " + res + "/volumes/{number}":                     replies(ok, c.modifyVolume),
		"POST " + res + "/make-available":                      replies(ok, c.makeAvailable),
		"GET " + rd + "/sync-status":                           c.syncStatus,
		"POST " + rd + "/clone":                                c.startClone,
		"GET " + rd + "/clone/{clone}":                         c.getClone,
		"GET " + rd + "/snapshots":                             c.listSnapshots,
		"POST " + rd + "/snapshots":                            replies(created, c.createSnapshot),
		"GET " + snap:                                          c.getSnapshot,
		"DELETE " + snap:                                       replies(ok, c.deleteSnapshot),
		"POST /v1/actions/snapshot/multi":                      replies(ok, c.createSnapshots),
		"GET /v1/key-value-store":                              c.listKeyValues,
		"GET " + kv:                                            c.getKeyValues,
		"PUT " + kv:                                            replies(ok, c.modifyKeyValues),
		"DELETE " + kv:                                         replies(ok, c.deleteKeyValues),
		"GET /v1/remotes":                                      c.listRemotes,
		"POST " + rd + "/snapshot-restore-resource/{snapshot}": replies(created, c.restoreResource),
		"POST " + rd + "/snapshot-restore-volume-definition/{snapshot}": replies(created, c.restoreVolumeDefinitions),
	}
}
