// Package linstortest lets tests run the LINSTOR stand-in without nodes: a
// replication layer in memory that knows roles and disk states, and nothing of
// networks and quorum.
package linstortest

import (
	"context"
	"fmt"
	"sync"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

// Replication is a linstor.Replication in memory. A disk that joins UpToDate
// peers becomes UpToDate at once, unless HoldResync is set.
type Replication struct {
	mu          sync.Mutex
	nodes       map[string]map[string]*replica // resource -> node
	subscribers map[int]func(drbd.Event)
	next        int
	suspended   map[string]int
	resizes     []string

	// HoldResync keeps joining disks Inconsistent.
	HoldResync bool
	// WhileSuspended is called once I/O of a resource is suspended.
	WhileSuspended func(resource string)
}

type replica struct {
	config  drbd.ResourceConfig
	primary bool
	disks   map[int]drbd.DiskState
}

// NewReplication returns an empty Replication.
func NewReplication() *Replication {
	return &Replication{nodes: map[string]map[string]*replica{}, subscribers: map[int]func(drbd.Event){}, suspended: map[string]int{}}
}

// Configure implements linstor.Replication.
func (f *Replication) Configure(_ context.Context, node string, config drbd.ResourceConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nodes[config.Name] == nil {
		f.nodes[config.Name] = map[string]*replica{}
	}
	r := f.nodes[config.Name][node]
	if r == nil {
		r = &replica{disks: map[int]drbd.DiskState{}}
		f.nodes[config.Name][node] = r
	}
	disks := map[int]drbd.DiskState{}
	for _, v := range config.Volumes {
		old, had := r.disks[v.Number]
		switch {
		case v.Diskless:
			disks[v.Number] = drbd.Diskless
		case had && old != drbd.Diskless:
			disks[v.Number] = old
		case v.InitialDiskState != "":
			disks[v.Number] = v.InitialDiskState
		case f.HoldResync && f.anyUpToDate(config.Name, v.Number):
			disks[v.Number] = drbd.Inconsistent
		default:
			disks[v.Number] = drbd.UpToDate
		}
	}
	r.config, r.disks = config, disks
	if !f.HoldResync {
		f.resync(config.Name)
	}
	return nil
}

// resync makes the Inconsistent disks UpToDate that have an UpToDate peer.
func (f *Replication) resync(resource string) {
	for _, r := range f.nodes[resource] {
		for number, disk := range r.disks {
			if disk == drbd.Inconsistent && f.anyUpToDate(resource, number) {
				r.disks[number] = drbd.UpToDate
			}
		}
	}
}

func (f *Replication) anyUpToDate(resource string, volume int) bool {
	for _, r := range f.nodes[resource] {
		if r.disks[volume] == drbd.UpToDate {
			return true
		}
	}
	return false
}

// Deconfigure implements linstor.Replication.
func (f *Replication) Deconfigure(_ context.Context, node, resource string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.nodes[resource][node]
	if r == nil {
		return nil
	}
	if r.primary {
		return fmt.Errorf("down %s on %s: %w", resource, node, drbd.ErrInUse)
	}
	delete(f.nodes[resource], node)
	return nil
}

// Resize implements linstor.Replication.
func (f *Replication) Resize(_ context.Context, resource string, volume int, sizeBytes int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.nodes[resource] {
		for i := range r.config.Volumes {
			if r.config.Volumes[i].Number == volume {
				r.config.Volumes[i].SizeBytes = sizeBytes
			}
		}
	}
	f.resizes = append(f.resizes, fmt.Sprintf("%s/%d=%d", resource, volume, sizeBytes))
	return nil
}

// SuspendIO implements linstor.Replication.
func (f *Replication) SuspendIO(_ context.Context, resource string) error {
	f.mu.Lock()
	f.suspended[resource]++
	hook := f.WhileSuspended
	f.mu.Unlock()
	if hook != nil {
		hook(resource)
	}
	return nil
}

// ResumeIO implements linstor.Replication.
func (f *Replication) ResumeIO(resource string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.suspended[resource]--; f.suspended[resource] < 0 {
		return fmt.Errorf("resume %s: not suspended", resource)
	}
	return nil
}

// Suspended says whether the resource's I/O is suspended now.
func (f *Replication) Suspended(resource string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.suspended[resource] > 0
}

// State implements linstor.Replication.
func (f *Replication) State(node, resource string) (drbd.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.nodes[resource][node]
	if r == nil {
		return drbd.State{}, fmt.Errorf("state of %s on %s: %w", resource, node, drbd.ErrUnknown)
	}
	s := drbd.State{Node: node, Resource: resource, NodeID: r.config.NodeID, Role: drbd.Secondary, MayPromote: true, PromotionScore: 10101}
	for _, other := range f.nodes[resource] {
		s.MayPromote = s.MayPromote && !other.primary
	}
	if r.primary {
		s.Role = drbd.Primary
	}
	for _, v := range r.config.Volumes {
		s.MayPromote = s.MayPromote && f.anyUpToDate(resource, v.Number)
		s.Volumes = append(s.Volumes, drbd.VolumeState{Number: v.Number, Minor: v.Minor, SizeBytes: v.SizeBytes, Disk: r.disks[v.Number], Client: v.Diskless})
	}
	if !s.MayPromote {
		s.PromotionScore = 0
	}
	return s, nil
}

// Subscribe implements linstor.Replication.
func (f *Replication) Subscribe(callback func(drbd.Event)) (cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.next
	f.next++
	f.subscribers[id] = callback
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subscribers, id)
	}
}

// SetPrimary promotes or demotes a node and tells the subscribers.
func (f *Replication) SetPrimary(node, resource string, primary bool) {
	f.mu.Lock()
	if r := f.nodes[resource][node]; r != nil {
		r.primary = primary
	}
	var callbacks []func(drbd.Event)
	for _, s := range f.subscribers {
		callbacks = append(callbacks, s)
	}
	f.mu.Unlock()
	for _, callback := range callbacks {
		callback(drbd.Event{Node: node, Resource: resource, Kind: drbd.EventInUse, Yes: primary})
		callback(drbd.Event{Node: node, Resource: resource, Kind: drbd.EventMayPromote, Yes: !primary})
	}
}

// SetDiskState implements linstor.Replication.
func (f *Replication) SetDiskState(node, resource string, volume int, state drbd.DiskState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.nodes[resource][node]
	if r == nil {
		return fmt.Errorf("set disk of %s on %s: %w", resource, node, drbd.ErrUnknown)
	}
	r.disks[volume] = state
	return nil
}

// Config returns what the node was last told of the resource.
func (f *Replication) Config(node, resource string) (drbd.ResourceConfig, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.nodes[resource][node]
	if r == nil {
		return drbd.ResourceConfig{}, false
	}
	return r.config, true
}

// Resizes lists the resizes done, as "resource/volume=bytes".
func (f *Replication) Resizes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.resizes...)
}
