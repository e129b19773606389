package e2e

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// used returns a served volume with a pod that uses it.
func used(t *testing.T, class scenario.Class) (ctx context.Context, c *scenario.Cluster, volume string) {
	t.Helper()
	ctx, c = setup(t, 5*time.Minute)
	class.Name = createClass(ctx, t, c, class)
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class.Name}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared"}))
	volume = must1(c.WaitBound(ctx, "shared"))(t).Name
	must(t, c.WaitRunning(ctx, "user"))
	must1(c.WaitServing(ctx, volume))(t)
	return ctx, c, volume
}

// A claim that is deleted while a pod uses it stays until the pod is gone; then
// export, service, both volumes and the resource definition go.
func TestDeletedClaimGoesAfterItsLastPodWithEverythingThatBelongsToIt(t *testing.T) {
	t.Parallel()
	ctx, c, volume := used(t, scenario.Class{})
	must(t, c.DeleteClaim(ctx, "shared"))
	must1(c.Exec(ctx, "user", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "5s"))(t)
	export := must1(c.Exports.Get(ctx, volume, metav1.GetOptions{}))(t)
	if export.DeletionTimestamp != nil {
		t.Errorf("the export is withdrawn while a pod uses it")
	}
	must(t, c.DeletePods(ctx, "user"))
	must(t, c.WaitVolumeGone(ctx, volume))
	if volumes := linstorVolumes(ctx, t, volume); len(volumes) != 0 {
		t.Errorf("LINSTOR still has the volumes %v", volumes)
	}
}

// A volume whose claim is gone but that is still attached somewhere is refused
// deletion, with the reason on the volume.
func TestAttachedVolumeIsNotDeleted(t *testing.T) {
	t.Parallel()
	ctx, c, volume := used(t, scenario.Class{})
	// The pod keeps the claim; take the protection away, as people do. Only from
	// a claim that is being deleted: otherwise its controller puts it back.
	must(t, c.DeleteClaim(ctx, "shared"))
	must(t, scenario.WaitFor(ctx, "the claim's protection to be removed", func(ctx context.Context) (bool, error) {
		claims := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace)
		claim, err := claims.Get(ctx, "shared", metav1.GetOptions{})
		if err == nil {
			claim.Finalizers = nil
			_, err = claims.Update(ctx, claim, metav1.UpdateOptions{})
		}
		return err == nil, err
	}))
	must1(c.WaitEvent(ctx, "PersistentVolume", volume, "attached"))(t)
	must1(c.Exec(ctx, "user", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "2s"))(t)
	must(t, c.DeletePods(ctx, "user"))
	must(t, c.WaitVolumeGone(ctx, volume))
}

// With LINSTOR down, a deletion waits and finishes when it is back.
func TestDeletionWaitsForLINSTOR(t *testing.T) {
	ctx, c, volume := used(t, scenario.Class{})
	must(t, c.DeletePods(ctx, "user"))
	must1(c.WaitIdle(ctx, volume))(t)
	must(t, laboratory.Storage().ControllerDown(ctx, control.DownRefuse))
	defer func() { must(t, laboratory.Storage().ControllerUp(ctx)) }()
	must(t, c.DeleteClaim(ctx, "shared"))
	must1(c.WaitEvent(ctx, "PersistentVolume", volume, "LINSTOR"))(t)
	if _, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, volume, metav1.GetOptions{}); err != nil {
		t.Errorf("the volume is gone although LINSTOR could not be asked: %v", err)
	}
	must(t, laboratory.Storage().ControllerUp(ctx))
	must(t, c.WaitVolumeGone(ctx, volume))
}

// With the node of a replica dead, a deletion finishes when the node is back:
// until then LINSTOR still has what only that node can remove.
func TestDeletionWaitsForADeadNode(t *testing.T) {
	ctx, c, volume := used(t, scenario.Class{})
	server := must1(laboratory.Node(must1(c.WaitServing(ctx, volume))(t).Status.Node))(t)
	must(t, c.DeletePods(ctx, "user"))
	must1(c.WaitIdle(ctx, volume))(t)
	must(t, server.PowerOff(ctx))
	on := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		powerOn(ctx, t, server)
	})
	t.Cleanup(on) // before the one that looks for leaks
	must(t, c.DeleteClaim(ctx, "shared"))
	must(t, scenario.WaitFor(ctx, "the deletion to have begun", func(ctx context.Context) (bool, error) {
		found := definition(ctx, t, volume)
		if found == nil {
			return false, errors.New("LINSTOR has nothing left although a node is off")
		}
		return slices.ContainsFunc(found.Resources, func(r control.Resource) bool { return slices.Contains(r.Flags, "DELETE") }), nil
	}))
	time.Sleep(3 * time.Second)
	if definition(ctx, t, volume) == nil {
		t.Error("LINSTOR has nothing left although a node is off")
	}
	on()
	must(t, c.WaitVolumeGone(ctx, volume))
	must(t, scenario.WaitFor(ctx, "LINSTOR to have nothing left", func(ctx context.Context) (bool, error) {
		return definition(ctx, t, volume) == nil, nil
	}))
}

// Retain keeps everything: volume, export, service and data.
func TestRetainKeepsVolumeAndExport(t *testing.T) {
	t.Parallel()
	ctx, c, volume := used(t, scenario.Class{Retain: true})
	must1(c.Exec(ctx, "user", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "1s"))(t)
	must(t, c.DeletePods(ctx, "user"))
	must(t, c.DeleteClaim(ctx, "shared"))
	must(t, scenario.WaitFor(ctx, "the volume to be Released", func(ctx context.Context) (bool, error) {
		pv, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, volume, metav1.GetOptions{})
		return err == nil && pv.Status.Phase == corev1.VolumeReleased, err
	}))
	export := must1(c.WaitIdle(ctx, volume))(t)
	if export.DeletionTimestamp != nil {
		t.Errorf("the export of a retained volume is withdrawn")
	}
	_, err := c.Client.CoreV1().Services(export.Spec.Service.Namespace).Get(ctx, export.Spec.Service.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		t.Errorf("the service of a retained volume is gone")
	}
	if volumes := linstorVolumes(ctx, t, volume); len(volumes) != 2 {
		t.Errorf("LINSTOR has the volumes %v, want VolNr 0 and 1", volumes)
	}
}
