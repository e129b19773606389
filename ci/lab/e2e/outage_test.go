package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// With every replica gone there is nothing to serve, and a tiebreaker has no data:
// the claim says so, clients wait, and when the nodes are back they go on with all
// that was acknowledged.
func TestClientsWaitWhileEveryReplicaIsGone(t *testing.T) {
	ctx, c := setup(t, 8*time.Minute)
	class := createClass(ctx, t, c, parameters(names.Driver+"/placementCount", "2"))
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared"}))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	must(t, c.WaitRunning(ctx, "user"))
	server := must1(c.WaitServing(ctx, volume.Name))(t).Status.Node
	file := scenario.DataPath + "/file"
	acknowledged := number(t, must1(c.Exec(ctx, "user", scenario.Workload, "write", file, "--for", "2s"))(t), "written", "last")

	began := time.Now()
	replicas := replicaNodes(ctx, t, volume.Name, server)
	t.Cleanup(func() { powerOn(context.WithoutCancel(ctx), t, replicas...) })
	for _, node := range replicas {
		must(t, node.PowerOff(ctx))
	}
	var continued string
	written := make(chan error, 1)
	go func() {
		var err error
		continued, err = c.Exec(ctx, "user", scenario.Workload, "write", file, "--for", "1s")
		written <- err
	}()
	export := must1(c.WaitExport(ctx, volume.Name, "known to be served by nobody", func(export *v1alpha1.NFSExport) bool {
		return export.Status.Phase == v1alpha1.PhaseFailed && !meta.IsStatusConditionTrue(export.Status.Conditions, v1alpha1.ConditionReady)
	}))(t)
	t.Logf("after %s: %s", time.Since(began).Round(time.Second), export.Status.Message)
	eventSince(ctx, t, c, "shared", "UpToDate", began)
	select {
	case err := <-written:
		t.Errorf("a write without any replica ended: %v", err)
	default:
	}

	powerOn(ctx, t, replicas...)
	must(t, <-written)
	must1(c.WaitServing(ctx, volume.Name))(t)
	must1(c.Exec(ctx, "user", scenario.Workload, "check", file))(t)
	if first := number(t, continued, "writing", "first"); first != acknowledged+1 {
		t.Errorf("line %d was acknowledged, and the next writer went on with line %d", acknowledged, first)
	}
}

// number is what a workload said by an event.
func number(t *testing.T, output, event, field string) int {
	t.Helper()
	for line := range strings.Lines(output) {
		var said map[string]any
		must(t, json.Unmarshal([]byte(line), &said))
		if value, ok := said[field].(float64); ok && said["event"] == event {
			return int(value)
		}
	}
	t.Fatalf("no %s in an event %s: %s", field, event, output)
	return 0
}

// replicaNodes are the nodes that have the volume on a disk, the server first.
func replicaNodes(ctx context.Context, t *testing.T, volume, server string) []*lab.Node {
	t.Helper()
	var nodes []*lab.Node
	tiebreakers := 0
	for _, resource := range definition(ctx, t, volume).Resources {
		node := must1(laboratory.Node(resource.Node))(t)
		switch {
		case resource.Diskless && node.Storage:
			tiebreakers++
		case resource.Diskless:
		case node.Name == server:
			nodes = append([]*lab.Node{node}, nodes...)
		default:
			nodes = append(nodes, node)
		}
	}
	if len(nodes) != 2 || tiebreakers != 1 || nodes[0].Name != server {
		t.Fatalf("volume %s has %d replicas and %d tiebreakers, and node %s serves", volume, len(nodes), tiebreakers, server)
	}
	return nodes
}

// powerOn switches on those nodes that are off, and waits for them.
func powerOn(ctx context.Context, t *testing.T, nodes ...*lab.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, node := range nodes {
		if !node.Running() {
			must(t, node.PowerOn(ctx))
		}
	}
	for _, node := range nodes {
		must(t, node.WaitReady(ctx))
	}
}
