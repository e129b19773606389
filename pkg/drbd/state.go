package drbd

import "fmt"

// MayPromote says whether a promotion is likely to be accepted, and if not, why.
// It is the rule by which drbdsetup computes may_promote for events2
// (drbdsetup_events2.c, compute_promotion_info); `status` does not report it. It
// is an estimate: only Tool.Primary asks the peers, and only it can find out
// that a Primary is dead. It is stricter than drbd-utils 9.22 in one point, as
// newer versions are: a resource that was demoted by force may not.
func (r Resource) MayPromote() (bool, string) {
	if len(r.Devices) == 0 {
		return false, "the resource has no devices yet"
	}
	if r.ForceIOFailures {
		return false, "the resource was demoted by force and is still open"
	}
	for _, device := range r.Devices {
		if !device.Quorum {
			return false, fmt.Sprintf("volume %d has no quorum", device.Volume)
		}
		if !r.hasUpToDateReplica(device) {
			return false, fmt.Sprintf("volume %d has no UpToDate replica in reach, the local one is %s", device.Volume, device.DiskState)
		}
	}
	if r.Role == RolePrimary {
		return false, "the resource is Primary already"
	}
	if peer := r.PrimaryPeer(); peer != "" {
		return false, "the resource is Primary on " + peer
	}
	return true, ""
}

func (r Resource) hasUpToDateReplica(device Device) bool {
	if device.DiskState == DiskUpToDate {
		return true
	}
	for _, connection := range r.Connections {
		for _, peer := range connection.PeerDevices {
			if peer.Volume == device.Volume && peer.DiskState == DiskUpToDate {
				return true
			}
		}
	}
	return false
}

// PrimaryPeer returns the name of the connected peer that is Primary, or "".
func (r Resource) PrimaryPeer() string {
	for _, connection := range r.Connections {
		if connection.PeerRole == RolePrimary {
			return connection.Name
		}
	}
	return ""
}

// HasQuorum says whether every device has quorum. A resource without devices
// has none.
func (r Resource) HasQuorum() bool {
	for _, device := range r.Devices {
		if !device.Quorum {
			return false
		}
	}
	return len(r.Devices) > 0
}

// LocalDisk returns the worst state of the local replicas, in the order in which
// a node is fit to serve: UpToDate, Consistent, Outdated, Inconsistent, and all
// others (Diskless, Failed ...). A resource without devices is DiskUnknown.
func (r Resource) LocalDisk() string {
	worst := DiskUnknown
	for i, device := range r.Devices {
		if i == 0 || diskRank(device.DiskState) < diskRank(worst) {
			worst = device.DiskState
		}
	}
	return worst
}

func diskRank(state string) int {
	switch state {
	case DiskUpToDate:
		return 4
	case DiskConsistent:
		return 3
	case DiskOutdated:
		return 2
	case DiskInconsistent:
		return 1
	}
	return 0
}
