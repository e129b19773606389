package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	lapi "github.com/LINBIT/golinstor/client"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

func mebibytes(count int64) resource.Quantity {
	return *resource.NewQuantity(count<<20, resource.BinarySI)
}

// growAndSee grows a claim and fails the test unless df in the pods shows the growth
// at the moment when the claim does. df never shows all of a device.
func growAndSee(ctx context.Context, t *testing.T, c *scenario.Cluster, claim string, from, to int64, pods ...string) {
	t.Helper()
	before := map[string]int64{}
	for _, pod := range pods {
		before[pod] = must1(c.Space(ctx, pod))(t)
	}
	asked, shown, err := c.Grow(ctx, claim, mebibytes(to))
	must(t, err)
	for _, pod := range pods {
		if now := must1(c.Space(ctx, pod))(t); now-before[pod] < (to-from)<<20*8/10 {
			t.Errorf("the claim shows %d MiB after %d; df in pod %s shows %d MiB after %d", to, from, pod, now>>20, before[pod]>>20)
		}
	}
	t.Logf("grew to %d MiB in %.2f s", to, shown.Sub(asked).Seconds())
}

// A claim that is in use grows while clients on two nodes write, and shows the new
// size when every client sees it. The server goes on, and no kubelet looks for a
// filesystem behind its NFS mount.
func TestServedClaimGrowsOnline(t *testing.T) {
	for fsType, sizes := range map[string][]int64{"ext4": {64, 256, 300}, "xfs": {320, 384, 640}} {
		t.Run(fsType, func(t *testing.T) {
			ctx, c := setup(t, 3*time.Minute)
			class := createClass(ctx, t, c, scenario.Class{FSType: fsType})
			first := mebibytes(sizes[0])
			must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class, Size: first.String()}))
			pods := map[string]string{"user-1": consumerNode, "user-2": storageNode}
			for pod, node := range pods {
				must(t, c.CreatePod(ctx, scenario.Pod{Name: pod, Node: node, Claim: "shared"}))
			}
			must(t, c.WaitRunning(ctx, "user-1", "user-2"))
			volume := must1(c.WaitBound(ctx, "shared"))(t)
			before := must1(c.WaitServing(ctx, volume.Name))(t)
			expansions := nodeExpansions(ctx, t, c, consumerNode, storageNode)

			written := make(chan error, 1)
			go func() {
				_, err := c.Exec(ctx, "user-1", scenario.Workload, "write", scenario.DataPath+"/file", "--every", "10ms", "--for", "8s")
				written <- err
			}()
			for i, size := range sizes[1:] {
				growAndSee(ctx, t, c, "shared", sizes[i], size, "user-1", "user-2")
			}
			must(t, <-written)
			must1(c.Exec(ctx, "user-2", scenario.Workload, "check", scenario.DataPath+"/file"))(t)

			last := mebibytes(sizes[len(sizes)-1])
			if pv := must1(c.Client.CoreV1().PersistentVolumes().Get(ctx, volume.Name, metav1.GetOptions{}))(t); !pv.Spec.Capacity.Storage().Equal(last) {
				t.Errorf("the volume shows %s", pv.Spec.Capacity.Storage())
			}
			claim := must1(c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, "shared", metav1.GetOptions{}))(t)
			if claim.Annotations["volume.kubernetes.io/node-expansion-not-required"] != "true" || len(claim.Status.Conditions) > 0 {
				t.Errorf("annotations %v, conditions %v", claim.Annotations, claim.Status.Conditions)
			}
			after := must1(c.WaitServing(ctx, volume.Name))(t)
			if after.Status.BootEpoch != before.Status.BootEpoch {
				t.Errorf("the server was started %d times", after.Status.BootEpoch-before.Status.BootEpoch)
			}
			// kubelets look at their volumes again with each change of a pod.
			for pod := range pods {
				patch := []byte(`{"metadata":{"annotations":{"look":"again"}}}`)
				must1(c.Client.CoreV1().Pods(c.Namespace).Patch(ctx, pod, types.MergePatchType, patch, metav1.PatchOptions{}))(t)
			}
			time.Sleep(2 * time.Second)
			if now := nodeExpansions(ctx, t, c, consumerNode, storageNode); now != expansions {
				t.Errorf("kubelets called NodeExpandVolume %d times", now-expansions)
			}
		})
	}
}

// csiCalls matches what a kubelet counts of the calls to a driver.
var csiCalls = regexp.MustCompile(`(?m)^csi_operations_seconds_count\{driver_name="` + regexp.QuoteMeta(names.Driver) + `".*method_name="/csi\.v1\.Node/(\w+)".*\} (\d+)$`)

// nodeExpansions is how often the nodes' kubelets had the driver grow a filesystem.
func nodeExpansions(ctx context.Context, t *testing.T, c *scenario.Cluster, nodes ...string) int {
	t.Helper()
	expansions, mounts := 0, 0
	for _, node := range nodes {
		page := must1(c.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("metrics").DoRaw(ctx))(t)
		for _, match := range csiCalls.FindAllSubmatch(page, -1) {
			count := must1(strconv.Atoi(string(match[2])))(t)
			switch string(match[1]) {
			case "NodeExpandVolume":
				expansions += count
			case "NodePublishVolume":
				mounts += count
			}
		}
	}
	if mounts == 0 {
		t.Fatal("the kubelets count no calls: nothing can be told from it")
	}
	return expansions
}

// A claim that nobody uses grows by itself: a node promotes the volume, grows the
// filesystem and lets it go. Nobody has to attach it, before or after.
func TestIdleClaimGrowsWithoutAnyClient(t *testing.T) {
	t.Parallel()
	ctx, c := setup(t, 3*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	for _, size := range []int64{128, 256} { // nobody has opened it; it was opened
		asked, shown, err := c.Grow(ctx, "shared", mebibytes(size))
		must(t, err)
		t.Logf("grew to %d MiB in %.2f s", size, shown.Sub(asked).Seconds())
		export := must1(c.WaitIdle(ctx, volume.Name))(t)
		if export.Status.Size == nil || export.Status.Size.Value() < size<<20*8/10 || export.Status.BootEpoch != 0 {
			t.Errorf("size %v after %d starts of a server", export.Status.Size, export.Status.BootEpoch)
		}
		must(t, scenario.WaitFor(ctx, "the volume to be released", func(ctx context.Context) (bool, error) {
			return primaryNode(ctx, t, volume.Name) == "", nil
		}))
	}
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared"}))
	must(t, c.WaitRunning(ctx, "user"))
	if space := must1(c.Space(ctx, "user"))(t); space < 256<<20*8/10 {
		t.Errorf("the claim shows 256 MiB, df %d", space>>20)
	}
}

// A claim may be resized the moment it is bound, before any node has looked at its
// volume.
func TestClaimThatNoNodeHasLookedAtGrowsWhenOneHas(t *testing.T) {
	ctx, c := setup(t, 3*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	var storage []*lab.Node
	for _, node := range laboratory.Nodes() {
		if node.Storage {
			storage = append(storage, node)
		}
	}
	resume := func(ctx context.Context) {
		for _, node := range storage {
			must(t, node.Resume(ctx, supervisorProcess))
		}
	}
	t.Cleanup(func() { resume(context.Background()) })
	for _, node := range storage {
		must(t, node.Pause(ctx, supervisorProcess))
	}
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	must(t, c.AskSize(ctx, "shared", mebibytes(128)))
	event := must1(c.WaitEvent(ctx, "PersistentVolumeClaim", "shared", "no node has looked at it yet"))(t)
	t.Logf("%s", event.Message)
	if size := deviceMebibytes(ctx, t, volume.Name); size != 64 {
		t.Errorf("the volume has %d MiB although nobody could tell that it grew", size)
	}
	resume(ctx)
	must(t, c.WaitCapacity(ctx, "shared", mebibytes(128)))
	export := must1(c.WaitIdle(ctx, volume.Name))(t)
	if export.Status.Size == nil || export.Status.Size.Value() < 128<<20*8/10 {
		t.Errorf("the claim shows 128 MiB, the filesystem has %v", export.Status.Size)
	}
}

const supervisorProcess = "^/usr/bin/ganesha-supervisor"

// deviceMebibytes is the size of a volume's VolNr 0 that all nodes have.
func deviceMebibytes(ctx context.Context, t *testing.T, volume string) int64 {
	t.Helper()
	for _, v := range definition(ctx, t, volume).Volumes {
		if v.Number == names.DataVolume {
			return v.DeviceKiB >> 10
		}
	}
	t.Fatalf("volume %s has no data", volume)
	return 0
}

// The serving node loses its power after the device has grown and before the
// filesystem has: the next server grows it, and the claim shows it only then.
func TestFailOverInTheMiddleOfAGrowthConverges(t *testing.T) {
	ctx, c := setup(t, 4*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared"}))
	must(t, c.WaitRunning(ctx, "user"))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	// Nobody grows claims until Kubernetes has replaced a controller that dies, too.
	export := serveBesideController(ctx, t, c, volume.Name)
	before := must1(c.Space(ctx, "user"))(t)

	server := must1(laboratory.Node(export.Status.Node))(t)
	must(t, server.Pause(ctx, supervisorProcess))
	must(t, c.AskSize(ctx, "shared", mebibytes(512)))
	must(t, scenario.WaitFor(ctx, "the device to grow", func(ctx context.Context) (bool, error) {
		return deviceMebibytes(ctx, t, volume.Name) == 512, nil
	}))
	if capacity := must1(c.Capacity(ctx, "shared"))(t); capacity.Cmp(mebibytes(64)) != 0 {
		t.Errorf("the claim shows %s although nobody can have grown the filesystem", capacity.String())
	}
	if space := must1(c.Space(ctx, "user"))(t); space != before {
		t.Errorf("df went from %d to %d: this was not the middle", before, space)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		powerOn(ctx, t, server)
	})
	must(t, server.PowerOff(ctx))
	must(t, c.WaitCapacity(ctx, "shared", mebibytes(512)))
	if space := must1(c.Space(ctx, "user"))(t); space < 512<<20*8/10 {
		t.Errorf("the claim shows 512 MiB, df %d", space>>20)
	}
	moved := must1(c.WaitServing(ctx, volume.Name))(t)
	t.Logf("node %s finished what node %s began", moved.Status.Node, server.Name)
}

// serveBesideController makes sure that the export is served by another node than
// the one with the controller.
func serveBesideController(ctx context.Context, t *testing.T, c *scenario.Cluster, volume string) *v1alpha1.NFSExport {
	t.Helper()
	export := must1(c.WaitServing(ctx, volume))(t)
	if controllerNode(ctx, t, c) != export.Status.Node {
		return export
	}
	replicas := definition(ctx, t, volume).Resources
	at := slices.IndexFunc(replicas, func(r control.Resource) bool { return !r.Diskless && r.Node != export.Status.Node })
	if at < 0 {
		t.Fatalf("volume %s has no other replica", volume)
	}
	must(t, c.Move(ctx, volume, replicas[at].Node))
	return must1(c.WaitExport(ctx, volume, "served by node "+replicas[at].Node, func(export *v1alpha1.NFSExport) bool {
		return export.Status.Node == replicas[at].Node && export.Status.Phase == v1alpha1.PhaseServing
	}))(t)
}

// refusal is a growth that LINSTOR refuses.
type refusal struct {
	class scenario.Class
	// obstruct makes LINSTOR refuse, mend lets it grow the volume again, unless the
	// obstacle goes by itself; replica is a node that has one.
	obstruct, mend func(ctx context.Context, volume, replica string) error
	ask            int64
	// says is in the event, REPLICA standing for the node.
	says []string
	// sentences is how many different ones the claim may get.
	sentences int
	// instead is asked for when there is nothing to mend.
	instead int64
}

// What LINSTOR refuses is one clear event, and the volume is left as it is. When the
// obstacle is gone the claim grows by itself; where none is to be removed it may ask
// for less.
func TestRefusedGrowthIsOneClearEventAndRecovers(t *testing.T) {
	storage := laboratory.Storage()
	for name, test := range map[string]refusal{
		"a replica is Outdated": {
			obstruct: func(ctx context.Context, volume, replica string) error {
				return storage.SetDiskState(ctx, replica, volume, names.DataVolume, "Outdated")
			},
			mend: func(ctx context.Context, volume, replica string) error {
				return storage.SetDiskState(ctx, replica, volume, names.DataVolume, "UpToDate")
			},
			ask: 128, says: []string{"volume 0 on node REPLICA is Outdated"}, sentences: 1,
		},
		"the recovery volume is Inconsistent": {
			obstruct: func(ctx context.Context, volume, replica string) error {
				return storage.SetDiskState(ctx, replica, volume, names.RecoveryVolume, "Inconsistent")
			},
			mend: func(ctx context.Context, volume, replica string) error {
				return storage.SetDiskState(ctx, replica, volume, names.RecoveryVolume, "UpToDate")
			},
			ask: 128, says: []string{"volume 1 on node REPLICA is Inconsistent"}, sentences: 1,
		},
		"a node is offline": {
			obstruct: func(ctx context.Context, _, replica string) error { return storage.SatelliteOffline(ctx, replica) },
			mend:     func(ctx context.Context, _, replica string) error { return storage.SatelliteOnline(ctx, replica) },
			ask:      128, says: []string{"node REPLICA is offline in LINSTOR"}, sentences: 1,
		},
		"no space in a thick pool": {
			class: parameters(names.Driver+"/storagePool", "thick"),
			ask:   1 << 20, says: []string{"not have enough free space", "StorPool: thick"}, sentences: 1, instead: 96,
		},
		"more than DRBD can": {
			ask: 2 << 30, says: []string{"too big"}, sentences: 1, instead: 96,
		},
		"no space in a thin pool, which LINSTOR sees too late": {
			obstruct: func(ctx context.Context, volume, replica string) error {
				return storage.SetDeploy(ctx, replica, control.Deploy{Failures: 2, Resource: volume, Message: "lvextend: thin pool is full"})
			},
			// LINSTOR is told to try again, and the third try works.
			ask: 128, says: []string{"lvextend: thin pool is full"}, sentences: 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, c := setup(t, 2*time.Minute)
			class := createClass(ctx, t, c, test.class)
			must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
			volume := must1(c.WaitBound(ctx, "shared"))(t)
			must1(c.WaitIdle(ctx, volume.Name))(t)
			replica := replicaNode(ctx, t, volume.Name)
			must(t, scenario.WaitFor(ctx, "the replicas to be UpToDate", func(context.Context) (bool, error) {
				err := definition(ctx, t, volume.Name).Stale()
				return err == nil, err
			}))
			if test.obstruct != nil {
				must(t, test.obstruct(ctx, volume.Name, replica))
			}
			if test.mend != nil {
				t.Cleanup(func() { must(t, test.mend(context.Background(), volume.Name, replica)) })
			}
			must(t, c.AskSize(ctx, "shared", mebibytes(test.ask)))
			says := strings.ReplaceAll(test.says[0], "REPLICA", replica)
			event := must1(c.WaitEvent(ctx, "PersistentVolumeClaim", "shared", says))(t)
			t.Logf("%s", event.Message)
			for _, text := range test.says {
				if text = strings.ReplaceAll(text, "REPLICA", replica); !strings.Contains(event.Message, text) {
					t.Errorf("the event does not say %q", text)
				}
			}
			untouched(ctx, t, c, volume.Name)

			want := mebibytes(test.ask)
			if test.instead > 0 {
				want = mebibytes(test.instead)
				must(t, c.AskSize(ctx, "shared", want))
			}
			if test.mend != nil {
				must(t, test.mend(ctx, volume.Name, replica))
			}
			must(t, c.WaitCapacity(ctx, "shared", want))
			if size := deviceMebibytes(ctx, t, volume.Name); size != want.Value()>>20 {
				t.Errorf("the claim shows %s, the device has %d MiB", want.String(), size)
			}
			if said := warnings(ctx, t, c, "shared"); len(said) > test.sentences {
				t.Errorf("%d different warnings: %q", len(said), said)
			}
		})
	}
}

// untouched fails the test unless claim and device have their first size.
func untouched(ctx context.Context, t *testing.T, c *scenario.Cluster, volume string) {
	t.Helper()
	capacity := must1(c.Capacity(ctx, "shared"))(t)
	if device := deviceMebibytes(ctx, t, volume); capacity.Cmp(mebibytes(64)) != 0 || device != 64 {
		t.Errorf("the claim shows %s, the device has %d MiB", capacity.String(), device)
	}
}

// replicaNode is a node that has a volume on its disk.
func replicaNode(ctx context.Context, t *testing.T, volume string) string {
	t.Helper()
	resources := definition(ctx, t, volume).Resources
	at := slices.IndexFunc(resources, func(r control.Resource) bool { return !r.Diskless })
	if at < 0 {
		t.Fatalf("volume %s is on no node", volume)
	}
	return resources[at].Node
}

// warnings are the different warnings of a claim.
func warnings(ctx context.Context, t *testing.T, c *scenario.Cluster, claim string) []string {
	t.Helper()
	var said []string
	for _, event := range must1(c.Events(ctx, "PersistentVolumeClaim", claim))(t) {
		if event.Type == corev1.EventTypeWarning && !slices.Contains(said, event.Message) {
			said = append(said, event.Message)
		}
	}
	return said
}

// A claim cannot ask for less than it has.
func TestClaimNeverShrinks(t *testing.T) {
	t.Parallel()
	ctx, c := setup(t, 2*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	if err := c.AskSize(ctx, "shared", mebibytes(32)); !apierrors.IsInvalid(err) {
		t.Errorf("asking for less: %v", err)
	}
	untouched(ctx, t, c, volume.Name)
}

// A snapshot suspends all I/O of a volume while it is taken: a growth that meets it
// waits with the clients, and ends well.
func TestGrowthDuringASnapshotWaitsAndEndsWell(t *testing.T) {
	const suspended = 5 * time.Second
	ctx, c := setup(t, 2*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "user", Node: consumerNode, Claim: "shared"}))
	must(t, c.WaitRunning(ctx, "user"))
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	before := must1(c.WaitServing(ctx, volume.Name))(t)

	must(t, laboratory.Storage().SetSuspendTime(ctx, suspended))
	t.Cleanup(func() { must(t, laboratory.Storage().SetSuspendTime(context.Background(), 0)) })
	api := must1(scenario.LINSTOR())(t)
	t.Cleanup(func() { must(t, api.Resources.DeleteSnapshot(context.Background(), volume.Name, "during")) })
	taken := make(chan error, 1)
	began := time.Now()
	go func() {
		taken <- api.Resources.CreateSnapshot(ctx, lapi.Snapshot{Name: "during", ResourceName: volume.Name})
	}()
	time.Sleep(time.Second)
	growAndSee(ctx, t, c, "shared", 64, 256) // df would wait, too
	if took := time.Since(began); took < suspended {
		t.Errorf("the claim shows its new size after %s, while all I/O was suspended", took)
	}
	must(t, <-taken)
	if space := must1(c.Space(ctx, "user"))(t); space < 256<<20*8/10 {
		t.Errorf("the claim shows 256 MiB, df %d", space>>20)
	}
	after := must1(c.WaitServing(ctx, volume.Name))(t)
	if after.Status.BootEpoch != before.Status.BootEpoch {
		t.Errorf("the server was started %d times", after.Status.BootEpoch-before.Status.BootEpoch)
	}
}

// A copy may be larger than its source: its filesystem is, too.
func TestCloneIntoALargerClaimIsLarger(t *testing.T) {
	t.Parallel()
	ctx, c := setup(t, 3*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "source", Class: class}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "writer", Node: consumerNode, Claim: "source"}))
	must(t, c.WaitRunning(ctx, "writer"))
	must1(c.Exec(ctx, "writer", scenario.Workload, "write", scenario.DataPath+"/file", "--for", "500ms"))(t)

	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "copy", Class: class, Size: "256Mi", CloneOf: "source"}))
	must(t, c.CreatePod(ctx, scenario.Pod{Name: "reader", Node: storageNode, Claim: "copy"}))
	must1(c.WaitBound(ctx, "copy"))(t)
	must(t, c.WaitRunning(ctx, "reader"))
	must1(c.Exec(ctx, "reader", scenario.Workload, "check", scenario.DataPath+"/file"))(t)
	if space := must1(c.Space(ctx, "reader"))(t); space < 256<<20*8/10 {
		t.Errorf("the copy's claim shows 256 MiB, df %d", space>>20)
	}
	growAndSee(ctx, t, c, "copy", 256, 320, "reader")
}

// Claims that are not exported grow as with the plain csi-resizer: the device at
// once, the filesystem by the node that mounts it.
func TestOtherClaimsGrowAsWithThePlainResizer(t *testing.T) {
	t.Parallel()
	ctx, c := setup(t, 2*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "plain", Class: class, Modes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}}))
	volume := must1(c.WaitBound(ctx, "plain"))(t)
	must(t, c.AskSize(ctx, "plain", mebibytes(128)))
	must(t, scenario.WaitFor(ctx, "the device to grow and the filesystem to wait for its node", func(ctx context.Context) (bool, error) {
		claim, err := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, "plain", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		pending := slices.ContainsFunc(claim.Status.Conditions, func(condition corev1.PersistentVolumeClaimCondition) bool {
			return condition.Type == corev1.PersistentVolumeClaimFileSystemResizePending && condition.Status == corev1.ConditionTrue
		})
		if size := claim.Status.Capacity.Storage(); size.Cmp(mebibytes(64)) != 0 {
			return false, fmt.Errorf("the claim shows %s already", size)
		}
		return pending && deviceMebibytes(ctx, t, volume.Name) == 128, nil
	}))
	pv := must1(c.Client.CoreV1().PersistentVolumes().Get(ctx, volume.Name, metav1.GetOptions{}))(t)
	if size := pv.Spec.Capacity.Storage(); size.Cmp(mebibytes(128)) != 0 {
		t.Errorf("the volume shows %s", size)
	}
}
