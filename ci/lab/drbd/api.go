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
//
// Auto-promotion (ResourceOptions.AutoPromote) follows requests, because the
// exports do not see who opens a device: a read on a Secondary is what a
// read-only open allows, a write promotes as the open for writing would have,
// and asking the node who has the device open finds the last close.
package drbd

import (
	"context"
	"errors"
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

// Options configure a Cluster. The zero value is usable: DRBD's
// default times, no node driver (only in-process exports).
type Options struct {
	// Timing replaces DRBD's default detection times.
	Timing *Timing
	// Driver makes the block devices appear on the nodes. Nil: none do.
	Driver NodeDriver
	// Address, when set, names the address of a node that DRBD's paths show.
	// Nothing connects to it.
	Address func(node string) string
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
	// LostPeerMin and LostPeerMax bound the additional time `primary` needs
	// after it found a peer dead: the other peers have to find out as well
	// before the own disk is UpToDate again.
	LostPeerMin, LostPeerMax time.Duration
	// ReconnectMin and ReconnectMax bound the time from a healed network to
	// Connected.
	ReconnectMin, ReconnectMax time.Duration
	// ConnectMin and ConnectMax bound the time from a node's start to Connected.
	ConnectMin, ConnectMax time.Duration
	// Settle is how long a lost connection stays in NetworkFailure and
	// Unconnected before DRBD tries to connect again.
	Settle time.Duration
	// AutoPromoteTimeout is how long an open for writing goes on trying to
	// promote before it is refused.
	AutoPromoteTimeout time.Duration
	// ReaderRefusal is how long `primary` waits before a peer's read-only
	// opener makes it fail.
	ReaderRefusal time.Duration
	// ResyncMin is the shortest resync; ResyncBytesPerSecond its speed.
	ResyncMin            time.Duration
	ResyncBytesPerSecond int64
}

// DefaultTiming returns DRBD's measured default times.
func DefaultTiming() Timing {
	return Timing{
		DetectMin: 8400 * time.Millisecond, DetectMax: 10600 * time.Millisecond,
		PingTimeout: 520 * time.Millisecond,
		LostPeerMin: 510 * time.Millisecond, LostPeerMax: 720 * time.Millisecond,
		ReconnectMin: 2 * time.Second, ReconnectMax: 4 * time.Second,
		ConnectMin: 1000 * time.Millisecond, ConnectMax: 1500 * time.Millisecond,
		Settle:             60 * time.Millisecond,
		AutoPromoteTimeout: 2 * time.Second,
		ReaderRefusal:      2 * time.Second,
		ResyncMin:          300 * time.Millisecond, ResyncBytesPerSecond: 100 << 20,
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
	// node or a client gets a disk. Empty: UpToDate when nobody has written
	// to the volume yet, else Inconsistent with a full resync. Ignored for
	// clients and for volumes whose disk is there already.
	InitialDiskState DiskState
}

// ResourceOptions are the options that are the same on all nodes. Empty
// fields take LINSTOR's defaults (quorum off, io-error).
type ResourceOptions struct {
	Quorum     string
	OnNoQuorum string
	// OnSuspendedPrimaryOutdated is "disconnect" (DRBD's default) or
	// "force-secondary" (Piraeus): what a suspended Primary does when it meets
	// newer data.
	OnSuspendedPrimaryOutdated string
	// AutoPromote is DRBD's auto-promote (its and LINSTOR's default is yes):
	// without it a Secondary serves no request.
	AutoPromote bool
	// TwoPrimaries is DRBD's net option allow-two-primaries: two connected
	// Primaries are then no violation.
	TwoPrimaries bool
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
	// Since is when it was opened; zero when that is not known.
	Since time.Time
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
	// Open is what the last look at the node found (Openers); drbd-utils 9.22
	// does not print it.
	Open   bool
	Quorum bool
	// ReadBytes and WrittenBytes count what this node did.
	ReadBytes, WrittenBytes int64
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
	// ResyncSuspended is "no" or why a resync over this connection waits.
	ResyncSuspended string
	// OutOfSyncBytes is what a running or waiting resync still has to copy,
	// DonePercent what a running one has done (-1: none runs).
	OutOfSyncBytes int64
	DonePercent    float64
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
