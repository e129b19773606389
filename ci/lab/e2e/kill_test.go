package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// rwx-provisioner is killed in the middle of its work. The next process finishes what
// it began, and makes nothing twice.
func TestKilledProvisionerLeavesNothingHalfDone(t *testing.T) {
	const claims = 8
	ctx, c := setup(t, 4*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	node := must1(laboratory.Node(controllerNode(ctx, t, c)))(t)

	for i := range claims {
		must(t, c.CreateClaim(ctx, scenario.Claim{Name: fmt.Sprintf("shared-%d", i), Class: class}))
	}
	must(t, scenario.WaitFor(ctx, "a first export to have its Service", func(ctx context.Context) (bool, error) {
		exports, err := c.Exports.List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, export := range exports.Items {
			if export.Spec.Service != nil {
				return true, nil
			}
		}
		return false, nil
	}))
	must(t, node.KillProcess(ctx, "^/usr/bin/rwx-provisioner"))

	addresses, ids := map[string]bool{}, map[int32]bool{}
	for i := range claims {
		volume := must1(c.WaitBound(ctx, fmt.Sprintf("shared-%d", i)))(t)
		export := must1(c.WaitIdle(ctx, volume.Name))(t)
		addresses[export.Spec.Service.ClusterIP], ids[export.Spec.ExportID] = true, true
		if volumes := len(definition(ctx, t, volume.Name).Volumes); volumes != 2 {
			t.Errorf("volume %s has %d DRBD volumes, want data and records", volume.Name, volumes)
		}
	}
	if len(addresses) != claims || len(ids) != claims {
		t.Errorf("%d claims have %d addresses and %d export ids", claims, len(addresses), len(ids))
	}
	exports := must1(c.Exports.List(ctx, metav1.ListOptions{}))(t)
	state := must1(laboratory.Storage().State(ctx))(t)
	if len(exports.Items) != claims || len(state.Definitions) != claims {
		t.Errorf("%d claims have %d exports and %d resource definitions", claims, len(exports.Items), len(state.Definitions))
	}
}
