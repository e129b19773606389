// Package drbd stands in for DRBD 9 in the laboratory.
//
// A Cluster knows, for every node, what that node's kernel would know of
// each resource: its role, its disks, its connections and what it believes
// of its peers. One host process holds the whole Cluster; the nodes reach it
// through the control handler (drbdsetup) and through block exports whose
// every request passes the admission rules of the node's current state.
//
// It models promotion, quorum, loss of links with DRBD's own detection times,
// suspension, forced demotion, detached, outdated and inconsistent disks. It
// does not model split brain: whatever would lead to one is recorded as a
// violation (Cluster.Violations), which a test must treat as its failure.
// Auto-promotion by opening a device is not modelled either: promotion is
// always explicit.
package drbd

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Errors that callers of the Cluster tell apart with errors.Is.
var (
	// ErrInUse refuses to take away a resource that is Primary or open.
	ErrInUse = errors.New("resource is in use")
	// ErrUnknown names a node, resource or volume that is not configured.
	ErrUnknown = errors.New("not configured")
	// ErrNodeDown says that the node is powered off.
	ErrNodeDown = errors.New("node is powered off")
)

// Quorum and on-no-quorum settings of a resource (drbd.conf names).
const (
	QuorumMajority = "majority"
	QuorumOff      = "off"

	OnNoQuorumIOError   = "io-error"
	OnNoQuorumSuspendIO = "suspend-io"
)

// Roles as drbdsetup prints them.
const (
	Primary   = "Primary"
	Secondary = "Secondary"
	Unknown   = "Unknown"
)

// DiskState is the state of a volume's disk as drbdsetup prints it.
type DiskState string

// Disk states of DRBD that the stand-in uses.
const (
	Diskless     DiskState = "Diskless"
	Inconsistent DiskState = "Inconsistent"
	Outdated     DiskState = "Outdated"
	Consistent   DiskState = "Consistent"
	UpToDate     DiskState = "UpToDate"
	DUnknown     DiskState = "DUnknown"
)

// Options configure a Cluster. The zero value is usable: real clock, DRBD's
// default times, no node driver (only in-process exports).
type Options struct {
	// Clock replaces the real time in tests.
	Clock Clock
	// Timing replaces DRBD's default detection times.
	Timing *Timing
	// Driver makes the block devices appear on the nodes. Nil: none do.
	Driver NodeDriver
	// Violation, when set, is called for each violation at once, besides its
	// being recorded. It must not call the Cluster.
	Violation func(text string)
}

// Timing holds the times after which DRBD notices things. DefaultTiming gives
// those measured on DRBD 9.2.18 with ping-int 10 s and ping-timeout 0.5 s.
type Timing struct {
	// DetectMin and DetectMax bound the time until an idle node notices that
	// a peer is gone.
	DetectMin, DetectMax time.Duration
	// PingTimeout is how long `primary` waits for peers that do not answer,
	// and for peers whose Primary may be about to demote.
	PingTimeout time.Duration
	// LostPeer is the additional time `primary` needs after it found a peer
	// dead, until the own disk is UpToDate again.
	LostPeer time.Duration
	// ReconnectMin and ReconnectMax bound the time from a healed network to
	// Connected.
	ReconnectMin, ReconnectMax time.Duration
	// ReaderRefusal is how long `primary` waits before a peer's read-only
	// opener makes it fail.
	ReaderRefusal time.Duration
	// ResyncMin is the shortest resync; ResyncBytesPerSecond its speed.
	ResyncMin            time.Duration
	ResyncBytesPerSecond int64
	// Command is the time a successful role change takes.
	Command time.Duration
}

// DefaultTiming returns DRBD's measured default times.
func DefaultTiming() Timing {
	return Timing{
		DetectMin: 8400 * time.Millisecond, DetectMax: 10600 * time.Millisecond,
		PingTimeout: 530 * time.Millisecond, LostPeer: 730 * time.Millisecond,
		ReconnectMin: 2 * time.Second, ReconnectMax: 4 * time.Second,
		ReaderRefusal: 2 * time.Second,
		ResyncMin:     300 * time.Millisecond, ResyncBytesPerSecond: 100 << 20,
		Command: 30 * time.Millisecond,
	}
}

// ResourceConfig is what one node is told about a resource.
type ResourceConfig struct {
	Name string
	// NodeID is the node's DRBD node id; negative: the Cluster assigns the
	// next free one. It cannot change while the resource is configured.
	NodeID  int
	Volumes []VolumeConfig
	Options ResourceOptions
}

// VolumeConfig is one volume of a resource on one node.
type VolumeConfig struct {
	Number int
	// Minor is the device minor, the same on every node: /dev/drbd<Minor>.
	Minor int
	// SizeBytes is the usable size of the device.
	SizeBytes int64
	// BackingFile is the host's file with the replicated data, the same for
	// all nodes. It must exist; it is extended to SizeBytes, never shrunk.
	BackingFile string
	// Diskless says that this node is a client (intentionally diskless).
	Diskless bool
	// InitialDiskState is used when the volume is first configured on this
	// node; empty means UpToDate. Ignored for Diskless and in adjustments.
	InitialDiskState DiskState
}

// ResourceOptions are the options that are the same on all nodes. Empty
// fields take LINSTOR's defaults (quorum off, io-error).
type ResourceOptions struct {
	Quorum     string
	OnNoQuorum string
	// AutoPromote is only shown by `drbdsetup show`; see the package comment.
	AutoPromote bool
}

// EventKind says what an Event reports.
type EventKind string

// Kinds of events for subscribers.
const (
	// EventInUse reports that the node's resource became Primary (InUse
	// true) or Secondary. LINSTOR's in_use follows it.
	EventInUse EventKind = "in-use"
	// EventDisk reports a new disk state of one volume.
	EventDisk EventKind = "disk"
	// EventQuorum reports won or lost quorum of one volume.
	EventQuorum EventKind = "quorum"
	// EventMayPromote reports a change of events2's may_promote.
	EventMayPromote EventKind = "may-promote"
	// EventConnection reports a connection's new state.
	EventConnection EventKind = "connection"
	// EventRemoved reports that the resource is no longer on the node.
	EventRemoved EventKind = "removed"
)

// Event is one change, told to subscribers in order, outside all locks.
type Event struct {
	Time     time.Time
	Node     string
	Resource string
	Kind     EventKind
	Volume   int       // EventDisk, EventQuorum
	Disk     DiskState // EventDisk
	Yes      bool      // EventInUse, EventQuorum, EventMayPromote
	Peer     string    // EventConnection
	State    string    // EventConnection
}

// Device names one node's device of one volume for a NodeDriver.
type Device struct {
	Resource  string
	Volume    int
	Minor     int
	SizeBytes int64
}

// Opener is a process that holds a device open.
type Opener struct {
	Name     string
	PID      int
	ReadOnly bool
}

// NodeDriver makes devices appear on a node and asks about them. All methods
// are idempotent and may take as long as ctx allows; they are never called
// while the Cluster's lock is held.
type NodeDriver interface {
	Attach(ctx context.Context, node string, device Device) error
	Detach(ctx context.Context, node string, device Device) error
	Resize(ctx context.Context, node string, device Device) error
	// Openers returns who holds the device open (mounts included).
	Openers(ctx context.Context, node string, device Device) ([]Opener, error)
	// Flush drops the node's buffers of the device, so that nothing read in
	// an earlier Primary time is served again.
	Flush(ctx context.Context, node string, device Device) error
}

// API is what LINSTOR's stand-in and the fault injection use of a *Cluster;
// the list is here as the contract, *Cluster implements it.
type API interface {
	// AddNode makes a node known. Nodes start powered on and connected.
	AddNode(name string)
	// Configure brings the resource up on the node or adjusts it (new
	// volumes, removed volumes, other options, diskless to diskful and back).
	// Idempotent. Blocks until the devices are attached on the node.
	// A node whose disk is added while another node has UpToDate data starts
	// Inconsistent and resyncs, unless InitialDiskState says otherwise.
	Configure(ctx context.Context, node string, config ResourceConfig) error
	// Deconfigure takes the resource down on the node; ErrInUse while it is
	// Primary or open. Not configured: nil.
	Deconfigure(ctx context.Context, node, resource string) error
	// Resize extends the volume on all nodes that are up; the others follow
	// when they return. Sizes never shrink.
	Resize(ctx context.Context, resource string, volume int, sizeBytes int64) error
	// SuspendIO suspends all I/O of the resource on all nodes that are up, as
	// `drbdadm suspend-io` everywhere; it returns when no request is in
	// flight, so that backing files can be copied. ResumeIO ends it.
	SuspendIO(ctx context.Context, resource string) error
	ResumeIO(resource string) error
	// Promote and Demote are `drbdsetup primary` and `secondary` on a node;
	// they block for as long as DRBD would. Errors are *StateError.
	Promote(ctx context.Context, node, resource string, force bool) error
	Demote(ctx context.Context, node, resource string, force bool) error
	// State returns what the node knows of the resource.
	State(node, resource string) (State, error)
	// Resources lists the resources configured on the node.
	Resources(node string) []string
	// SetDiskState sets a node's disk state (fault injection, LINSTOR's
	// "never became UpToDate").
	SetDiskState(node, resource string, volume int, state DiskState) error
	// DetachDisk is a disk failure: the volume goes Diskless, a Primary
	// carries on through its peers.
	DetachDisk(node, resource string, volume int) error
	// AttachDisk ends it: the disk is back, Inconsistent, and resyncs.
	AttachDisk(node, resource string, volume int) error
	// Subscribe calls back for each event, in order, from one goroutine, and
	// returns the function that ends it. The callback may call the Cluster.
	Subscribe(func(Event)) (cancel func())
	// PowerOff kills the node: peers notice after the detection time. Its
	// block requests fail, its state is forgotten.
	PowerOff(node string)
	// PowerOn boots it: configured resources come back Secondary. Their
	// devices are attached when the node side registers (Register).
	PowerOn(node string)
	// Register is called when a node's agent has (re)started; it attaches
	// what should be there.
	Register(ctx context.Context, node string) error
	// Partition cuts DRBD's network between nodes that are not in the same
	// set; a node in no set is alone. Heal ends all partitions.
	Partition(sets ...[]string)
	Heal()
	// Pause stops the node's DRBD network and I/O (a hung node) until Unpause.
	Pause(node string)
	Unpause(node string)
	// Violations lists what must never have happened, such as two Primaries.
	Violations() []string
	// ControlHandler serves the nodes: drbdsetup requests and registration.
	ControlHandler() http.Handler
	// ServeBlocks serves the block exports to the nodes until ctx ends.
	ServeBlocks(ctx context.Context, listener net.Listener) error
	// Close releases everything.
	Close()
}

// State is what one node knows of a resource.
type State struct {
	Node, Resource  string
	NodeID          int
	Role            string
	SuspendedUser   bool
	SuspendedQuorum bool
	ForceIOFailures bool
	MayPromote      bool
	PromotionScore  int
	Volumes         []VolumeState
	Connections     []ConnectionState
}

// VolumeState is one volume of a State.
type VolumeState struct {
	Number    int
	Minor     int
	SizeBytes int64
	Disk      DiskState
	Client    bool // intentionally diskless
	Open      bool
	Quorum    bool
}

// ConnectionState is one peer as seen by the node of a State.
type ConnectionState struct {
	Peer     string
	PeerID   int
	State    string // "Connected", "Connecting", ...
	PeerRole string
	Volumes  []PeerVolumeState
}

// PeerVolumeState is one volume of a peer.
type PeerVolumeState struct {
	Number      int
	Disk        DiskState
	Client      bool
	Replication string // "Established", "SyncSource", "SyncTarget", "Off"
	// OutOfSyncBytes is what a running or waiting resync still has to copy.
	OutOfSyncBytes int64
}

// StateError is a refusal of DRBD with its code (-1, -2, -12, -25 ...).
type StateError struct {
	Resource string
	Code     int
	Text     string
	// Info is the kernel's additional text, may be empty.
	Info string
}

func (e *StateError) Error() string { return e.Resource + ": " + e.Text }

// Clock is the time as the Cluster uses it.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f in its own goroutine after d; stop cancels it.
	AfterFunc(d time.Duration, f func()) (stop func())
}
