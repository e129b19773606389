package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// Twenty claims created at once all become Bound and are served.
func TestTwentyClaimsAtOnceAllServe(t *testing.T) {
	const claims = 20
	ctx, c := setup(t, 8*time.Minute)
	// Policy Always: every export is served without a pod of its own.
	class := createClass(ctx, t, c, scenario.Class{Parameters: map[string]string{"rwx.linbit.com/policy": "Always"}})
	started := time.Now()
	for i := range claims {
		must(t, c.CreateClaim(ctx, scenario.Claim{Name: fmt.Sprintf("shared-%d", i), Class: class}))
	}
	volumes := map[string]bool{}
	for i := range claims {
		volumes[must1(c.WaitBound(ctx, fmt.Sprintf("shared-%d", i)))(t).Name] = true
	}
	t.Logf("all Bound after %s", time.Since(started).Round(time.Second))
	nodes := map[string]int{}
	for volume := range volumes {
		nodes[must1(c.WaitServing(ctx, volume))(t).Status.Node]++
	}
	t.Logf("all Serving after %s, by node: %v", time.Since(started).Round(time.Second), nodes)
	if len(volumes) != claims {
		t.Errorf("%d claims got %d volumes", claims, len(volumes))
	}
	if len(nodes) < 2 {
		t.Errorf("one node serves everything: %v", nodes)
	}
}
