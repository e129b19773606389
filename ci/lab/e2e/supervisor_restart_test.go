package e2e

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// The death of a supervisor is not noticed by anyone who writes: the new one
// adopts the running ganesha without touching it.
func TestSupervisorRestartDoesNotDisturbARunningWrite(t *testing.T) {
	ctx, c := setup(t, 4*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared"}))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	must(t, c.WaitRunning(ctx, "user"))
	before := must1(c.WaitServing(ctx, volume.Name))(t)
	server := must1(laboratory.Node(before.Status.Node))(t)
	ganesha := must1(server.Processes(ctx, "ganesha.nfsd.*"+volume.Name))(t)
	if len(ganesha) != 1 {
		t.Fatalf("node %s runs the processes %v for the export, want one ganesha", server.Name, ganesha)
	}

	type result struct {
		out string
		err error
	}
	// The node has one processor, on which the new supervisor's container starts:
	// steps get slower, but a restart of ganesha would take longer.
	written := make(chan result, 1)
	go func() {
		out, err := c.Exec(ctx, "user", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "20s", "--gap", "2500ms")
		written <- result{out, err}
	}()
	time.Sleep(2 * time.Second)
	must(t, server.KillProcess(ctx, "^/usr/bin/ganesha-supervisor"))
	write := <-written
	must(t, write.err)
	if strings.Contains(write.out, `"event":"gap"`) {
		t.Errorf("the writer was disturbed:\n%s", write.out)
	}
	must1(c.Exec(ctx, "user", scenario.Workload, "check", scenario.DataPath+"/file"))(t)

	must(t, scenario.WaitFor(ctx, "a new supervisor", newSupervisor(c, server.Name)))
	if now := must1(server.Processes(ctx, "ganesha.nfsd.*"+volume.Name))(t); len(now) != 1 || now[0] != ganesha[0] {
		t.Errorf("ganesha was process %v before and is %v now", ganesha, now)
	}
	after := must1(c.Exports.Get(ctx, volume.Name, metav1.GetOptions{}))(t)
	if after.Status.BootEpoch != before.Status.BootEpoch || after.Status.Endpoint != before.Status.Endpoint || after.Status.Phase != before.Status.Phase {
		t.Errorf("the export changed from %+v to %+v", before.Status, after.Status)
	}
	// The new supervisor does its work: the export still stops when idle.
	must(t, c.DeletePods(ctx, "user"))
	must1(c.WaitIdle(ctx, volume.Name))(t)
}
