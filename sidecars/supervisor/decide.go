package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Action is the one thing to do next for an export on this node.
type Action string

// The actions.
const (
	// Nothing is to be done here.
	Nothing Action = "Nothing"
	// Keep what serves as it is: bring status and endpoint up to date.
	Keep Action = "Keep"
	// Adopt a running server that an earlier supervisor process started.
	Adopt Action = "Adopt"
	// Start a server: all steps, each taking what is in place already.
	Start Action = "Start"
	// Restart the server on this node, with the volumes as they are.
	Restart Action = "Restart"
	// Stop serving and release everything; see Decision.Fence.
	Stop Action = "Stop"
	// Grow the filesystem that is served here.
	Grow Action = "Grow"
	// GrowIdle promotes, grows and releases an export that nobody serves.
	GrowIdle Action = "GrowIdle"
	// Describe writes the status of an export that nobody serves.
	Describe Action = "Describe"
	// Prepare gets ready for an export that a peer hands over.
	Prepare Action = "Prepare"
	// TakeOver tries to promote what a silent peer serves.
	TakeOver Action = "TakeOver"
	// HandOver stops the server here for the node in Decision.To.
	HandOver Action = "HandOver"
	// RefuseMove takes a request to move back.
	RefuseMove Action = "RefuseMove"
	// Unfreeze lets clients learn that the server here has ended.
	Unfreeze Action = "Unfreeze"
	// Withdraw removes the finalizer: nobody serves any more.
	Withdraw Action = "Withdraw"
)

// The reasons of decisions, as they appear in conditions and events.
const (
	ReasonIdle            = "Idle"
	ReasonServing         = "Serving"
	ReasonGrace           = "Grace"
	ReasonNoQuorum        = "NoQuorum"
	ReasonNotUpToDate     = "NotUpToDate"
	ReasonNoReplica       = "NoReplica"
	ReasonMayNotPromote   = "MayNotPromote"
	ReasonVolumeMissing   = "VolumeMissing"
	ReasonDemoted         = "Demoted"
	ReasonIOError         = "IOError"
	ReasonWithdrawn       = "Withdrawn"
	ReasonWithdrawWaits   = "WithdrawWaits"
	ReasonOrphaned        = "Orphaned"
	ReasonServedElsewhere = "ServedElsewhere"
	ReasonStale           = "Stale"
	ReasonDied            = "Died"
	ReasonHung            = "Hung"
	ReasonKeepsFailing    = "KeepsFailing"
	ReasonLauncherDown    = "LauncherDown"
	ReasonStartFailed     = "StartFailed"
	ReasonLeaving         = "PodEnds"
	ReasonReplaced        = "PodReplaced"
	ReasonMoveDone        = "MoveDone"
	ReasonMoveRefused     = "MoveRefused"
	ReasonPeerSilent      = "PeerSilent"
	ReasonIsolated        = "Isolated"
)

const (
	// writerStagger is how long each supervisor waits for the one before it to
	// write what only one of them needs to write.
	writerStagger = 5 * time.Second
	// contradictAfter is how often this node insists on its reason after another node
	// has given another: both may be right, and they must not race.
	contradictAfter = time.Minute
	// complainAfter is how long an export may be wanted and unserved before that
	// is worth a condition: states pass while connections come up.
	complainAfter = 4 * time.Second
	// strayAfter is how long this node may be Primary without using the device
	// before it is demoted. A LINSTOR satellite that makes a filesystem is Primary
	// for a moment as well.
	strayAfter = 10 * time.Second
	// growthInterval is how often a device is looked at that is to grow.
	growthInterval = 3 * time.Second
	// launcherPatience is how long a server may be without its launcher, whose
	// container kubelet starts again, before others get their chance.
	launcherPatience = 10 * time.Second
	// besidePause is how soon an export is looked at again that another pod of this
	// node serves.
	besidePause = 500 * time.Millisecond
	// restartLimit restarts in place within restartWindow are enough.
	restartLimit  = 3
	restartWindow = time.Minute
)

// Decision is what to do next and why.
type Decision struct {
	Action  Action
	Reason  string
	Message string
	// Fence: the server must be gone before anything else happens. It is killed,
	// its mounts are detached lazily and the demotion is forced if need be.
	Fence bool
	// Freeze keeps the clients of a stopped server waiting until another one
	// serves, and leaves the endpoint to that one.
	Freeze bool
	// Keep leaves the volumes mounted and Primary for the next supervisor of this
	// node.
	Keep bool
	// To is the node that shall serve next.
	To string
	// After is when to look again without a trigger; 0: no need to.
	After time.Duration
}

func nothing(after time.Duration) Decision { return Decision{Action: Nothing, After: after} }

// decide says what to do next. It is pure: the same facts give the same answer.
func decide(s Settings, f Facts) Decision {
	if f.Passive {
		if decision, ok := decideFrozen(f); ok && decision.Action == Unfreeze {
			return decision
		}
		if f.Beside && f.wanted() && complete(f.Export) && !f.Prepared && !f.Leaving {
			return Decision{Action: Prepare, Message: "the pod before this one serves it"}
		}
		return nothing(0)
	}
	if f.Beside {
		if reason, message := mustFence(f); f.mounted() && reason != "" {
			// It may hang in I/O that only a forced demotion ends.
			return Decision{Action: Stop, Fence: true, Freeze: f.wanted(), Reason: reason, Message: message}
		}
		// Two servers must never write to the same files. That pod is about to end.
		return nothing(besidePause)
	}
	decision := decideNext(s, f)
	decision.Freeze = decision.Action == Stop && f.holding() && f.wanted()
	return decision
}

func decideNext(s Settings, f Facts) Decision {
	if f.Export == nil {
		if f.holding() || f.Intent != nil || f.SliceHere {
			return Decision{Action: Stop, Reason: ReasonOrphaned, Message: "the NFSExport is gone"}
		}
		return nothing(0)
	}
	if f.holding() {
		// First of all: a server that must not write must not live.
		if reason, message := mustFence(f); reason != "" {
			return Decision{Action: Stop, Fence: true, Reason: reason, Message: message}
		}
	}
	if !f.Export.DeletionTimestamp.IsZero() {
		return decideDeleted(f)
	}
	if f.Resource != nil && f.Resource.PrimaryPeer() != "" {
		return decideServedElsewhere(f)
	}
	if !complete(f.Export) {
		return nothing(0) // the provisioner's next write triggers
	}
	if f.holding() || (f.Server != nil && f.primary()) {
		return decideHeld(s, f)
	}
	return decideFree(f)
}

// decideServedElsewhere is for an export that a peer is Primary of.
func decideServedElsewhere(f Facts) Decision {
	if decision, ok := decideFrozen(f); ok {
		return decision
	}
	if f.holding() || f.Server != nil || f.SliceHere || f.Intent != nil {
		return Decision{Action: Stop, Fence: f.holding(), Reason: ReasonServedElsewhere,
			Message: fmt.Sprintf("node %s is Primary", f.Resource.PrimaryPeer())}
	}
	if f.handedTo() == f.Node && f.wanted() && !f.Prepared && !f.Leaving {
		return Decision{Action: Prepare, Message: "node " + f.Resource.PrimaryPeer() + " hands it over"}
	}
	return decideSuspicion(f)
}

// decideSuspicion tries to take over what a silent peer is Primary of. DRBD asks
// the peer itself and refuses if it lives, so a try costs it nothing.
func decideSuspicion(f Facts) Decision {
	peer := f.suspect()
	if peer == "" || !f.wanted() || !complete(f.Export) || f.Leaving || f.LauncherDown {
		return nothing(0)
	}
	if reason, _ := fitToServe(*f.Resource); reason != "" || f.Resource.ForceIOFailures {
		return nothing(0)
	}
	wait := max(f.Timers.NotBefore.Sub(f.Now), turnDelay(f)-f.Now.Sub(f.Timers.Suspected))
	if wait > 0 {
		return nothing(wait)
	}
	return Decision{Action: TakeOver, Reason: ReasonPeerSilent, Message: "no ganesha-supervisor answers on node " + peer + ", which is Primary"}
}

// mustFence says why this node has to let go at once, or "".
func mustFence(f Facts) (reason, message string) {
	resource := f.Resource
	switch {
	case resource == nil:
		return ReasonDemoted, "DRBD on this node does not know the resource any more"
	case resource.ForceIOFailures:
		return ReasonDemoted, "the resource was demoted by force"
	case resource.Role != drbd.RolePrimary:
		return ReasonDemoted, "this node is not Primary any more"
	case resource.Suspended.Quorum || !resource.HasQuorum():
		return ReasonNoQuorum, "DRBD lost quorum on this node"
	case resource.Suspended.NoData:
		return ReasonIOError, "no replica with good data can be reached"
	case f.Data != nil && f.Data.ReadOnly:
		return ReasonIOError, "the data volume became read-only, as after an I/O error"
	case f.Recovery != nil && f.Recovery.ReadOnly:
		return ReasonIOError, "the recovery volume became read-only, as after an I/O error"
	}
	// Suspended.User is a snapshot being taken: it passes, clients only wait.
	return "", ""
}

// decideHeld is for an export whose volumes this node uses and may use.
func decideHeld(s Settings, f Facts) Decision {
	if !f.wanted() {
		if f.serving() && f.Server == nil && f.Intent != nil && !f.Leaving {
			return Decision{Action: Adopt, Reason: ReasonServing}
		}
		idle := f.Now.Sub(f.Timers.Idle)
		if f.serving() && idle < s.IdleTimeout && !f.Leaving {
			return Decision{Action: Keep, Reason: ReasonServing, After: s.IdleTimeout - idle}
		}
		return Decision{Action: Stop, Reason: ReasonIdle, Message: "no node is attached"}
	}
	if f.Leaving && f.Awaited && !f.running() {
		return nothing(0) // the next supervisor of this node goes on from here
	}
	if f.Leaving {
		decision, _ := decideHandOver(f)
		return decision
	}
	if f.LauncherDown {
		if down := f.Now.Sub(f.Timers.LauncherDown); down < launcherPatience {
			return nothing(500 * time.Millisecond)
		}
		return Decision{Action: Stop, Reason: ReasonLauncherDown, Message: "ganesha-launcher on this node does not answer"}
	}
	if f.serving() && f.Server == nil && f.Intent != nil && f.Intent.Export == f.Name {
		return Decision{Action: Adopt, Reason: ReasonServing}
	}
	if !f.serving() || f.Server == nil {
		if f.Server == nil && !f.running() {
			return Decision{Action: Start, Message: "volumes are mounted here already"}
		}
		if f.running() {
			return restart(f, ReasonDied, "a ganesha runs that nobody answers for")
		}
		return restart(f, ReasonDied, "ganesha ended")
	}
	// A snapshot suspends I/O, and a server that waits for it does not answer.
	if f.Observed.Failures >= s.ProbeFailures && !f.Resource.Suspended.User {
		return restart(f, ReasonHung, "ganesha does not answer: "+f.Observed.Error)
	}
	if decision, ok := decideIsolated(f); ok {
		return decision
	}
	if decision, ok := decideHandOver(f); ok {
		return decision
	}
	if device, ok := f.Resource.Device(names.DataVolume); ok && device.SizeBytes > f.Server.DeviceBytes {
		if !f.Now.Before(f.Server.GrowAfter) {
			return Decision{Action: Grow, Message: "the device has grown"}
		}
		return Decision{Action: Keep, Reason: ReasonServing, After: f.Server.GrowAfter.Sub(f.Now)}
	}
	if f.awaitsGrowth() {
		return Decision{Action: Keep, Reason: ReasonServing, After: growthInterval}
	}
	return Decision{Action: Keep, Reason: ReasonServing, After: max(0, f.Timers.HandOverAfter.Sub(f.Now))}
}

// restart is in place, as long as that helps; then others get their chance.
func restart(f Facts, reason, message string) Decision {
	if len(f.Timers.Restarts) >= restartLimit {
		return Decision{Action: Stop, Reason: ReasonKeepsFailing,
			Message: fmt.Sprintf("%d restarts within %s did not help: %s", len(f.Timers.Restarts), restartWindow, message)}
	}
	return Decision{Action: Restart, Reason: reason, Message: message}
}

// decideFree is for an export that no known Primary uses.
func decideFree(f Facts) Decision {
	stale := Decision{Action: Stop, Reason: ReasonStale, Message: "clean up after an earlier server"}
	if f.Resource == nil {
		if f.SliceHere || f.Server != nil || f.Intent != nil {
			return stale
		}
		return nothing(0)
	}
	if !f.wanted() {
		return decideIdle(f, stale)
	}
	if f.Leaving {
		decision, ok := decideStale(f, stale)
		if !ok {
			return nothing(0)
		}
		return decision
	}
	if f.LauncherDown {
		return nothing(time.Second)
	}
	if wait := f.Timers.NotBefore.Sub(f.Now); wait > 0 {
		return nothing(wait)
	}
	if reason, message := mayServe(*f.Resource); reason != "" {
		if decision, ok := decideStale(f, stale); ok {
			return decision
		}
		return decideRefusal(f, reason, message)
	}
	if !f.primary() {
		if wait := turnDelay(f) - f.Now.Sub(f.Timers.Wanted); wait > 0 {
			return nothing(wait)
		}
	}
	return Decision{Action: Start}
}

// decideIdle is for an export that nobody needs now.
func decideIdle(f Facts, stale Decision) Decision {
	if decision, ok := decideStale(f, stale); ok {
		return decision
	}
	reason, message := mayServe(*f.Resource)
	if f.outgrown() && reason == "" && !f.Now.Before(f.Timers.NotBefore) {
		if wait := turnDelay(f) - f.Now.Sub(f.Timers.Outgrown); wait > 0 {
			return nothing(wait)
		}
		return Decision{Action: GrowIdle, Message: "the device has grown while nobody is attached"}
	}
	if reason == "" || (reason == ReasonNotUpToDate && len(upToDateNodes(f)) > 1) {
		reason, message = ReasonIdle, "no node is attached; the next attach starts the server"
	}
	decision := nothing(0)
	if reason != ReasonNoReplica { // those that have one know more
		decision = describe(f, reason, message)
	}
	switch wait := f.Timers.NotBefore.Sub(f.Now); {
	case decision.After != 0:
	case f.outgrown() && wait > 0:
		decision.After = wait
	case f.awaitsGrowth():
		decision.After = growthInterval
	}
	return decision
}

// decideStale cleans up what an earlier server left, if this node is not going
// to serve.
func decideStale(f Facts, stale Decision) (Decision, bool) {
	if decision, ok := decideFrozen(f); ok {
		return decision, true
	}
	if f.primary() {
		// Without quorum an ordinary demotion may hang.
		reason, _ := mustFence(f)
		stale.Fence = reason != ""
	}
	if f.SliceHere || f.Server != nil || f.Intent != nil {
		return stale, true
	}
	if !f.primary() {
		return Decision{}, false
	}
	if wait := strayAfter - f.Now.Sub(f.Timers.Stray); wait > 0 {
		return nothing(wait), true
	}
	return stale, true
}

// decideRefusal is for an export that is wanted and must not be served here.
func decideRefusal(f Facts, reason, message string) Decision {
	if wait := complainAfter - f.Now.Sub(f.Timers.Wanted); wait > 0 {
		return nothing(wait)
	}
	if reason == ReasonNoReplica {
		if replicaConnected(*f.Resource) {
			return nothing(0) // those that have one decide
		}
		reason, message = ReasonNotUpToDate, "node "+f.Node+" has no replica and can reach none"
	}
	return describe(f, reason, message)
}

// replicaConnected says whether a node with a replica is there to speak.
func replicaConnected(resource drbd.Resource) bool {
	return slices.ContainsFunc(resource.Connections, func(c drbd.Connection) bool {
		return c.State == drbd.ConnectionConnected && slices.ContainsFunc(c.PeerDevices, func(d drbd.PeerDevice) bool {
			return !d.Client && d.DiskState != drbd.DiskDiskless
		})
	})
}

// describe lets one supervisor after the other write the status of an export
// that nobody serves, until one has.
func describe(f Facts, reason, message string) Decision {
	decision := Decision{Action: Describe, Reason: reason, Message: message}
	if mayBeServedUnseen(f) {
		return nothing(writerStagger)
	}
	if !changesMeaning(f.Export.Status, unservedStatus(f, decision)) {
		return nothing(0)
	}
	if wait := time.Duration(speakRank(f))*writerStagger - f.Now.Sub(f.Timers.Unserved); wait > 0 {
		return nothing(wait)
	}
	if wait := contradictAfter - f.Now.Sub(f.Timers.Described); f.Timers.DescribedAs == reason && wait > 0 {
		return nothing(wait)
	}
	return decision
}

// mayServe says why this node must not serve now, or "". Only DRBD's answer to a
// promotion is the last word.
func mayServe(resource drbd.Resource) (reason, message string) {
	if reason, message = fitToServe(resource); reason != "" || resource.Role == drbd.RolePrimary {
		return reason, message
	}
	if ok, why := resource.MayPromote(); !ok {
		return ReasonMayNotPromote, why
	}
	return "", ""
}

// fitToServe says why this node must not serve whoever is Primary now, or "".
func fitToServe(resource drbd.Resource) (reason, message string) {
	for _, volume := range []int{names.DataVolume, names.RecoveryVolume} {
		device, ok := resource.Device(volume)
		switch {
		case !ok:
			return ReasonVolumeMissing, fmt.Sprintf("volume %d is not there yet", volume)
		case device.Client || device.DiskState == drbd.DiskDiskless:
			return ReasonNoReplica, fmt.Sprintf("this node has no replica of volume %d", volume)
		case device.DiskState != drbd.DiskUpToDate:
			return ReasonNotUpToDate, fmt.Sprintf("the replica of volume %d is %s", volume, device.DiskState)
		}
	}
	if !resource.HasQuorum() {
		return ReasonNoQuorum, "no quorum: too few nodes of the volume can be reached"
	}
	return "", ""
}

// decideDeleted is for an export whose volume is to be deleted.
func decideDeleted(f Facts) Decision {
	here := f.holding() || f.Server != nil || f.SliceHere || f.Intent != nil
	if f.primary() && (here || f.Now.Sub(f.Timers.Stray) >= strayAfter || f.Export.Status.Node == f.Node) {
		here = true
	}
	if here {
		return Decision{Action: Stop, Reason: ReasonWithdrawn, Message: "the export is deleted"}
	}
	if !hasFinalizer(f.Export) {
		return nothing(0)
	}
	if f.primary() {
		return nothing(strayAfter - f.Now.Sub(f.Timers.Stray))
	}
	return decideWithdraw(f)
}

// phaseOf is the phase of an export that nobody serves for this reason.
func phaseOf(reason string) v1alpha1.Phase {
	switch reason {
	case ReasonIdle:
		return v1alpha1.PhaseIdle
	case ReasonWithdrawn, ReasonWithdrawWaits:
		return v1alpha1.PhaseTerminating
	case ReasonVolumeMissing, ReasonMayNotPromote, ReasonServedElsewhere, ReasonStale:
		return v1alpha1.PhasePending
	}
	return v1alpha1.PhaseFailed
}
