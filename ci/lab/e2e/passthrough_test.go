package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Claims that are not ReadWriteMany filesystems are made as the plain
// provisioner makes them: one volume in LINSTOR, no export, a filesystem or a
// block device of the node's own.
func TestOtherClaimsBehaveAsWithThePlainProvisioner(t *testing.T) {
	t.Parallel()
	once := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	for name, claim := range map[string]scenario.Claim{
		"ReadWriteOnce":       {Modes: once},
		"block":               {Modes: once, Block: true},
		"ReadWriteMany block": {Block: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, c := setup(t, 3*time.Minute)
			claim.Name, claim.Class = "plain", createClass(ctx, t, c, scenario.Class{WaitForFirstConsumer: true})
			must(t, c.CreateClaim(ctx, claim))
			must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: storageNode, Claim: "plain", Block: claim.Block}))
			volume := must1(c.WaitBound(ctx, "plain"))(t)
			if url := volume.Spec.CSI.VolumeAttributes[names.ExportAttribute]; url != "" {
				t.Errorf("the volume is exported as %s", url)
			}
			if _, err := c.Exports.Get(ctx, volume.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("it has an NFSExport: %v", err)
			}
			if volumes := linstorVolumes(ctx, t, volume.Name); len(volumes) != 1 {
				t.Errorf("the resource definition has the volumes %v, want VolNr 0 only", volumes)
			}
			must(t, c.WaitRunning(ctx, "user"))
			if claim.Block {
				must1(c.Exec(ctx, "user", "dd", "if=/dev/zero", "of="+scenario.DevicePath, "bs=64k", "count=4", "oflag=direct"))(t)
				return
			}
			must1(c.Exec(ctx, "user", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "1s"))(t)
			mounts := must1(c.Exec(ctx, "user", "cat", "/proc/self/mounts"))(t)
			if !strings.Contains(mounts, " "+scenario.DataPath+" ext4 ") {
				t.Errorf("the pod does not see the ext4 of the volume:\n%s", mounts)
			}
		})
	}
}
