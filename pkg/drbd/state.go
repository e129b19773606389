package drbd

// MayPromote says whether a promotion is likely to be accepted, and if not, why.
// It is the rule by which drbdsetup computes may_promote for events2; `status`
// does not report it. It is an estimate: only Tool.Primary asks the peers.
func (r Resource) MayPromote() (bool, string) { return false, "not implemented" }

// PrimaryPeer returns the name of the connected peer that is Primary, or "".
func (r Resource) PrimaryPeer() string { return "" }

// HasQuorum says whether every device has quorum. A resource without devices
// has none.
func (r Resource) HasQuorum() bool { return false }
