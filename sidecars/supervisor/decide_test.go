package supervisor

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/filesystem"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// resourceWithPeers is a healthy Secondary with healthy, connected peers.
func resourceWithPeers(peers ...string) *drbd.Resource {
	r := &drbd.Resource{Name: testExport, Role: drbd.RoleSecondary}
	for volume := range 2 {
		r.Devices = append(r.Devices, drbd.Device{Volume: volume, Minor: 1000 + volume, DiskState: drbd.DiskUpToDate, Quorum: true, SizeBytes: gib})
	}
	for _, peer := range peers {
		c := drbd.Connection{Name: peer, State: drbd.ConnectionConnected, PeerRole: drbd.RoleSecondary}
		for volume := range 2 {
			c.PeerDevices = append(c.PeerDevices, drbd.PeerDevice{Volume: volume, DiskState: drbd.DiskUpToDate, Replication: "Established"})
		}
		r.Connections = append(r.Connections, c)
	}
	return r
}

// fact changes one thing about an export that is attached, healthy and not
// served by anybody.
type fact func(f *Facts)

func facts(changes ...fact) Facts {
	f := Facts{Now: noon, Node: "n1", Name: testExport, Export: newExport(), Attached: true, Resource: resourceWithPeers("n2")}
	f.Export.Status.Node = "n1" // it is this node's turn
	f.Timers = Timers{Wanted: noon, Unserved: noon}
	for _, change := range changes {
		change(&f)
	}
	return f
}

func beside(f *Facts) { f.Beside = true }
func isolated(f *Facts) {
	f.Isolated = true
	f.Peers = map[string]heartbeat.Peer{"n2": {State: heartbeat.State{Ready: true}, Heard: noon.Add(-isolatedAfter), Silent: true}}
}

func mounted(f *Facts) {
	f.Resource.Role = drbd.RolePrimary
	f.Data, f.Recovery = &filesystem.Mount{}, &filesystem.Mount{}
	f.Timers.Wanted, f.Timers.Unserved = time.Time{}, time.Time{}
}

func running(f *Facts) {
	mounted(f)
	f.Process = &ganesha.ProcessState{Running: true}
	f.Intent = &Intent{Export: testExport, Port: 20497}
}

func known(f *Facts) {
	running(f)
	f.Server = &Server{Intent: Intent{DeviceBytes: gib}}
	f.Observed.At = noon
}

func detached(since time.Duration) fact {
	return func(f *Facts) { f.Attached = false; f.Timers.Idle = noon.Add(-since) }
}

func deleted(age time.Duration) fact {
	return func(f *Facts) {
		at := metav1.NewTime(noon.Add(-age))
		f.Export.DeletionTimestamp = &at
	}
}

func peerPrimary(f *Facts) { f.Resource.Connections[0].PeerRole = drbd.RolePrimary }
func noQuorum(f *Facts) {
	for i := range f.Resource.Devices {
		f.Resource.Devices[i].Quorum = false
	}
}
func noResource(f *Facts) { f.Resource = nil }
func noExport(f *Facts)   { f.Export = nil }
func sliceHere(f *Facts)  { f.SliceHere = true }
func disconnected(f *Facts) {
	f.Resource.Connections[0].State, f.Resource.Connections[0].PeerRole = "Connecting", "Unknown"
	for i := range f.Resource.Connections[0].PeerDevices {
		f.Resource.Connections[0].PeerDevices[i].DiskState = drbd.DiskUnknown
	}
}
func lastServer(name string) fact { return func(f *Facts) { f.Export.Status.Node = name } }
func diskIs(volume int, state string) fact {
	return func(f *Facts) { f.Resource.Devices[volume].DiskState = state }
}
func larger(f *Facts) { f.Export.Spec.Size.Set(2 * gib) }
func outgrown(since time.Duration) fact {
	return func(f *Facts) { f.Export.Status.DeviceBytes = gib / 2; f.Timers.Outgrown = noon.Add(-since) }
}
func waited(d time.Duration) fact {
	return func(f *Facts) { f.Timers.Wanted, f.Timers.Unserved = noon.Add(-d), noon.Add(-d) }
}

func TestDecide(t *testing.T) {
	settings := Settings{IdleTimeout: 30 * time.Second, ProbeFailures: 3}
	for _, test := range []struct {
		name   string
		facts  Facts
		action Action
		reason string
		fence  bool
		after  time.Duration
	}{
		// Nobody serves.
		{"attached and healthy: start at once", facts(), Start, "", false, 0},
		{"another node goes first", facts(lastServer("n2")), Nothing, "", false, turnStagger},
		{"another node had its time", facts(lastServer("n2"), waited(turnStagger)), Start, "", false, 0},
		{"a cordoned node lets others go first", facts(func(f *Facts) { f.Cordoned = true }), Nothing, "", false, turnStagger + cordonDelay},
		{"a cordoned node that is the only one starts", facts(disconnected, func(f *Facts) { f.Cordoned = true }), Start, "", false, 0},
		{"the last server is not connected: no wait for it", facts(lastServer("n2"), disconnected), Start, "", false, 0},
		{"not complete yet", facts(func(f *Facts) { f.Export.Spec.ExportID = 0 }), Nothing, "", false, 0},
		{"no service yet", facts(func(f *Facts) { f.Export.Spec.Service = nil }), Nothing, "", false, 0},
		{"the resource is not here", facts(noResource), Nothing, "", false, 0},
		{"a peer is Primary", facts(peerPrimary), Nothing, "", false, 0},
		{"Primary already, with nothing of ours: go on from there", facts(func(f *Facts) { f.Resource.Role = drbd.RolePrimary }), Start, "", false, 0},
		{"after a failed start: wait", facts(func(f *Facts) { f.Timers.NotBefore = noon.Add(7 * time.Second) }), Nothing, "", false, 7 * time.Second},
		{"the launcher is down", facts(func(f *Facts) { f.LauncherDown = true }), Nothing, "", false, time.Second},
		{"old mounts, no server: go on from there", facts(mounted), Start, "", false, 0},
		{"an old endpoint does not hinder a start", facts(sliceHere), Start, "", false, 0},

		// Must not serve.
		{"no quorum: not at once a complaint", facts(noQuorum), Nothing, "", false, complainAfter},
		{"no quorum", facts(noQuorum, waited(time.Minute)), Describe, ReasonNoQuorum, false, 0},
		{"Inconsistent", facts(diskIs(0, drbd.DiskInconsistent), waited(time.Minute)), Describe, ReasonNotUpToDate, false, 0},
		{"only the recovery volume is Outdated", facts(diskIs(1, drbd.DiskOutdated), waited(time.Minute)), Describe, ReasonNotUpToDate, false, 0},
		{"Diskless: others decide", facts(diskIs(0, drbd.DiskDiskless), waited(time.Minute)), Nothing, "", false, 0},
		{"Diskless, and no node with a replica is there to decide", facts(diskIs(0, drbd.DiskDiskless), disconnected, waited(time.Minute)), Describe, ReasonNotUpToDate, false, 0},
		{"the recovery volume is missing", facts(func(f *Facts) { f.Resource.Devices = f.Resource.Devices[:1] }, waited(time.Minute)), Describe, ReasonVolumeMissing, false, 0},
		{"demoted by force and still open", facts(func(f *Facts) { f.Resource.ForceIOFailures = true }, waited(time.Minute)), Describe, ReasonMayNotPromote, false, 0},
		{"no quorum, and the last server may have it", facts(noQuorum, disconnected, lastServer("n2"), waited(time.Minute)), Nothing, "", false, writerStagger},
		{"no quorum, and the last server is down", facts(noQuorum, disconnected, lastServer("n2"), waited(time.Minute),
			func(f *Facts) { f.LastServer = NodeNotReady }), Describe, ReasonNoQuorum, false, 0},
		{"an old endpoint of a node that may not serve is removed", facts(sliceHere, noQuorum), Stop, ReasonStale, false, 0},

		// Serving.
		{"all well", facts(known), Keep, ReasonServing, false, 0},
		{"unknown to this supervisor: adopt", facts(running), Adopt, ReasonServing, false, 0},
		{"unknown, and no intent: restart", facts(running, func(f *Facts) { f.Intent = nil }), Restart, ReasonDied, false, 0},
		{"dead", facts(known, func(f *Facts) { f.Process.Running = false }), Restart, ReasonDied, false, 0},
		{"two failed probes", facts(known, func(f *Facts) { f.Observed.Failures = 2 }), Keep, ReasonServing, false, 0},
		{"three failed probes", facts(known, func(f *Facts) { f.Observed.Failures = 3 }), Restart, ReasonHung, false, 0},
		{"dead too often", facts(known, func(f *Facts) { f.Process.Running = false; f.Timers.Restarts = make([]time.Time, restartLimit) }), Stop, ReasonKeepsFailing, false, 0},
		{"device grew", facts(known, func(f *Facts) { f.Resource.Devices[0].SizeBytes = 2 * gib }), Grow, "", false, 0},
		{"device grew, growth failed a moment ago", facts(known, func(f *Facts) {
			f.Resource.Devices[0].SizeBytes = 2 * gib
			f.Server.GrowAfter = noon.Add(9 * time.Second)
		}), Keep, ReasonServing, false, 9 * time.Second},
		{"device is to grow", facts(known, larger), Keep, ReasonServing, false, growthInterval},
		{"device size not known", facts(known, func(f *Facts) { f.Resource.Devices[0].SizeBytes = 0 }), Keep, ReasonServing, false, 0},
		{"snapshot", facts(known, func(f *Facts) { f.Resource.Suspended.User = true }), Keep, ReasonServing, false, 0},
		{"a fencing handler runs", facts(known, func(f *Facts) { f.Resource.Suspended.Fencing = true }), Keep, ReasonServing, false, 0},
		{"the local disk failed, peers have the data", facts(known, diskIs(0, drbd.DiskDiskless)), Keep, ReasonServing, false, 0},
		{"cordon alone never takes a server away", facts(known, func(f *Facts) { f.Cordoned = true }), Keep, ReasonServing, false, 0},
		{"isolated, and a peer has the data", facts(known, isolated), Stop, ReasonIsolated, false, 0},
		{"isolated, and DRBD is as well", facts(known, isolated, disconnected), Keep, ReasonServing, false, 0},
		{"isolated, and the peer was about to end", facts(known, isolated, func(f *Facts) {
			f.Peers["n2"] = heartbeat.Peer{State: heartbeat.State{Ready: true, Leaving: true}, Heard: noon.Add(-isolatedAfter), Silent: true}
		}), Keep, ReasonServing, false, 0},
		{"isolated again", facts(known, isolated, func(f *Facts) { f.Timers.Isolated = noon.Add(-time.Minute) }), Keep, ReasonServing, false, 0},
		{"detached a moment ago", facts(known, detached(10*time.Second)), Keep, ReasonServing, false, 20 * time.Second},
		{"detached for long", facts(known, detached(30*time.Second)), Stop, ReasonIdle, false, 0},
		{"detached, policy Always", facts(known, detached(time.Hour), func(f *Facts) { f.Export.Spec.Policy = v1alpha1.Always }), Keep, ReasonServing, false, 0},
		{"detached and dead", facts(known, detached(time.Second), func(f *Facts) { f.Process.Running = false }), Stop, ReasonIdle, false, 0},
		{"launcher went away", facts(known, func(f *Facts) { f.Process = nil; f.LauncherDown = true; f.Timers.LauncherDown = noon }), Nothing, "", false, 500 * time.Millisecond},
		{"launcher stays away", facts(known, func(f *Facts) {
			f.Process = nil
			f.LauncherDown = true
			f.Timers.LauncherDown = noon.Add(-launcherPatience)
		}), Stop, ReasonLauncherDown, false, 0},

		// Must stop at once.
		{"quorum lost", facts(known, noQuorum), Stop, ReasonNoQuorum, true, 0},
		{"quorum lost, suspended", facts(known, func(f *Facts) { f.Resource.Suspended.Quorum = true }), Stop, ReasonNoQuorum, true, 0},
		{"no data in reach", facts(known, func(f *Facts) { f.Resource.Suspended.NoData = true }), Stop, ReasonIOError, true, 0},
		{"demoted", facts(known, func(f *Facts) { f.Resource.Role = drbd.RoleSecondary }), Stop, ReasonDemoted, true, 0},
		{"demoted by force", facts(known, func(f *Facts) { f.Resource.ForceIOFailures = true }), Stop, ReasonDemoted, true, 0},
		{"data volume read-only", facts(known, func(f *Facts) { f.Data.ReadOnly = true }), Stop, ReasonIOError, true, 0},
		{"recovery volume read-only", facts(known, func(f *Facts) { f.Recovery.ReadOnly = true }), Stop, ReasonIOError, true, 0},
		{"resource vanished", facts(known, noResource), Stop, ReasonDemoted, true, 0},
		{"deleted and without quorum: fence first", facts(known, deleted(0), noQuorum), Stop, ReasonNoQuorum, true, 0},
		{"an unknown server without quorum is not adopted", facts(running, noQuorum), Stop, ReasonNoQuorum, true, 0},
		{"mounts without Primary", facts(mounted, func(f *Facts) { f.Resource.Role = drbd.RoleSecondary }), Stop, ReasonDemoted, true, 0},
		{"a server of which no launcher knows, and all well", facts(mounted, beside), Nothing, "", false, besidePause},
		{"a server of which no launcher knows, and no quorum", facts(mounted, beside, noQuorum), Stop, ReasonNoQuorum, true, 0},
		{"a server of another pod, nothing mounted", facts(beside, noQuorum), Nothing, "", false, besidePause},
		{"endpoint here, server elsewhere", facts(peerPrimary, sliceHere), Stop, ReasonServedElsewhere, false, 0},

		// Idle.
		{"never attached", facts(detached(0), lastServer("")), Describe, ReasonIdle, false, 0},
		{"idle, but another writes first", facts(detached(0), lastServer(""), func(f *Facts) { f.Node = "n3" }), Nothing, "", false, writerStagger},
		{"idle, this replica is Outdated, another is not", facts(detached(0), lastServer(""), diskIs(0, drbd.DiskOutdated), waited(time.Minute)), Describe, ReasonIdle, false, 0},
		{"idle, all replicas are Outdated", facts(detached(0), lastServer(""), diskIs(0, drbd.DiskOutdated), disconnected, waited(time.Minute)), Describe, ReasonNotUpToDate, false, 0},
		{"idle, this is a tiebreaker", facts(detached(0), lastServer(""), diskIs(0, drbd.DiskDiskless), waited(time.Minute)), Nothing, "", false, 0},
		{"idle, another reason was given since", facts(detached(0), lastServer(""), waited(time.Minute), func(f *Facts) {
			f.Timers.Described, f.Timers.DescribedAs = noon.Add(-10*time.Second), ReasonIdle
		}), Nothing, "", false, contradictAfter - 10*time.Second},
		{"idle and described", facts(detached(0), func(f *Facts) {
			f.Export.Status = unservedStatus(*f, Decision{Reason: ReasonIdle, Message: "no node is attached; the next attach starts the server"})
		}), Nothing, "", false, 0},
		{"idle, device grew", facts(detached(0), outgrown(0)), GrowIdle, "", false, 0},
		{"idle, device grew, another first", facts(detached(0), lastServer("n2"), outgrown(0)), Nothing, "", false, turnStagger},
		{"idle, device grew, another had its time", facts(detached(0), lastServer("n2"), outgrown(turnStagger)), GrowIdle, "", false, 0},
		{"idle, device grew, growth failed a moment ago", facts(detached(0), lastServer(""), outgrown(0), func(f *Facts) { f.Timers.NotBefore = noon.Add(9 * time.Second) }),
			Describe, ReasonIdle, false, 9 * time.Second},
		{"idle, device grew, no quorum", facts(detached(0), lastServer(""), outgrown(0), noQuorum, waited(time.Minute)), Describe, ReasonNoQuorum, false, 0},
		{"idle, device is to grow", facts(detached(0), lastServer(""), larger), Describe, ReasonIdle, false, growthInterval},
		{"idle, Primary for a moment: perhaps mkfs by LINSTOR", facts(detached(0), func(f *Facts) {
			f.Resource.Role = drbd.RolePrimary
			f.Timers.Stray = noon
		}), Nothing, "", false, strayAfter},
		{"idle, Primary left behind", facts(detached(0), func(f *Facts) {
			f.Resource.Role = drbd.RolePrimary
			f.Timers.Stray = noon.Add(-strayAfter)
		}), Stop, ReasonStale, false, 0},
		{"wanted, Primary left behind, and no quorum", facts(noQuorum, waited(time.Minute), func(f *Facts) {
			f.Resource.Role = drbd.RolePrimary
			f.Timers.Stray = noon.Add(-strayAfter)
		}), Stop, ReasonStale, true, 0},
		{"wanted, our own Primary left behind, and no quorum", facts(noQuorum, waited(time.Minute), func(f *Facts) {
			f.Resource.Role = drbd.RolePrimary
			f.Timers.Stray = noon
			f.Intent = &Intent{Export: testExport, Port: 20497}
		}), Stop, ReasonStale, true, 0},
		{"idle, mounts left behind", facts(mounted, detached(0)), Stop, ReasonIdle, false, 0},

		// Deleted.
		{"deleted while serving", facts(known, deleted(0)), Stop, ReasonWithdrawn, false, 0},
		{"deleted, this was the server", facts(deleted(0)), Withdraw, ReasonWithdrawn, false, 0},
		{"deleted, endpoint still here", facts(deleted(0), sliceHere), Stop, ReasonWithdrawn, false, 0},
		{"deleted, a peer serves", facts(deleted(time.Hour), peerPrimary), Nothing, "", false, writerStagger},
		{"deleted, never served, first in the row", facts(deleted(0), lastServer("")), Withdraw, ReasonWithdrawn, false, 0},
		{"deleted, never served, second in the row", facts(deleted(0), lastServer(""), func(f *Facts) { f.Node = "n3" }), Nothing, "", false, writerStagger},
		{"deleted, the last server is connected and Secondary", facts(deleted(time.Minute), lastServer("n2")), Withdraw, ReasonWithdrawn, false, 0},
		{"deleted, the last server is away", facts(deleted(time.Minute), lastServer("n2"), disconnected), Describe, ReasonWithdrawWaits, false, writerStagger},
		{"deleted, the last server's Node is not ready", facts(deleted(time.Minute), lastServer("n2"), disconnected,
			func(f *Facts) { f.LastServer = NodeNotReady }), Describe, ReasonWithdrawWaits, false, writerStagger},
		{"deleted, the last server's Node is deleted", facts(deleted(time.Minute), lastServer("n2"), disconnected,
			func(f *Facts) { f.LastServer = NodeGone }), Withdraw, ReasonWithdrawn, false, 0},
		{"deleted, somebody else is away", facts(deleted(time.Minute), disconnected), Withdraw, ReasonWithdrawn, false, 0},
		{"deleted, not here, young", facts(deleted(time.Second), noResource, lastServer("")), Nothing, "", false, -1},
		{"deleted, not here, old", facts(deleted(time.Minute), noResource, lastServer("")), Withdraw, ReasonWithdrawn, false, 0},
		{"deleted, not here, another served", facts(deleted(time.Hour), noResource, lastServer("n2")), Nothing, "", false, strangerDelay},
		{"deleted, our finalizer is gone already", facts(deleted(time.Hour), func(f *Facts) { f.Export.Finalizers = []string{"other"} }), Nothing, "", false, 0},
		{"deleted before it was complete", facts(deleted(time.Minute), lastServer(""), func(f *Facts) { f.Export.Spec.ExportID = 0 }), Withdraw, ReasonWithdrawn, false, 0},

		// The NFSExport is gone.
		{"gone, nothing here", facts(noExport), Nothing, "", false, 0},
		{"gone, a server is here", facts(known, noExport), Stop, ReasonOrphaned, false, 0},
		{"gone, mounts are here", facts(mounted, noExport), Stop, ReasonOrphaned, false, 0},
		{"gone, somebody else is Primary here", facts(noExport, func(f *Facts) { f.Resource.Role = drbd.RolePrimary }), Nothing, "", false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := decide(settings, test.facts)
			if got.Action != test.action || got.Reason != test.reason || got.Fence != test.fence {
				t.Errorf("decided %+v; want %s %s fence=%v", got, test.action, test.reason, test.fence)
			}
			if test.after >= 0 && got.After != test.after {
				t.Errorf("looks again after %s, want %s", got.After, test.after)
			}
			if test.after < 0 && got.After <= 0 {
				t.Errorf("never looks again")
			}
			if got.Action == Stop && got.Message == "" {
				t.Errorf("stops without a word")
			}
		})
	}
}
