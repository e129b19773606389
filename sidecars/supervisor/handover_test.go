package supervisor

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/firewall"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/names"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

func (w *world) annotate(to string) {
	w.change(func(export *v1alpha1.NFSExport) { export.Annotations = map[string]string{names.MoveToAnnotation: to} })
}

// mustWait fails the test unless node keeps the clients of the export waiting.
func mustWait(t *testing.T, w *world, node string) {
	t.Helper()
	m := w.machine(node)
	if rule := m.rule(); rule == nil || !rule.Frozen {
		t.Errorf("clients on %s are not kept waiting: %+v", node, m.rules)
	}
	if !strings.HasPrefix(w.endpoint(), m.ip+":") {
		t.Errorf("clients are sent to %q before anybody serves", w.endpoint())
	}
}

func TestSilentPrimaryIsReplacedBeforeDRBDNotices(t *testing.T) {
	w, n1 := served(t, "n2", "n3")
	n2, n3 := w.machine("n2"), w.machine("n3")
	n2.settle()
	n3.settle()
	n1.die()
	w.advance(1200 * time.Millisecond)
	n2.settle()
	n3.settle()
	w.advance(turnStagger)
	n2.settle()
	n3.settle()
	serving := slices.DeleteFunc(w.serving(), func(node string) bool { return node == "n1" })
	if len(serving) != 1 {
		t.Fatalf("served by %v; n2 did %v, n3 did %v", serving, n2.journal, n3.journal)
	}
	failover := w.export().Status.LastFailover
	if failover == nil || failover.From != "n1" || failover.To != serving[0] || failover.Reason != MoveServerLost || failover.Parts["detect"] < "1.2" {
		t.Errorf("lastFailover is %+v", failover)
	}
	if !strings.HasPrefix(w.endpoint(), w.machine(serving[0]).ip+":") {
		t.Errorf("clients are sent to %s", w.endpoint())
	}
	// An API server that died with the node would not refuse but be silent.
	if n2.lookups+n3.lookups > 0 {
		t.Errorf("the API server was asked %d times on the way", n2.lookups+n3.lookups)
	}
}

func TestLivingPrimaryWhoseSupervisorIsSilentIsNotReplaced(t *testing.T) {
	w, n1 := served(t, "n2")
	n2 := w.machine("n2")
	n1.silent = true
	for range 20 {
		w.advance(time.Second)
		n2.settle()
	}
	if tries := n2.did("primary"); tries < 2 || tries > 6 {
		t.Errorf("DRBD was asked %d times in 20 s", tries)
	}
	if len(w.serving()) != 1 || w.serving()[0] != "n1" || n2.did("status") != 0 || n2.did("delete endpoint") != 0 {
		t.Errorf("the living server was disturbed: %v", n2.journal)
	}
	if events := n2.events(); len(events) != 0 {
		t.Errorf("suspicion alone is no news: %q", events)
	}
}

func TestCordonHandsOverAndClientsWaitUntilTheOtherServes(t *testing.T) {
	w, n1 := served(t, "n2")
	n2 := w.machine("n2")
	n1.cordoned = true
	n1.settle()
	if len(w.serving()) != 0 || n1.primary || len(n1.mounts) != 0 {
		t.Fatalf("n1 did not let go: %v", n1.journal)
	}
	if n1.did("kill ganesha")+n1.did("force secondary")+n1.did("detach data") != 0 {
		t.Errorf("a hand-over is not gentle: %v", n1.journal)
	}
	mustWait(t, w, "n1")
	if status := w.export().Status; status.Phase != v1alpha1.PhaseMoving || status.HandOver == nil || status.HandOver.To != "n2" {
		t.Errorf("status is %+v", status)
	}

	n2.settle()
	mustServe(t, w, "n2")
	if n2.rule() == nil {
		t.Errorf("clients are not let in on n2")
	}
	status := w.export().Status
	if status.HandOver != nil || status.LastFailover == nil || status.LastFailover.From != "n1" || status.LastFailover.Reason != MoveCordoned {
		t.Errorf("status is %+v, last fail-over %+v", status, status.LastFailover)
	}
	n1.settle()
	if rule := n1.rule(); rule == nil || !rule.Frozen {
		t.Errorf("clients learn of the end before kube-proxy has sent them elsewhere: %+v", rule)
	}
	w.advance(proxyDelay)
	n1.settle()
	if n1.rule() != nil {
		t.Errorf("clients of the old server wait for ever: %+v", n1.rules)
	}
	mustServe(t, w, "n2")
}

func TestCordonAloneNeverTakesTheLastServerAway(t *testing.T) {
	for name, spoil := range map[string]func(n2 *machine){
		"the other is cordoned as well":  func(n2 *machine) { n2.cordoned = true },
		"the other's replica is old":     func(n2 *machine) { n2.disk = drbd.DiskInconsistent },
		"the other is cut off":           func(n2 *machine) { n2.online = false },
		"the other's supervisor is gone": func(n2 *machine) { n2.silent = true },
		"the other was never heard":      func(n2 *machine) { n2.unheard = true },
		"the other cannot start ganesha": func(n2 *machine) { n2.launcherDown = true },
	} {
		t.Run(name, func(t *testing.T) {
			w, n1 := served(t, "n2")
			spoil(w.machine("n2"))
			n1.cordoned = true
			n1.settle()
			mustServeUntouched(t, w, "n1")
		})
	}
}

// A monitoring pod may have copied the mount, a person may sit in a directory. A
// cordon is no reason to disturb the clients again and again.
func TestVolumeThatSomebodyHoldsOpenIsServedOnAndHandedOverLater(t *testing.T) {
	w, n1 := served(t, "n2")
	n1.heldOpen = true
	n1.cordoned = true
	n1.settle() // ends with the error
	n1.settle()
	mustServe(t, w, "n1")
	n1.settle()
	if tries := n1.did("unmount data"); tries != 1 || n1.did("force secondary") != 0 {
		t.Errorf("%d tries: %v", tries, n1.journal)
	}
	if events := strings.Join(n1.events(), "\n"); !strings.Contains(events, "MoveFailed") || !strings.Contains(events, "held open") {
		t.Errorf("events: %s", events)
	}
	n1.heldOpen = false
	w.advance(handOverRetry)
	n1.settle()
	w.machine("n2").settle()
	mustServe(t, w, "n2")
}

// DRBD has a network of its own: to it the server is well, and to its clients gone.
func TestServerThatOnlyDRBDReachesLetsAnotherServe(t *testing.T) {
	w, n1 := served(t, "n2")
	n2 := w.machine("n2")
	n1.agent.watchIsolation(t.Context())
	n2.silent, n1.apiDown = true, true
	w.diedAt = w.now()
	w.advance(isolatedAfter - time.Second)
	n1.agent.watchIsolation(t.Context())
	n1.settle()
	mustServe(t, w, "n1")
	w.advance(time.Second)
	n1.agent.watchIsolation(t.Context())
	n1.settle() // ends with an error: the status cannot be written
	if n1.did("force secondary") != 0 || n1.did("secondary") != 1 {
		t.Errorf("n1 did %v", n1.journal)
	}
	n2.settle()
	w.advance(2 * turnStagger)
	n2.settle()
	mustServe(t, w, "n2")
}

// The other supervisor has been away for long when the API server goes.
func TestServerIsNotIsolatedByTheAPIServerAlone(t *testing.T) {
	w, n1 := served(t, "n2")
	w.machine("n2").silent = true
	w.diedAt = w.now()
	w.advance(time.Minute)
	n1.agent.watchIsolation(t.Context())
	n1.apiDown = true
	w.advance(time.Minute)
	n1.agent.watchIsolation(t.Context())
	n1.settle()
	mustServeUntouched(t, w, "n1")
}

func TestServerThatReachesTheAPIServerIsNotIsolated(t *testing.T) {
	w, n1 := served(t, "n2")
	w.machine("n2").silent = true
	w.diedAt = w.now().Add(-time.Hour)
	n1.agent.watchIsolation(t.Context())
	n1.settle()
	mustServeUntouched(t, w, "n1")
}

func TestPodThatEndsTakesTheVolumeFromWhoeverHoldsItOpen(t *testing.T) {
	w, n1 := served(t, "n2")
	n1.heldOpen = true
	n1.agent.leaving.Store(true)
	n1.settle()
	w.machine("n2").settle()
	mustServe(t, w, "n2")
	if n1.did("force secondary") != 1 {
		t.Errorf("n1 did %v", n1.journal)
	}
}

func TestRequestedMoveGoesToThatNodeAndIsTakenBack(t *testing.T) {
	w, n1 := served(t, "n2", "n3")
	w.annotate("n3")
	n1.settle()
	w.machine("n2").settle()
	w.machine("n3").settle()
	mustServe(t, w, "n3")
	export := w.export()
	if len(export.Annotations) != 0 || export.Status.LastFailover.Reason != MoveRequested {
		t.Errorf("annotations %v, last fail-over %+v", export.Annotations, export.Status.LastFailover)
	}
}

func TestMoveToANodeThatCannotServeIsRefusedWithTheReason(t *testing.T) {
	w, n1 := served(t, "n2")
	w.machine("n2").disk = drbd.DiskInconsistent
	w2, cordoned := served(t, "n2")
	w2.machine("n2").cordoned = true
	w2.annotate("n2")
	cordoned.settle()
	mustServe(t, w2, "n1")
	if events := strings.Join(cordoned.events(), "\n"); !strings.Contains(events, "MoveRefused") || !strings.Contains(events, "cordoned") {
		t.Errorf("events: %s", events)
	}
	for node, why := range map[string]string{"n2": "UpToDate", "n9": "no replica"} {
		w.annotate(node)
		n1.settle()
		mustServe(t, w, "n1")
		events := strings.Join(n1.events(), "\n")
		if !strings.Contains(events, "MoveRefused") || !strings.Contains(events, why) || !strings.Contains(events, node) {
			t.Errorf("events: %s", events)
		}
		if len(w.export().Annotations) != 0 {
			t.Errorf("the request stays and would be met at a surprising moment")
		}
	}
	w.annotate("n1")
	n1.settle()
	mustServe(t, w, "n1")
	if events := strings.Join(n1.events(), "\n"); !strings.Contains(events, "MoveNotNeeded") {
		t.Errorf("events: %s", events)
	}
}

func TestMoveWaitsForTheEndOfGrace(t *testing.T) {
	w, n1 := served(t, "n2")
	w.disks[1001].grace = ganesha.Grace{Active: true, Expected: 2, Reclaimed: 1}
	n1.observe()
	w.annotate("n2")
	n1.settle()
	if !slices.Equal(w.serving(), []string{"n1"}) {
		t.Fatalf("moved in the middle of grace: %v", n1.journal)
	}
	w.disks[1001].grace = ganesha.Grace{}
	n1.observe()
	n1.settle()
	w.machine("n2").settle()
	mustServe(t, w, "n2")
}

func TestOldServerTakesBackWhatTheOtherCannotStart(t *testing.T) {
	w, n1 := served(t, "n2")
	n2 := w.machine("n2")
	n2.cannotStart = true
	w.annotate("n2")
	n1.settle()
	n2.settle()
	if len(w.serving()) != 0 {
		t.Fatalf("served by %v", w.serving())
	}
	w.advance(handOverDelay + 2*turnStagger)
	n1.settle()
	mustServe(t, w, "n1")
	if rule := n1.rule(); rule == nil || rule.Frozen {
		t.Errorf("clients of the new server are kept waiting: %+v", rule)
	}
}

func TestPodThatEndsHandsOver(t *testing.T) {
	w, n1 := served(t, "n2")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	drained := make(chan struct{})
	n1.agent.leaving.Store(true)
	n1.settle()
	w.machine("n2").settle()
	mustServe(t, w, "n2")
	if reason := w.export().Status.LastFailover.Reason; reason != MovePodEnds {
		t.Errorf("reason is %s", reason)
	}
	w.advance(proxyDelay)
	n1.settle()
	w.advance(proxyDelay)
	n1.settle()
	go func() { n1.agent.Drain(ctx); close(drained) }()
	select {
	case <-drained:
	case <-ctx.Done():
		t.Errorf("the pod does not end although nothing is held: %v", n1.journal)
	}
}

func TestPodThatEndsWithoutAnotherNodeStopsCleanly(t *testing.T) {
	w, n1 := served(t)
	n1.agent.leaving.Store(true)
	n1.settle()
	if len(w.serving()) != 0 || n1.primary || len(n1.mounts) != 0 || n1.did("kill ganesha") != 0 {
		t.Fatalf("not stopped cleanly: %v", n1.journal)
	}
	mustWait(t, w, "n1")
	n1.settle()
	if n1.did("start ganesha") != 0 {
		t.Errorf("a pod that ends starts ganesha again: %v", n1.journal)
	}
	n1.restartPod()
	n1.settle()
	mustServe(t, w, "n1")
}

func TestClientsAreNotKeptWaitingForEver(t *testing.T) {
	w, n1 := served(t, "n2")
	n1.quorum = false
	n1.settle()
	mustWait(t, w, "n1")
	w.advance(frozenLimit - time.Second)
	n1.settle()
	mustWait(t, w, "n1")
	w.advance(2 * time.Second)
	n1.settle()
	if n1.rule() != nil || w.endpoint() != "" {
		t.Errorf("nobody serves, and clients still wait: %+v, sent to %q", n1.rules, w.endpoint())
	}
}

func TestIdleExportIsStoppedAtOnceWhenThePodEnds(t *testing.T) {
	w, n1 := served(t, "n2")
	w.attached[testExport] = false
	n1.settle()
	n1.agent.leaving.Store(true)
	n1.settle()
	mustBeFree(t, w, "n1")
	w.machine("n2").settle()
	if len(w.serving()) != 0 {
		t.Errorf("nobody needs it, and it is served by %v", w.serving())
	}
}

func TestSuccessorsAreThoseThatCanServeTheBestFirst(t *testing.T) {
	f := facts(known)
	f.Resource = resourceWithPeers("n2", "n3", "n4")
	f.Resource.Role = drbd.RolePrimary
	heard := func(state heartbeat.State) heartbeat.Peer {
		state.Ready = true
		return heartbeat.Peer{State: state, Heard: noon}
	}
	f.Peers = map[string]heartbeat.Peer{
		"n2": heard(heartbeat.State{Cordoned: true}), "n3": heard(heartbeat.State{Exports: 3 * loadStep}), "n4": heard(heartbeat.State{Exports: 1}),
	}
	if got := successors(f); !slices.Equal(got, []string{"n4", "n3", "n2"}) {
		t.Errorf("got %v", got)
	}
	f.Peers["n4"] = heartbeat.Peer{State: heartbeat.State{Ready: true, Leaving: true}, Heard: noon}
	f.Peers["n3"] = heartbeat.Peer{State: heartbeat.State{Ready: true}, Heard: noon, Silent: true}
	if got := successors(f); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("got %v", got)
	}
}

// recordOf is the key of a client's record as ganesha makes it.
func recordOf(host string) string {
	owner := "Linux NFSv4.2 " + host
	return fmt.Sprintf("::ffff:169.254.77.1-(%d:%s)", len(owner), owner)
}

func TestProvenGoneClientsDoNotHoldGrace(t *testing.T) {
	known := map[string]ganesha.KnownClient{
		recordOf("deleted"): {Node: "deleted", BootID: "boot-of-deleted"}, recordOf("rebooted"): {Node: "rebooted", BootID: "an earlier one"},
		recordOf("alive"): {Node: "alive", BootID: "boot-of-alive"}, recordOf("back"): {Node: "back", BootID: "an earlier one"},
	}
	w, n1 := served(t, "n2")
	w.disks[1001].records = []string{recordOf("alive"), recordOf("deleted"), recordOf("rebooted"), recordOf("back"), recordOf("tainted"), recordOf("not-of-the-cluster"), "10.0.0.9-(20:0xabc)"}
	w.disks[1001].known = known
	w.notReady["rebooted"] = true
	w.gone["deleted"], w.gone["not-of-the-cluster"] = true, true
	w.taints["tainted"] = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	n1.die()
	n1.online = false
	w.advance(2 * turnStagger)
	w.machine("n2").settle()
	w.advance(2 * turnStagger)
	w.machine("n2").settle()
	if got, want := w.disks[1001].records, []string{recordOf("alive"), recordOf("back"), recordOf("not-of-the-cluster"), "10.0.0.9-(20:0xabc)"}; !slices.Equal(got, want) {
		t.Errorf("records are %q, want %q", got, want)
	}
}

func TestNothingIsProvenWithoutTheAPIServer(t *testing.T) {
	w, n1 := served(t)
	w.disks[1001].records = []string{recordOf("tainted")}
	w.taints["tainted"] = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
	n1.apiDown = true
	n1.processes[testExport].Running = false
	n1.settle()
	if len(w.disks[1001].records) != 1 || len(w.serving()) != 1 {
		t.Errorf("records are %q, served by %v", w.disks[1001].records, w.serving())
	}
}

func TestLivingClientsDoNotWaitForOneWhoseLeaseIsOver(t *testing.T) {
	w, n1 := served(t, "n2")
	n2 := w.machine("n2")
	w.disks[1001].records = []string{recordOf("n1"), recordOf("n4")}
	n1.die()
	w.advance(1200 * time.Millisecond)
	n2.settle()
	w.advance(2 * turnStagger)
	n2.settle()
	if p := n2.processes[testExport]; p == nil || !p.Running {
		t.Fatalf("n2 does not serve: %v", n2.journal)
	}
	w.disks[1001].grace = ganesha.Grace{Active: true, Expected: 2, Reclaimed: 1}
	w.disks[1001].back = []string{recordOf("n4")}
	w.diedAt = w.now().Add(time.Second - isolationTime)
	n2.observe()
	if n2.did("speak for Linux NFSv4.2 n1") != 0 {
		t.Fatalf("its own server may still serve it")
	}
	w.advance(2 * time.Second)
	n2.observe()
	n2.observe()
	if n2.did("speak for Linux NFSv4.2 n1") != 1 || n2.did("speak for Linux NFSv4.2 n4") != 0 {
		t.Errorf("n2 did %v", n2.journal)
	}
	if events := strings.Join(n2.events(), "\n"); !strings.Contains(events, "ClientLost") || !strings.Contains(events, "n1") {
		t.Errorf("events: %s", events)
	}
}

// Its machine has booted and is ready: perhaps it came back without the last server's
// supervisor noticing the boot. It gets its time.
func TestClientOnAMachineThatHasBootedGetsItsTime(t *testing.T) {
	w, n1 := served(t)
	w.disks[1001].records = []string{recordOf("n4"), recordOf("n5")}
	w.disks[1001].known = map[string]ganesha.KnownClient{recordOf("n4"): {Node: "n4", BootID: "an earlier one"}, recordOf("n5"): {Node: "n5", BootID: "boot-of-n5"}}
	w.disks[1001].back = []string{}
	n1.processes[testExport].Running = false
	n1.settle()
	w.disks[1001].grace = ganesha.Grace{Active: true, Expected: 2}
	n1.observe()
	if n1.did("speak for Linux NFSv4.2 n4") != 0 {
		t.Fatalf("its time is not over: %v", n1.journal)
	}
	w.advance(bootedPatience)
	n1.apiDown = true
	n1.observe()
	if n1.did("speak for Linux NFSv4.2 n4") != 0 {
		t.Fatalf("nothing is certain without the API server: %v", n1.journal)
	}
	n1.apiDown = false
	n1.observe()
	if n1.did("speak for Linux NFSv4.2 n4") != 1 || n1.did("speak for Linux NFSv4.2 n5") != 0 {
		t.Errorf("n1 did %v", n1.journal)
	}
}

// ganesha's record outlives a crash of the client's machine.
func TestServerNotesThatAClientsMachineHasBooted(t *testing.T) {
	w, n1 := served(t)
	w.disks[1001].records = []string{recordOf("n4")}
	n1.observe()
	w.boots["n4"] = "the next boot"
	n1.observe()
	if got := w.disks[1001].known[recordOf("n4")]; !got.Rebooted || got.BootID != "the next boot" {
		t.Errorf("known is %+v", got)
	}
	n1.observe()
	if got := w.disks[1001].known[recordOf("n4")]; !got.Rebooted {
		t.Errorf("it is forgotten: %+v", got)
	}
}

func TestSignsOfLifeKeepTheLocksOfAClient(t *testing.T) {
	ready := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
	notReady := &corev1.Node{}
	heard := func(ago time.Duration, silent bool) heartbeat.Peer {
		return heartbeat.Peer{Heard: noon.Add(-ago), Silent: silent}
	}
	for name, test := range map[string]struct {
		signs signs
		lost  bool
	}{
		"a storage node that nobody hears for a lease":           {signs{peer: heard(14*time.Second, true), cutOff: true, started: noon.Add(-time.Second), node: ready}, true},
		"its own server may not have noticed that it is alone":   {signs{peer: heard(13*time.Second, true), cutOff: true, started: noon.Add(-time.Hour), node: ready}, false},
		"a ready machine that has booted had its time":           {signs{booted: true, started: noon.Add(-30 * time.Second), node: ready}, true},
		"a ready machine that has booted, right after the start": {signs{booted: true, started: noon.Add(-29 * time.Second), node: ready}, false},
		"not ready, and heard a moment ago":                      {signs{peer: heard(7*time.Second, true), started: noon.Add(-7 * time.Second), node: notReady}, false},
		"its supervisor alone is silent":                         {signs{peer: heard(time.Hour, true), started: noon.Add(-time.Hour), node: ready}, false},
		"DRBD alone is cut off":                                  {signs{peer: heard(0, false), cutOff: true, started: noon.Add(-time.Hour), node: notReady}, false},
		"a client that is not ready and had its time":            {signs{started: noon.Add(-7 * time.Second), node: notReady}, true},
		"a client that is not ready, right after the start":      {signs{started: noon.Add(-5 * time.Second), node: notReady}, false},
		"a client that is ready may be slow":                     {signs{started: noon.Add(-time.Minute), node: ready}, false},
		"nothing is known of it":                                 {signs{started: noon.Add(-time.Minute)}, false},
		"not ready and silent, but DRBD is still connected":      {signs{peer: heard(time.Minute, true), started: noon.Add(-7 * time.Second), node: notReady}, true},
		"not ready and silent, DRBD is connected, just started":  {signs{peer: heard(time.Minute, true), started: noon.Add(-time.Second), node: notReady}, false},
	} {
		test.signs.now, test.signs.lease, test.signs.name = noon, 6*time.Second, "n9"
		if got := lostReason(test.signs); (got != "") != test.lost {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestServerRemembersOnWhichBootItsClientsAre(t *testing.T) {
	w, n1 := served(t)
	w.disks[1001].records = []string{recordOf("n4"), "10.0.0.9-(20:0xabc)"}
	n1.observe()
	n1.observe()
	want := map[string]ganesha.KnownClient{recordOf("n4"): {Node: "n4", BootID: "boot-of-n4"}}
	if got := w.disks[1001].known; len(got) != 1 || got[recordOf("n4")] != want[recordOf("n4")] {
		t.Errorf("known are %v", got)
	}
	if n1.did("remember clients") != 1 {
		t.Errorf("written %d times", n1.did("remember clients"))
	}
	w.disks[1001].records = nil
	n1.observe()
	if len(w.disks[1001].known) != 0 {
		t.Errorf("a client that left is still known: %v", w.disks[1001].known)
	}
}

func TestAllowedClientsAreEnforcedAtOnce(t *testing.T) {
	w, n1 := served(t)
	if rule := n1.rule(); rule == nil || len(rule.Clients) != 1 || rule.Clients[0].String() != "192.0.2.0/24" || !rule.Silent || rule.Frozen {
		t.Fatalf("the nodes are not let in: %+v", rule)
	}
	w.change(func(export *v1alpha1.NFSExport) {
		export.Spec.AllowedClients = []string{"198.51.100.7/24", "2001:db8::/32"}
	})
	n1.settle()
	rule := n1.rule()
	if rule == nil || fmt.Sprint(rule.Clients) != "[198.51.100.0/24 2001:db8::/32]" {
		t.Errorf("let in are %+v", rule)
	}
	if len(n1.signals) != 0 {
		t.Errorf("the server was touched: %v", n1.signals)
	}
}

func TestRulesThatSomebodyRemovedComeBack(t *testing.T) {
	_, n1 := served(t)
	want := n1.rules
	n1.rules = firewall.Rules{}
	n1.agent.checkAccess(t.Context())
	if n1.rule() == nil || !reflect.DeepEqual(n1.rules, want) {
		t.Errorf("got %+v, want %+v", n1.rules, want)
	}
}

// The pod that a rollout replaces still serves: what the next one can do is done.
func TestNextPodOfTheNodeGetsReadyWhileTheOldOneStillServes(t *testing.T) {
	w, _ := served(t, "n2")
	n2 := w.machine("n2")
	n2.agent.active.Store(false)
	n2.beside = true
	n2.settle()
	if n2.rule() == nil || len(n2.journal) != 0 {
		t.Errorf("rules %+v, it did %v", n2.rules, n2.journal)
	}
	mustServe(t, w, "n1")
}

func TestNodeThatIsNamedGetsReadyWhileTheOldServerStillServes(t *testing.T) {
	w, _ := served(t, "n2")
	n2 := w.machine("n2")
	w.change(func(export *v1alpha1.NFSExport) {
		export.Status.HandOver = &v1alpha1.HandOver{To: "n2", Reason: MoveRequested, Since: metav1.NewMicroTime(w.now())}
	})
	n2.settle()
	if n2.rule() == nil || n2.did("primary") != 0 {
		t.Errorf("rules %+v, it did %v", n2.rules, n2.journal)
	}
	mustServe(t, w, "n1")
}
