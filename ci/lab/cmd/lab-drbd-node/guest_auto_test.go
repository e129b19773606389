//go:build uml

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

func (g *guests) role(node, want string) {
	g.t.Helper()
	g.eventually(node+" is "+want, 3*time.Second, func() bool {
		s, err := g.State(node, "pvc-a")
		return err == nil && s.Role == want
	})
}

// What unmodified linstor-csi and kubelet do with ReadWriteOnce and block
// claims: nobody calls drbdsetup.
func TestRealKernelPromotesByWhatItDoes(t *testing.T) {
	g := newGuests(t)
	g.options.AutoPromote = true
	file := filepath.Join(t.TempDir(), "pvc-a_00000")
	g.must(os.WriteFile(file, nil, 0o600))
	g.boot("n1")
	g.boot("n2")
	g.must(g.Register(t.Context(), "n3", "none"))
	g.configure(file, "n1", "n2", "n3")

	// Formatting and mounting; the mount keeps the role.
	g.sh("n1", "blkid -p /dev/drbd1000; drbdsetup role pvc-a", 0, "Secondary")
	g.sh("n1", "mkfs.ext4 -q /dev/drbd1000 && mount /dev/drbd1000 /mnt/data && echo one >/mnt/data/file && sync && sleep 2 && drbdsetup role pvc-a", 0, "Primary")
	start := time.Now()
	g.sh("n2", "mount /dev/drbd1000 /mnt/data", 32, "can't read superblock")
	if took := time.Since(start); took < 2*time.Second || took > 5*time.Second {
		t.Errorf("mount on the peer was refused after %v, by the real one after 2.1 s", took)
	}
	g.sh("n2", "drbdsetup primary pvc-a", 11, "(-1) Multiple primaries not allowed by config")
	g.sh("n1", "drbdsetup secondary pvc-a", 11, "(-12) Device is held open by someone")

	// The pod moves: the other node mounts right after the unmount.
	g.sh("n1", "umount /mnt/data", 0)
	g.sh("n2", "blkid -p -o value -s TYPE /dev/drbd1000 && fsck.ext4 -p /dev/drbd1000 && mount /dev/drbd1000 /mnt/data && cat /mnt/data/file && echo two >>/mnt/data/file && drbdsetup role pvc-a", 0, "ext4", "one", "Primary")
	g.role("n1", drbd.Secondary)
	g.sh("n2", "umount /mnt/data", 0)
	g.role("n2", drbd.Secondary)
	g.sh("n1", "mount /dev/drbd1000 /mnt/data && cat /mnt/data/file && drbdsetup primary pvc-a && umount /mnt/data && sleep 1 && drbdsetup role pvc-a && drbdsetup secondary pvc-a", 0, "one\ntwo\n", "Primary")

	// A block claim: kubelet's loop device, and a name of the user's own.
	g.sh("n1", "insmod /usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/loop.ko; loop=$(losetup -f --show /dev/drbd1000) && dd if=/dev/zero of=$loop bs=4k count=1 conv=fsync && sleep 2 && drbdsetup role pvc-a && losetup -d $loop", 0, "Primary")
	g.role("n1", drbd.Secondary)
	g.sh("n1", "mknod /dev/data b 43 0 && exec 9<>/dev/data && dd if=/dev/zero bs=4k count=1 >&9 && sync && sleep 2 && drbdsetup role pvc-a; exec 9>&-", 0, "Primary")
	g.role("n1", drbd.Secondary)
	g.sh("n1", "(exec 9<>/dev/data; dd if=/dev/zero bs=4k count=1 >&9; sync; exec sleep 100) >/dev/null 2>&1 & sleep 2; drbdsetup role pvc-a; kill -9 $!", 0, "Primary")
	g.role("n1", drbd.Secondary)

	// A reader on the peer refuses the promotion, and reads.
	g.sh("n2", "(exec 9</dev/drbd1000; sleep 5) >/dev/null 2>&1 & dd if=/dev/drbd1000 of=/dev/null bs=4k count=1", 0)
	g.sh("n1", "dd if=/dev/zero of=/dev/drbd1000 bs=4k count=1 oflag=direct", 1, "Input/output error")
}
