package lab

import (
	"slices"
	"testing"
)

func TestMountsOfExportsAreLeaksAndOthersAreNot(t *testing.T) {
	const mounts = `/dev/ubda / ext4 rw,noatime 0 0
nfsd /proc/fs/nfsd nfsd rw 0 0
sunrpc /var/lib/nfs/rpc_pipefs rpc_pipefs rw 0 0
/dev/drbd1000 /var/lib/linstor-rwx/exports/pvc-1/data ext4 rw 0 0
/dev/drbd1002 /var/lib/kubelet/plugins/x/globalmount ext4 rw 0 0
10.96.1.2:/pvc-1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-1/mount nfs4 rw,vers=4.2 0 0
`
	want := []string{
		"/dev/drbd1000 /var/lib/linstor-rwx/exports/pvc-1/data ext4",
		"10.96.1.2:/pvc-1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-1/mount nfs4",
	}
	if got := leakedMounts(mounts); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
