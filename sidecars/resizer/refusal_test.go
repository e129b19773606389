package resizer

import (
	"errors"
	"testing"

	"github.com/kubernetes-csi/external-resizer/v2/pkg/util"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/exports/fake"
	"github.com/linbit/linstor-rwx/pkg/linstor"
)

// csiError is how linstor-csi 1.11 passes on what LINSTOR says; the structure that
// it prints holds addresses, which differ from try to try.
func csiError(cause string) error {
	return status.Error(codes.Internal, "ControllerExpandVolume - expand volume failed for &{pvc-11 map[0:2147483648] rwx-1 ext4 map[] 0xc0004e2300}: "+cause)
}

func TestRefusalIsOneSentenceThatSaysWhich(t *testing.T) {
	yes := true
	replica := func(node, state string) linstor.Replica {
		return linstor.Replica{Node: node, InUse: &yes, Volumes: map[int]linstor.ReplicaVolume{0: {DiskState: state}, 1: {DiskState: "UpToDate"}}}
	}
	const notUpToDate = "Message: 'Cannot resize volume, because we have a non-UpToDate DRBD device.'"
	for name, test := range map[string]struct {
		answer  error
		linstor *controller
		want    string
	}{
		"a replica is Outdated": {csiError(notUpToDate), &controller{replicas: []linstor.Replica{replica("n1", "UpToDate"), replica("n2", "Outdated")}},
			"LINSTOR refuses: Cannot resize volume, because we have a non-UpToDate DRBD device; it grows volumes only while all replicas are UpToDate, and volume 0 on node n2 is Outdated"},
		"a node is offline": {csiError(notUpToDate + "; Reports: '[654A-00000-000001]'"), &controller{replicas: []linstor.Replica{replica("n1", "UpToDate"), {Node: "n3"}}},
			"LINSTOR refuses: Cannot resize volume, because we have a non-UpToDate DRBD device; it grows volumes only while all replicas are UpToDate, and node n3 is offline in LINSTOR"},
		"not enough space": {csiError("Message: 'Cannot grow the volume definition by 1048576KiB, as the following storage pool do not have enough free space:\nNode: n1, StorPool: thick\nNode: n2, StorPool: thick'; Reports: '[654A-00000-000002]'"),
			&controller{},
			"LINSTOR refuses: Cannot grow the volume definition by 1048576KiB, as the following storage pool do not have enough free space: Node: n1, StorPool: thick Node: n2, StorPool: thick"},
		"a snapshot on thick LVM": {csiError("Message: 'Volume definition 0 of 'pvc-11' cannot be resized because snapshot 'daily' exists on node 'n1' on thick LVM storage. Delete the snapshot(s) of this resource first.'"),
			&controller{},
			"LINSTOR refuses: Volume definition 0 of 'pvc-11' cannot be resized because snapshot 'daily' exists on node 'n1' on thick LVM storage. Delete the snapshot(s) of this resource first"},
		"a node failed, with what worked": {csiError("Message: 'Volume definition with number '0' of resource definition 'pvc-11' modified.' next error: Message: '(Node: 'n2') Failed to resize the volume'; Cause: 'lvextend: no space'; Reports: '[1]' next error: Message: 'Updated volume 0 of pvc-11 on n1'"),
			&controller{}, "LINSTOR refuses: (Node: 'n2') Failed to resize the volume"},
		"LINSTOR is down": {csiError("get volumeDefinitions failed volumeInfo: &{pvc-11 0xc000123}, err: Get \"http://linstor:3370/\": read tcp 10.244.1.5:43212->10.96.0.3:3370: connection reset by peer"),
			&controller{err: linstor.ErrUnreachable}, "the LINSTOR controller cannot be reached"},
		"LINSTOR was down for a moment": {csiError("connection refused"), &controller{}, "ControllerExpandVolume - expand volume failed for it: connection refused"},
		"LINSTOR answers the driver only": {csiError(notUpToDate), &controller{err: linstor.ErrUnreachable},
			"LINSTOR refuses: Cannot resize volume, because we have a non-UpToDate DRBD device"},
		"no answer in time": {status.Error(codes.DeadlineExceeded, "context deadline exceeded"), &controller{},
			"the CSI driver did not answer in time, LINSTOR may still be at work"},
	} {
		t.Run(name, func(t *testing.T) {
			exports := fake.New(newExport())
			report(t, exports, metav1.ConditionTrue, "")
			calls := 0
			driver := inner{refuses: func(resource.Quantity) error {
				calls++
				return test.answer
			}}
			size, _, err := wrap(driver, exports, test.linstor).Resize(newVolume(), large)
			if err == nil || err.Error() != test.want || size.Cmp(small) != 0 {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
			if calls != 1 {
				t.Errorf("the driver was asked %d times", calls)
			}
			if util.IsFinalError(err) != util.IsFinalError(test.answer) || status.Code(err) != status.Code(test.answer) {
				t.Errorf("the status changed: %v", status.Code(err))
			}
			export, err := exports.Get(t.Context(), "pvc-11", metav1.GetOptions{})
			if err != nil || export.Spec.Size.Cmp(small) != 0 {
				t.Errorf("the export was changed: %v", err)
			}
		})
	}
}

func TestFailureBeforeTheDriverIsCalledPassesThrough(t *testing.T) {
	exports := fake.New(newExport())
	report(t, exports, metav1.ConditionTrue, "")
	cause := errors.New("getting secret")
	driver := inner{refuses: func(resource.Quantity) error { return cause }}
	if _, _, err := wrap(driver, exports, &controller{}).Resize(newVolume(), large); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
