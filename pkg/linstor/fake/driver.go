package fake

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Errors of Place, as linstor-csi passes LINSTOR's.
var (
	ErrNotEnoughNodes = errors.New("Message: 'Not enough available nodes'") //nolint:staticcheck // LINSTOR's own text
	ErrInUse          = errors.New("in use")
	ErrExists         = errors.New("exists")
)

// State is what a test or a fake driver sees of a resource definition.
type State struct {
	UUID, Group string
	Props       map[string]string
	// SizeKiB, VolumeProps by VolNr.
	SizeKiB     map[int]uint64
	VolumeProps map[int]map[string]string
	Nodes       []string
}

// State returns a resource definition, nil if there is none.
func (c *Controller) State(name string) *State {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.definitions[name]
	if d == nil {
		return nil
	}
	s := &State{UUID: d.uuid, Group: d.group, Props: maps.Clone(d.props), SizeKiB: map[int]uint64{}, VolumeProps: map[int]map[string]string{},
		Nodes: slices.Sorted(maps.Keys(d.replicas))}
	for number, v := range d.volumes {
		s.SizeKiB[number], s.VolumeProps[number] = v.sizeKiB, maps.Clone(v.props)
	}
	return s
}

// Place does what linstor-csi does for a new volume: group, definition, VolNr 0 and
// replicas of all volumes on count nodes. Like linstor-csi it takes what exists.
func (c *Controller) Place(name, group string, sizeKiB uint64, count int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.groups[group] {
		c.groups[group] = true
	}
	d := c.definitions[name]
	if d == nil {
		c.uuids++
		d = &definition{name: name, uuid: fmt.Sprintf("uuid-%d", c.uuids), group: group, props: map[string]string{}, volumes: map[int]*volume{}, replicas: map[string]*replica{}}
		c.definitions[name] = d
	}
	if d.group != group {
		return fmt.Errorf("resource group differs: have %s, want %s", d.group, group)
	}
	if _, found := d.volumes[0]; !found {
		_ = c.addVolume(d, 0, sizeKiB, nil)
	}
	return c.place(d, count)
}

func (c *Controller) place(d *definition, count int) error {
	for _, node := range c.Nodes {
		if len(d.replicas) >= count {
			return nil
		}
		if _, found := d.replicas[node.Name]; found || node.Offline || node.Full {
			continue
		}
		r := &replica{states: map[int]string{}}
		for number := range d.volumes {
			r.states[number] = c.newState(d, node.Name, number)
		}
		d.replicas[node.Name] = r
	}
	if len(d.replicas) < count {
		return ErrNotEnoughNodes
	}
	return nil
}

// Copy does what linstor-csi does for a restore or clone: all volumes and all
// properties but the completion mark are the source's, the UUID is new. The target
// must not exist.
func (c *Controller) Copy(source, target, group string, count int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := c.definitions[source]
	if from == nil {
		return unknown("Resource definition", source)
	}
	if c.definitions[target] != nil {
		return ErrExists
	}
	c.groups[group] = true
	c.uuids++
	d := &definition{name: target, uuid: fmt.Sprintf("uuid-%d", c.uuids), group: group, props: maps.Clone(from.props), volumes: map[int]*volume{}, replicas: map[string]*replica{}}
	delete(d.props, Completed)
	for number, v := range from.volumes {
		d.volumes[number] = &volume{sizeKiB: v.sizeKiB, props: maps.Clone(v.props)}
	}
	c.definitions[target] = d
	return c.place(d, count)
}

// Completed is the property by which linstor-csi knows that a volume is complete.
const Completed = "Aux/csi-provisioning-completed-by"

// SetProperty sets a property of a resource definition.
func (c *Controller) SetProperty(name, key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.definitions[name].props[key] = value
}

// Delete does what linstor-csi does to delete a volume; it returns ErrInUse while a
// node uses it, and nil if there is none.
func (c *Controller) Delete(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.definitions[name]
	if d == nil {
		return nil
	}
	if d.checkUnused() != nil {
		return ErrInUse
	}
	delete(c.definitions, name)
	_ = c.deleteGroup(d.group) // fails while it is needed
	return nil
}

// Drop removes a definition and leaves its group, as somebody might by hand.
func (c *Controller) Drop(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.definitions[name] == nil {
		return unknown("Resource definition", name)
	}
	delete(c.definitions, name)
	return nil
}

// Use makes a node Primary, or Secondary.
func (c *Controller) Use(name, node string, inUse bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.definitions[name].replicas[node].inUse = inUse
}

// Sync makes every volume UpToDate.
func (c *Controller) Sync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Syncing = false
	for _, d := range c.definitions {
		for _, r := range d.replicas {
			for number := range r.states {
				r.states[number] = "UpToDate"
			}
		}
	}
}

// SetDeleting marks a definition as being deleted, as with an offline node.
func (c *Controller) SetDeleting(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.definitions[name].deleting = true
}
