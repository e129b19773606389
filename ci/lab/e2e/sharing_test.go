package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// Pods on two nodes read what the other wrote, and exclude each other by both
// kinds of locks.
func TestPodsOnTwoNodesShareDataAndExcludeEachOther(t *testing.T) {
	t.Parallel()
	ctx, c := setup(t, 4*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "first", Node: storageNode, Claim: "shared"}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "second", Node: consumerNode, Claim: "shared"}))
	must(t, c.WaitRunning(ctx, "first", "second"))

	must1(c.Exec(ctx, "first", scenario.Workload, "write", scenario.DataPath+"/of-first", "--for", "2s"))(t)
	must1(c.Exec(ctx, "second", scenario.Workload, "check", scenario.DataPath+"/of-first"))(t)
	must1(c.Exec(ctx, "second", scenario.Workload, "write", scenario.DataPath+"/of-second", "--for", "2s"))(t)
	must1(c.Exec(ctx, "first", scenario.Workload, "check", scenario.DataPath+"/of-second"))(t)

	for _, kind := range []string{"fcntl", "flock"} {
		t.Run(kind, func(t *testing.T) {
			file := scenario.DataPath + "/lock-" + kind
			held := make(chan error, 1)
			go func() {
				_, err := c.Exec(ctx, "first", scenario.Workload, "lock", file, "--type", kind, "--hold", "8s")
				held <- err
			}()
			must(t, scenario.WaitFor(ctx, "the lock to be held", func(ctx context.Context) (bool, error) {
				out, err := c.Exec(ctx, "second", scenario.Workload, "lock", file, "--type", kind, "--try", "--hold", "1ms")
				return err != nil && strings.Contains(out, "denied"), nil
			}))
			// Nobody gets it while it is held.
			if out, err := c.Exec(ctx, "second", scenario.Workload, "steal", file, "--type", kind, "--for", "2s"); err != nil {
				t.Errorf("the lock was not kept: %v: %s", err, out)
			}
			// Whoever waits for it gets it when it is released.
			out := must1(c.Exec(ctx, "second", scenario.Workload, "lock", file, "--type", kind, "--hold", "1ms"))(t)
			if !strings.Contains(out, "acquired") {
				t.Errorf("the released lock was not acquired: %s", out)
			}
			must(t, <-held)
		})
	}
}
