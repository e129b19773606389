// Package control is the laboratory's remote control of the LINSTOR stand-in
// and of the nodes below it: fault injection by name, and inspection. It holds
// the JSON of the control API and its client; the server is in package linstor.
package control

import (
	"errors"
	"fmt"
	"time"
)

// Duration is a time.Duration that reads and writes "1.5s" in JSON.
type Duration time.Duration

// MarshalText writes the duration as time.Duration prints it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("parse duration: %w", err)
	}
	*d = Duration(parsed)
	return nil
}

// FaultKind is what happens to a request that a Fault hits.
type FaultKind string

// Kinds of faults.
const (
	// FaultError answers 500 with RetCode and Message; nothing is done.
	FaultError FaultKind = "error"
	// FaultHang never answers, and does nothing.
	FaultHang FaultKind = "hang"
	// FaultDelay waits for Delay before the request is worked on.
	FaultDelay FaultKind = "delay"
	// FaultReset closes the connection; nothing is done.
	FaultReset FaultKind = "reset"
	// FaultCommitThenReset does the work, then resets the connection: the
	// client sees an error and the object exists.
	FaultCommitThenReset FaultKind = "commit-then-reset"
)

// Fault hits requests to LINSTOR's REST API.
type Fault struct {
	ID int `json:"id"`
	// Endpoint is a regular expression for "METHOD /v1/path?query".
	Endpoint string    `json:"endpoint"`
	Kind     FaultKind `json:"kind"`
	// Skip lets so many matching requests pass before the first is hit.
	Skip int `json:"skip,omitempty"`
	// Count is how many requests are hit: 0 means one, negative all.
	Count   int      `json:"count,omitempty"`
	Delay   Duration `json:"delay,omitempty"`
	RetCode uint64   `json:"retCode,omitempty"` // default 998, unknown error
	Message string   `json:"message,omitempty"`
	Hits    int      `json:"hits"`
}

// Deploy is how a satellite deploys.
type Deploy struct {
	// Delay is how long each deployment takes at least.
	Delay Duration `json:"delay,omitempty"`
	// Failures is how many of the next deployments fail; negative: all.
	Failures int `json:"failures,omitempty"`
	// Resource narrows Failures to one resource definition.
	Resource string `json:"resource,omitempty"`
	Message  string `json:"message,omitempty"`
}

// Pool sets what a storage pool has.
type Pool struct {
	// TotalKiB changes the size; 0 leaves it.
	TotalKiB int64 `json:"totalKiB,omitempty"`
	// FreeKiB makes the pool claim this free space; nil: the computed one.
	FreeKiB *int64 `json:"freeKiB,omitempty"`
}

// Settings are the stand-in's adjustable times and its version. Nil fields
// stay as they are.
type Settings struct {
	// Version is what GET controller/version answers. Below 1.33.2 a volume
	// added later on a thick pool never becomes UpToDate.
	Version *string `json:"version,omitempty"`
	// InUseDelay is how late promotions and demotions are known.
	InUseDelay *Duration `json:"inUseDelay,omitempty"`
	// SuspendTime is how long a snapshot keeps I/O suspended at least.
	SuspendTime *Duration `json:"suspendTime,omitempty"`
	// CloneTime is how long a clone stays in state CLONING at least.
	CloneTime *Duration `json:"cloneTime,omitempty"`
}

// DownMode is how an unavailable controller looks.
type DownMode string

// Ways to be down.
const (
	// DownRefuse closes the port: connections are refused.
	DownRefuse DownMode = "refuse"
	// DownHang accepts connections and never answers.
	DownHang DownMode = "hang"
)

// State is a dump of the database and of what the satellites made of it.
type State struct {
	Version     string          `json:"version"`
	Nodes       []Node          `json:"nodes"`
	Groups      []string        `json:"resourceGroups"`
	Definitions []Definition    `json:"resourceDefinitions"`
	Snapshots   []Snapshot      `json:"snapshots"`
	KeyValues   map[string]bool `json:"keyValueStores,omitempty"`
	// Primaries lists resource -> nodes that are Primary, by DRBD's view.
	Primaries map[string][]string `json:"primaries"`
}

// Definition returns the resource definition of that name, nil if there is none.
func (s State) Definition(name string) *Definition {
	for i := range s.Definitions {
		if s.Definitions[i].Name == name {
			return &s.Definitions[i]
		}
	}
	return nil
}

// Stale is an error that names the replicas that are not UpToDate, or nil.
func (d *Definition) Stale() error {
	var stale []error
	for _, resource := range d.Resources {
		for _, volume := range resource.Volumes {
			if !resource.Diskless && volume.DiskState != "UpToDate" {
				stale = append(stale, fmt.Errorf("volume %d on %s is %q", volume.Number, resource.Node, volume.DiskState))
			}
		}
	}
	return errors.Join(stale...)
}

// Node is a LINSTOR node.
type Node struct {
	Name   string      `json:"name"`
	Online bool        `json:"online"`
	Pools  []PoolState `json:"pools"`
}

// PoolState is a storage pool of a Node.
type PoolState struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	TotalKiB int64  `json:"totalKiB"`
	FreeKiB  int64  `json:"freeKiB"`
}

// Definition is a resource definition with all that hangs on it.
type Definition struct {
	Name      string             `json:"name"`
	UUID      string             `json:"uuid"`
	Group     string             `json:"resourceGroup"`
	Props     map[string]string  `json:"props"`
	Flags     []string           `json:"flags"`
	Volumes   []VolumeDefinition `json:"volumes"`
	Resources []Resource         `json:"resources"`
}

// VolumeDefinition is one volume of a Definition.
type VolumeDefinition struct {
	Number      int               `json:"number"`
	Minor       int               `json:"minor"`
	SizeKiB     int64             `json:"sizeKiB"`
	DeviceKiB   int64             `json:"deviceKiB"`
	Props       map[string]string `json:"props"`
	Flags       []string          `json:"flags"`
	BackingFile string            `json:"backingFile"`
}

// Resource is a Definition's replica on one node.
type Resource struct {
	Node     string   `json:"node"`
	Flags    []string `json:"flags"`
	Diskless bool     `json:"diskless"`
	Pool     string   `json:"pool,omitempty"`
	// InUse is what LINSTOR believes; Role is what DRBD says.
	InUse   bool          `json:"inUse"`
	Role    string        `json:"role"`
	Volumes []VolumeState `json:"volumes"`
}

// VolumeState is one volume of a Resource.
type VolumeState struct {
	Number    int    `json:"number"`
	Deployed  bool   `json:"deployed"`
	DiskState string `json:"diskState,omitempty"`
}

// Snapshot is a snapshot definition.
type Snapshot struct {
	Resource string   `json:"resource"`
	Name     string   `json:"name"`
	Flags    []string `json:"flags"`
	Nodes    []string `json:"nodes"`
	Volumes  []int    `json:"volumes"`
}

// Request is one request to LINSTOR's REST API.
type Request struct {
	Number  int       `json:"number"`
	Time    time.Time `json:"time"`
	Method  string    `json:"method"`
	URI     string    `json:"uri"`
	Body    string    `json:"body,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	Status  int       `json:"status"`
	Answer  string    `json:"answer,omitempty"` // only of failed requests
	Seconds float64   `json:"seconds"`
}
