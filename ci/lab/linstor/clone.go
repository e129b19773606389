package linstor

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// startClone commits a resource definition with copies of everything, flag
// CLONING, and answers; the copying goes on in the background.
func (c *Controller) startClone(q *request) (int, any) {
	var in cloneRequest
	if rs := q.decode(&in); rs != nil {
		return http.StatusBadRequest, rs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	source, ok := c.definitions[q.PathValue("rd")]
	if !ok {
		return http.StatusNotFound, definitionNotFound(q.PathValue("rd"))
	}
	target, rs := c.commitClone(source, in)
	if rs != nil {
		return rs.status(http.StatusCreated), rs
	}
	c.inBackground(func() { c.finishClone(source, target) })
	return http.StatusCreated, cloneStarted{
		Location:   fmt.Sprintf("/v1/resource-definitions/%s/clone/%s", source.name, target.name),
		SourceName: source.name, CloneName: target.name,
		Messages: []Reply{success(codeCreated, objDefinition|opCreate, "Clone of resource definition '%s' started.", source.name)},
	}
}

func (c *Controller) commitClone(source *resourceDefinition, in cloneRequest) (*resourceDefinition, Replies) {
	if !resourceName.MatchString(in.Name) {
		return nil, fail(failInvalidResourceName, objDefinition|opCreate, "Invalid name: '%s'", in.Name)
	}
	if _, ok := c.definitions[in.Name]; ok {
		return nil, fail(failExistsDefinition, objDefinition|opCreate, "Resource definition '%s' already exists.", in.Name)
	}
	group := source.group
	if in.ResourceGroup != "" {
		group = in.ResourceGroup
	}
	if _, ok := c.groups[group]; !ok {
		return nil, groupNotFound(group)
	}
	diskful, _, _ := source.placed()
	if len(diskful) == 0 {
		return nil, fail(failNotFoundResource, objDefinition|opCreate, "No resources found for cloning")
	}
	if !c.allUpToDate(source) {
		return nil, fail(failNotAllUpToDate, objDefinition|opCreate, "Cannot clone resource-definition, because we have a non-UpToDate DRBD device.")
	}
	props := clone(source.props)
	delete(props, propQuorum)
	in.modify(props)
	target := c.addDefinition(in.Name, group, props, in.LayerList)
	target.props[propClonedFrom] = source.name
	target.flags = []string{flagCloning}
	target.clone = &cloneProgress{source: source.name}
	for _, vd := range source.sortedVolumes() {
		minor, ok := c.freeMinor()
		if !ok {
			return nil, fail(failMinorsExhausted, objVolume|opCreate, "No free minor number for a new volume definition.")
		}
		target.volumes[vd.number] = &volumeDefinition{
			number: vd.number, sizeKiB: vd.sizeKiB, deviceKiB: vd.sizeKiB, uuid: newUUID(), props: clone(vd.props), minor: minor,
			source: c.backingFile(target, vd.number),
		}
	}
	for _, r := range diskful {
		c.addResource(target, r.node, r.props[propPool], false)
	}
	c.placementChanged(target)
	return target, nil
}

// finishClone copies the volumes while the source's I/O is suspended, and
// deploys the clone.
func (c *Controller) finishClone(source, target *resourceDefinition) {
	started := time.Now()
	err := c.copyClone(source, target)
	c.mu.Lock()
	wait := c.cloneTime - time.Since(started)
	c.mu.Unlock()
	time.Sleep(wait)
	if err == nil {
		c.deploy(target)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		target.clone.failed = true
		target.flags = addFlag(target.flags, flagFailed)
		return
	}
	target.clone.done = true
	c.settleClone(target)
}

func (c *Controller) copyClone(source, target *resourceDefinition) error {
	source.work.Lock()
	defer source.work.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), satelliteTimeout)
	defer cancel()
	if err := c.replication.SuspendIO(ctx, source.name); err != nil {
		return fmt.Errorf("suspend I/O: %w", err)
	}
	defer func() {
		if err := c.replication.ResumeIO(source.name); err != nil {
			c.AddViolation(fmt.Sprintf("resume I/O of %s after cloning: %v", source.name, err))
		}
	}()
	c.mu.Lock()
	volumes := target.sortedVolumes()
	c.mu.Unlock()
	for _, vd := range volumes {
		if err := copyFile(ctx, c.backingFile(source, vd.number), vd.source); err != nil {
			return err
		}
	}
	return nil
}

// settleClone ends the state CLONING when every node has deployed its part.
func (c *Controller) settleClone(rd *resourceDefinition) {
	if rd.clone == nil || !rd.clone.done || !rd.allDeployed() {
		return
	}
	rd.flags = removeFlag(rd.flags, flagCloning)
	rd.clone = nil
}

func (rd *resourceDefinition) allDeployed() bool {
	for _, r := range rd.resources {
		for _, v := range r.volumes {
			if !v.deployed {
				return false
			}
		}
	}
	return true
}

// getClone tells how far a clone is. With any of its nodes offline the real
// server says FAILED (CtrlApiCallHandler.isCloneReady).
func (c *Controller) getClone(q *request) (int, any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	source, target := q.PathValue("rd"), q.PathValue("clone")
	rd, ok := c.definitions[target]
	if _, known := c.definitions[source]; !known {
		return http.StatusNotFound, definitionNotFound(source)
	}
	if !ok {
		return http.StatusNotFound, definitionNotFound(target)
	}
	if rd.clone != nil && rd.clone.failed {
		return http.StatusOK, cloneStatus{Status: "FAILED"}
	}
	for name := range rd.resources {
		if !c.online(name) {
			return http.StatusOK, cloneStatus{Status: "FAILED"}
		}
	}
	if rd.clone != nil {
		return http.StatusOK, cloneStatus{Status: "CLONING"}
	}
	return http.StatusOK, cloneStatus{Status: "COMPLETE"}
}
