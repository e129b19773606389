package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// A ReadWriteMany claim becomes a volume that pods on any node mount, whatever
// the filesystem, and whether it is bound at once or with its first pod.
func TestClaimBecomesAServedAndMountedVolume(t *testing.T) {
	t.Parallel()
	for _, fsType := range []string{"ext4", "xfs"} {
		for _, wait := range []bool{false, true} {
			name := fmt.Sprintf("%s-%s", fsType, map[bool]string{false: "immediate", true: "first-consumer"}[wait])
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ctx, c := setup(t, 3*time.Minute)
				size := "64Mi"
				if fsType == "xfs" {
					size = "320Mi" // mkfs.xfs wants 300 MiB
				}
				class := createClass(ctx, t, c, scenario.Class{FSType: fsType, WaitForFirstConsumer: wait})
				must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class, Size: size}))
				must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared", UID: 1000}))
				volume := must1(c.WaitBound(ctx, "shared"))(t)
				must(t, c.WaitRunning(ctx, "user"))

				export := must1(c.WaitServing(ctx, volume.Name))(t)
				if got := volume.Spec.AccessModes; len(got) != 1 || got[0] != corev1.ReadWriteMany {
					t.Errorf("the volume's access modes are %v, not those of the claim", got)
				}
				if volume.Spec.NodeAffinity != nil {
					t.Errorf("the volume has a node affinity: %v", volume.Spec.NodeAffinity)
				}
				address := must1(url.Parse(volume.Spec.CSI.VolumeAttributes[names.ExportAttribute]))(t)
				if address.Host != fmt.Sprintf("%s:%d", export.Spec.Service.ClusterIP, names.NFSPort) || address.Path != "/"+volume.Name {
					t.Errorf("the volume is mounted from %s, the export's service is %v", address, export.Spec.Service)
				}
				mounts := must1(c.Exec(ctx, "user", "cat", "/proc/self/mounts"))(t)
				if !strings.Contains(mounts, export.Spec.Service.ClusterIP+":/"+volume.Name+" "+scenario.DataPath+" nfs4 ") {
					t.Errorf("the pod does not see an NFSv4 mount of the export:\n%s", mounts)
				}
				// A user without privileges can write: the root directory's
				// default mode lets it, since fsGroup does not reach NFS.
				must1(c.Exec(ctx, "user", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "1s"))(t)
				must1(c.Exec(ctx, "user", scenario.Workload, "check", scenario.DataPath+"/file"))(t)
				if volumes := linstorVolumes(ctx, t, volume.Name); len(volumes) != 2 {
					t.Errorf("the resource definition has the volumes %v, want VolNr 0 and 1", volumes)
				}
			})
		}
	}
}
