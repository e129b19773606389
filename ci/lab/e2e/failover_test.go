package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/failover"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Whatever breaks, clients notice a pause and nothing else: no lock is lost or
// taken by another, no acknowledged write is lost, no handle becomes stale, and
// never could two nodes write. The pauses are bounded generously here, because the
// machine may be busy; make bench-failover measures them.
//
// All scenarios break one volume, one after the other: each begins with a whole
// laboratory and with clients that start anew, and finds what the last one left.
func TestFailoverCostsAPauseAndNothingElse(t *testing.T) {
	var complaints []string
	// Registered first and so the last words: what went wrong, below all that a
	// failed test says about the laboratory.
	t.Cleanup(func() {
		for _, complaint := range complaints {
			t.Log(complaint)
		}
	})
	ctx, c := setup(t, 20*time.Minute)
	class := createClass(ctx, t, c, parameters(names.Driver+"/placementCount", failover.Replicas))
	bench := must1(failover.New(ctx, laboratory, c, class, t.Logf))(t)
	bench.Evidence = t.ArtifactDir()
	for _, test := range []struct {
		scenario string
		// pause bounds how long a write to an open file and a new open may take.
		pause time.Duration
		// starts bounds how many servers are started.
		least, most int
		// event is in the reason or the message of an event on the claim that says
		// what happened.
		event string
	}{
		{scenario: "supervisor-crash", pause: 5 * time.Second},
		{scenario: "ganesha-crash", pause: 10 * time.Second, least: 1, most: 1, event: "Restarted"},
		{scenario: "ganesha-hang", pause: 25 * time.Second, least: 1, most: 1, event: "Restarted"},
		{scenario: "api-server-down", pause: 10 * time.Second, least: 1, most: 1},
		{scenario: "snapshot-suspend", pause: 25 * time.Second},
		{scenario: "disk-failure", pause: 10 * time.Second, most: 1},
		{scenario: "control-plane-upgrade", pause: 15 * time.Second},
		{scenario: "move-to-client-node", pause: 15 * time.Second, least: 1, most: 1, event: "Moving"},
		{scenario: "move-off-client-node", pause: 15 * time.Second, least: 1, most: 1, event: "Moving"},
		{scenario: "drain", pause: 15 * time.Second, least: 1, most: 1, event: "Moving"},
		{scenario: "upgrade", pause: 20 * time.Second, least: 1, most: 1},
		{scenario: "node-shutdown", pause: 60 * time.Second, least: 1, most: 1, event: "Moving"},
		{scenario: "node-power-off", pause: 20 * time.Second, least: 1, most: 1, event: "Serving"},
		{scenario: "node-power-off-with-client-on-it", pause: 20 * time.Second, least: 1, most: 1, event: "Serving"},
		{scenario: "node-power-off-with-client-on-it-unproven", pause: 40 * time.Second, least: 1, most: 1, event: "Serving"},
		{scenario: "node-power-off-without-api-server", pause: 150 * time.Second, least: 1, most: 1, event: "Serving"},
		{scenario: "network-cut", pause: 20 * time.Second, least: 1, most: 1, event: "Serving"},
		{scenario: "kubernetes-network-cut", pause: 40 * time.Second, least: 1, most: 1, event: "Serving"},
		{scenario: "double-failure", pause: 30 * time.Second, least: 2, most: 2, event: "Restarted"},
	} {
		t.Run(test.scenario, func(t *testing.T) {
			complain := func(format string, arguments ...any) {
				t.Helper()
				t.Errorf(format, arguments...)
				complaints = append(complaints, test.scenario+": "+fmt.Sprintf(format, arguments...))
			}
			began := time.Now()
			scenarios := must1(failover.Find(test.scenario))(t)
			result, err := bench.Run(ctx, scenarios[0])
			if err != nil {
				complain("%v", err)
				return
			}
			t.Logf("%+v", result)
			for _, broken := range result.Broken() {
				complain("%s", broken)
			}
			if limit := test.pause.Seconds(); result.WriterStall > limit || result.OpenerStall > limit {
				complain("writers paused for %.1f s and openers for %.1f s, want at most %.0f s", result.WriterStall, result.OpenerStall, limit)
			}
			if limit := test.pause.Seconds(); result.MendStall > limit {
				complain("writers paused for %.1f s while the fault was mended, want at most %.0f s", result.MendStall, limit)
			}
			if result.Starts < test.least || result.Starts > test.most {
				complain("%d servers were started, want %d to %d", result.Starts, test.least, test.most)
			}
			if test.event != "" {
				eventSince(ctx, t, c, bench.Claim(), test.event, began)
			}
			if result.From != result.To {
				failoverIsShown(ctx, t, c, bench.Volume, result)
			}
		})
	}
	t.Run("a pod cannot mount the export", func(t *testing.T) { podCannotMount(ctx, t, c, bench.Volume) })
	t.Run("cordon of the last node changes nothing", func(t *testing.T) { lastNodeKeepsServing(ctx, t, c, bench) })
	t.Run("without quorum it says so and comes back", func(t *testing.T) { quorumIsAwaited(ctx, t, c, bench) })
}

// Where DRBD suspends I/O without quorum, as Piraeus sets it, the isolated server
// does not get errors: it hangs, and with it all that touches its volume. Its
// clients notice no more of that than a pause.
func TestServerThatHangsWithoutQuorumIsFenced(t *testing.T) {
	ctx, c := setup(t, 8*time.Minute)
	const property = "property.linstor.csi.linbit.com/DrbdOptions/"
	class := createClass(ctx, t, c, parameters(names.Driver+"/placementCount", failover.Replicas,
		property+"auto-quorum", "suspend-io", property+"Resource/on-no-quorum", "suspend-io"))
	bench := must1(failover.New(ctx, laboratory, c, class, t.Logf))(t)
	bench.Evidence = t.ArtifactDir()
	result := must1(bench.Run(ctx, must1(failover.Find("network-cut"))(t)[0]))(t)
	t.Logf("%+v", result)
	for _, broken := range result.Broken() {
		t.Error(broken)
	}
	if result.WriterStall > 20 || result.From == result.To {
		t.Errorf("it moved from %s to %s, and writers paused for %.1f s", result.From, result.To, result.WriterStall)
	}
	old := ganeshaPodOn(ctx, t, c, result.From)
	var options, log strings.Builder
	must(t, laboratory.Kubectl(ctx, &options, "-n", lab.Release, "exec", old, "-c", "supervisor", "--", "drbdsetup", "show", bench.Volume))
	if strings.Contains(options.String(), "on-no-quorum") { // DRBD shows what is not its default, suspend-io
		t.Fatalf("the volume does not suspend I/O, so the test proves nothing:\n%s", options.String())
	}
	must(t, laboratory.Kubectl(ctx, &log, "-n", lab.Release, "logs", old, "-c", "supervisor"))
	if !strings.Contains(log.String(), "Fenced export") {
		t.Errorf("the isolated server on %s was not fenced:\n%s", result.From, log.String())
	}
}

// ganeshaPodOn is the name of a node's ganesha pod.
func ganeshaPodOn(ctx context.Context, t *testing.T, c *scenario.Cluster, node string) string {
	t.Helper()
	pods := must1(c.Client.CoreV1().Pods(lab.Release).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=ganesha", FieldSelector: "spec.nodeName=" + node,
	}))(t)
	if len(pods.Items) != 1 {
		t.Fatalf("node %s has %d ganesha pods", node, len(pods.Items))
	}
	return pods.Items[0].Name
}

// eventSince fails unless the claim has a new event with that text.
func eventSince(ctx context.Context, t *testing.T, c *scenario.Cluster, claim, text string, since time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var seen []string
	err := scenario.WaitFor(ctx, "an event about "+text, func(ctx context.Context) (bool, error) {
		events, err := c.Events(ctx, "PersistentVolumeClaim", claim)
		seen = seen[:0]
		for _, event := range events {
			said := event.Reason + ": " + event.Message
			seen = append(seen, said)
			// Kubernetes counts repeated events in one object, in full seconds.
			if strings.Contains(said, text) && event.LastTimestamp.Time.After(since.Add(-time.Second)) {
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		t.Errorf("%v; the claim's events are %q", err, seen)
	}
}

// failoverIsShown looks for the move in the status and in what kubectl prints.
func failoverIsShown(ctx context.Context, t *testing.T, c *scenario.Cluster, volume string, result failover.Result) {
	t.Helper()
	export := must1(c.Exports.Get(ctx, volume, metav1.GetOptions{}))(t)
	last := export.Status.LastFailover
	if last == nil || last.To != result.To || last.Reason == "" || last.Seconds == "" {
		t.Errorf("it moved from %s to %s, the status says %+v", result.From, result.To, last)
		return
	}
	for _, part := range []string{"detect", "promote", "mount", "start", "probe", "endpoint"} {
		if last.Parts[part] == "" {
			t.Errorf("the status does not say how long %s took: %v", part, last.Parts)
		}
	}
	var table strings.Builder
	must(t, laboratory.Kubectl(ctx, &table, "get", "nfsx", volume))
	lines := strings.Split(strings.TrimSpace(table.String()), "\n")
	begin := strings.Index(lines[0], "LAST FAILOVER")
	end := strings.Index(lines[0], "AGE")
	if begin < 0 || end < begin || strings.TrimSpace(lines[1][begin:end]) == "" {
		t.Errorf("kubectl get nfsx does not show the fail-over:\n%s", table.String())
	}
}

// podCannotMount mounts the export as a node, and the same way from the network
// of a pod on that node: only the former is a client.
func podCannotMount(ctx context.Context, t *testing.T, c *scenario.Cluster, volume string) {
	export := must1(c.WaitServing(ctx, volume))(t)
	node := must1(laboratory.Node(consumerNode))(t)
	pods := must1(node.Processes(ctx, "^/bin/workload serve"))(t)
	if len(pods) == 0 {
		t.Fatalf("no client pod runs on node %s", consumerNode)
	}
	mount := func(enter string) error {
		server := export.Spec.Service.ClusterIP
		_, err := node.Shell(ctx, fmt.Sprintf(
			// -i: without mount.nfs, which the node has not; the kernel wants addresses.
			"mkdir -p /mnt/stranger && timeout 20 %s mount -i -t nfs4 -o vers=4.2,port=%d,addr=%s,clientaddr=0.0.0.0 %s:%s /mnt/stranger && umount /mnt/stranger",
			enter, names.NFSPort, server, server, names.ExportPath(volume)))
		return err
	}
	if err := mount(""); err != nil {
		t.Fatalf("the node itself cannot mount the export, so the test proves nothing: %v", err)
	}
	began := time.Now()
	err := mount("nsenter -t " + pods[0] + " -n")
	if err == nil {
		t.Fatal("a pod has mounted the export")
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the pod was not refused but left to wait for %s: %v", took.Round(time.Second), err)
	}
}

// lastNodeKeepsServing cordons all other nodes and then the serving one: moving
// would help nobody.
func lastNodeKeepsServing(ctx context.Context, t *testing.T, c *scenario.Cluster, bench *failover.Bench) {
	t.Cleanup(func() { must(t, bench.Uncordon(context.WithoutCancel(ctx))) })
	before := must1(c.WaitServing(ctx, bench.Volume))(t)
	for _, node := range laboratory.Nodes() {
		if node.Storage && node.Name != before.Status.Node {
			must(t, bench.Cordon(ctx, node.Name))
		}
	}
	time.Sleep(time.Second) // the supervisors shall know that nobody else is left
	must(t, bench.Cordon(ctx, before.Status.Node))
	file := scenario.DataPath + "/cordoned"
	out := must1(c.Exec(ctx, bench.ClientPod(consumerNode), scenario.Workload, "write", file, "--for", "8s", "--gap", "2500ms"))(t)
	if strings.Contains(out, `"event":"gap"`) {
		t.Errorf("the writer was disturbed:\n%s", out)
	}
	after := must1(c.Exports.Get(ctx, bench.Volume, metav1.GetOptions{}))(t)
	if after.Status.Node != before.Status.Node || after.Status.BootEpoch != before.Status.BootEpoch || after.Status.Phase != v1alpha1.PhaseServing {
		t.Errorf("the export was served by %s (start %d), now it is %s on %q (start %d)", before.Status.Node, before.Status.BootEpoch,
			after.Status.Phase, after.Status.Node, after.Status.BootEpoch)
	}
}

// quorumIsAwaited separates all nodes as DRBD sees them: no node may serve, and
// the claim says why. A writer only waits.
func quorumIsAwaited(ctx context.Context, t *testing.T, c *scenario.Cluster, bench *failover.Bench) {
	began := time.Now()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		must(t, bench.Repair(ctx))
	})
	must(t, laboratory.Storage().Partition(ctx))
	must1(c.WaitExport(ctx, bench.Volume, "without quorum", func(export *v1alpha1.NFSExport) bool {
		return meta.IsStatusConditionFalse(export.Status.Conditions, v1alpha1.ConditionQuorum) &&
			!meta.IsStatusConditionTrue(export.Status.Conditions, v1alpha1.ConditionReady)
	}))(t)
	eventSince(ctx, t, c, bench.Claim(), "quorum", began)
	file := scenario.DataPath + "/quorum"
	written := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, bench.ClientPod(consumerNode), scenario.Workload, "write", file, "--for", "1s")
		written <- err
	}()
	select {
	case err := <-written:
		t.Errorf("a write without quorum ended: %v", err)
	case <-time.After(3 * time.Second):
		must(t, laboratory.Storage().Heal(ctx))
		must(t, <-written)
	}
	export := must1(c.WaitServing(ctx, bench.Volume))(t)
	if !meta.IsStatusConditionTrue(export.Status.Conditions, v1alpha1.ConditionQuorum) {
		t.Errorf("it is served, but its conditions are %+v", export.Status.Conditions)
	}
	must1(c.Exec(ctx, bench.ClientPod(consumerNode), scenario.Workload, "check", file))(t)
}
