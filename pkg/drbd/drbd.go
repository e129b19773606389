// Package drbd reads and changes the state of this node's DRBD resources
// through drbdsetup (drbd-utils 9, API 2). It knows the state of DRBD, not what
// the resource is used for: it neither mounts nor decides.
//
// It never forces a promotion: `primary --force` without quorum is accepted by
// DRBD and ends in a split brain.
package drbd

import (
	"errors"
	"fmt"
)

// The roles, disk and connection states that decide whether a resource may be
// promoted (drbd-headers/drbd_strings.c). Other states are passed through as
// the text that drbdsetup prints.
const (
	RolePrimary   = "Primary"
	RoleSecondary = "Secondary"

	DiskUpToDate     = "UpToDate"
	DiskInconsistent = "Inconsistent"
	DiskOutdated     = "Outdated"
	DiskConsistent   = "Consistent"
	DiskDiskless     = "Diskless"
	DiskUnknown      = "DUnknown"

	ConnectionConnected = "Connected"
)

// The codes of RefusedError that DRBD 9.2 was seen to give
// (drbd-headers/drbd.h, enum drbd_state_rv).
const (
	// TwoPrimaries: another live node is Primary.
	TwoPrimaries = -1
	// NoUpToDateDisk: no node that can be reached has good data of every volume.
	NoUpToDateDisk = -2
	// RefusedByPeer: a peer declined, for instance because it holds the device
	// open for reading.
	RefusedByPeer = -10
	// HeldOpen: a device of the resource is open here, so it cannot be demoted.
	HeldOpen = -12
	// InTransientState: try again after the next change of state.
	InTransientState = -18
	// WeaklyConnected: a node that can be reached through others only is Primary.
	// Not seen, but in DRBD's source: connections come back one by one.
	WeaklyConnected = -24
	// NoQuorum: this node is in a minority.
	NoQuorum = -25
)

// ErrUnknownResource is returned when DRBD on this node has no such resource:
// it is not deployed here, or not brought up yet.
var ErrUnknownResource = errors.New("unknown DRBD resource")

// RefusedError is DRBD's refusal to change a state. The state is unchanged.
type RefusedError struct {
	// Resource is the name of the resource.
	Resource string
	// Code is DRBD's own number of the reason, always negative; see the
	// constants.
	Code int
	// Text is DRBD's explanation, with the kernel's additional information
	// (which process holds the device open, which peer declined).
	Text string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("DRBD refused to change the state of resource %s: (%d) %s", e.Resource, e.Code, e.Text)
}

// Resource is the state of a resource as this node sees it.
type Resource struct {
	// Name is the name of the resource, in LINSTOR that of the resource
	// definition (or its layer's own name).
	Name string
	// Role is RolePrimary or RoleSecondary.
	Role string
	// Suspended says why I/O is suspended, if it is.
	Suspended Suspended
	// ForceIOFailures: the resource was demoted by force while it was open. All
	// I/O fails and no promotion is possible until every opener is gone.
	ForceIOFailures bool
	Devices         []Device
	Connections     []Connection
}

// Suspended says why the I/O of a resource is suspended: writers hang.
type Suspended struct {
	// User: by drbdsetup suspend-io, as LINSTOR does for a snapshot.
	User bool
	// NoData: no node with good data can be reached.
	NoData bool
	// Fencing: a fencing handler is running.
	Fencing bool
	// Quorum: quorum is lost and on-no-quorum is suspend-io.
	Quorum bool
}

// Any says whether I/O is suspended for any reason.
func (s Suspended) Any() bool { return s.User || s.NoData || s.Fencing || s.Quorum }

// Device is one volume of a resource on this node.
type Device struct {
	// Volume is LINSTOR's VolNr.
	Volume int
	Minor  int
	// DiskState is the state of the local replica.
	DiskState string
	// Client: this node has no replica by intention.
	Client bool
	// Open is reported by drbd-utils newer than 9.22 only; otherwise it is
	// false, so it may be shown but must not be relied upon.
	Open bool
	// Quorum: this node belongs to the majority, or quorum is off.
	Quorum bool
	// SizeBytes is the usable size; 0 while it is not known.
	SizeBytes int64
}

// Path is the path of the device's node.
func (d Device) Path() string { return DevicePath(d.Minor) }

// Connection is this node's connection to one peer.
type Connection struct {
	// Name is the name of the peer's node.
	Name string
	// State is ConnectionConnected or what DRBD calls the trouble.
	State string
	// PeerRole is "Unknown" unless connected.
	PeerRole    string
	PeerDevices []PeerDevice
}

// PeerDevice is the state of one volume on a peer.
type PeerDevice struct {
	Volume    int
	DiskState string
	// Replication is "Established" when nothing needs to be synchronised.
	Replication string
	// Client: the peer has no replica by intention.
	Client bool
}

// DevicePath returns the path of the device with this minor number. Links by
// resource name come from udev and may be missing in a container.
func DevicePath(minor int) string { return fmt.Sprintf("/dev/drbd%d", minor) }

// Device returns the volume with this number.
func (r Resource) Device(volume int) (Device, bool) {
	for _, device := range r.Devices {
		if device.Volume == volume {
			return device, true
		}
	}
	return Device{}, false
}
