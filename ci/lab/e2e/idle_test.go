package e2e

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// An export that nobody uses costs nothing: after the last detach its server
// stops and the volume is Secondary everywhere. The next attach brings it back
// within 3 seconds, data and all.
func TestIdleExportStopsAndComesBackWithinThreeSeconds(t *testing.T) {
	ctx, c := setup(t, 4*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared"}))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	must(t, c.WaitRunning(ctx, "user"))
	must1(c.Exec(ctx, "user", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "1s"))(t)
	must1(c.WaitServing(ctx, volume.Name))(t)

	must(t, c.DeletePods(ctx, "user"))
	must(t, c.WaitDetached(ctx, volume.Name))
	must1(c.WaitIdle(ctx, volume.Name))(t)
	time.Sleep(12 * time.Second) // every supervisor has had its say by then
	idle := must1(c.Exports.Get(ctx, volume.Name, metav1.GetOptions{}))(t)
	time.Sleep(2 * time.Second)
	if now := must1(c.Exports.Get(ctx, volume.Name, metav1.GetOptions{}))(t); now.ResourceVersion != idle.ResourceVersion {
		t.Errorf("an idle export is written again and again: it was %+v, it is %+v", idle.Status, now.Status)
	}
	if primary := primaryNode(ctx, t, volume.Name); primary != "" {
		t.Errorf("node %s is still Primary of an idle export", primary)
	}

	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: storageNode, Claim: "shared"}))
	attached := must1(c.WaitAttached(ctx, volume.Name))(t)
	export := must1(c.WaitExport(ctx, volume.Name, "served", func(export *v1alpha1.NFSExport) bool {
		return export.Status.Phase == v1alpha1.PhaseServing || export.Status.Phase == v1alpha1.PhaseGrace
	}))(t)
	if took := time.Since(attached); took > 3*time.Second {
		t.Errorf("served again %s after the attach, want within 3 s", took.Round(10*time.Millisecond))
	}
	t.Logf("served again on node %s", export.Status.Node)
	must(t, c.WaitRunning(ctx, "user"))
	must1(c.Exec(ctx, "user", scenario.Workload, "check", scenario.DataPath+"/file"))(t)
}
