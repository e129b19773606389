package linstor_test

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/linstortest"
)

// newDRBDWorld is a world whose satellites use the DRBD stand-in in place of
// the fake one.
func newDRBDWorld(t *testing.T) (*world, *drbd.Cluster) {
	t.Helper()
	replication := drbd.New(drbd.Options{})
	nodes := linstortest.Nodes(3, 1)
	for _, n := range nodes {
		replication.AddNode(n.Name)
	}
	controller, err := linstor.New(linstor.Options{StateDir: t.TempDir(), Replication: replication, Nodes: nodes, InUseDelay: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(controller)
	t.Cleanup(func() {
		for _, v := range append(controller.Violations(), replication.Violations()...) {
			t.Errorf("violation: %s", v)
		}
		controller.Close()
		server.Close()
		replication.Close()
	})
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewClient(client.BaseURL(base), client.Log(nil))
	if err != nil {
		t.Fatal(err)
	}
	return &world{Cluster: &linstortest.Cluster{Controller: controller, URL: server.URL}, Client: c, t: t}, replication
}

// TestPlacedVolumesArePromotable: what LINSTOR deploys, DRBD promotes; LINSTOR
// knows it from DRBD's events only, and late.
func TestPlacedVolumesArePromotable(t *testing.T) {
	for _, pool := range []string{"pool", "thick"} {
		t.Run(pool, func(t *testing.T) {
			w, cluster := newDRBDWorld(t)
			w.definition("pvc")
			w.volume("pvc", 1, 65536)
			w.ok(w.createVolume("pvc", 0, 65536, map[string]string{"FileSystem/Type": "ext4"}))
			w.ok(w.autoplace("pvc", pool, 2))
			w.eventually("UpToDate everywhere", func() bool {
				return w.disks("pvc") == "n1:UpToDate,UpToDate n2:UpToDate,UpToDate n3:Diskless,Diskless"
			})
			w.ok(cluster.Promote(t.Context(), "n2", "pvc", false))
			if s := w.view("pvc")["n2"].State; *s.InUse {
				t.Fatal("LINSTOR knows of the promotion at once; the real one does not")
			}
			w.eventually("in_use", func() bool { return *w.view("pvc")["n2"].State.InUse })
			var refused *drbd.StateError
			if err := cluster.Promote(t.Context(), "n1", "pvc", false); !errors.As(err, &refused) || refused.Code != -1 {
				t.Fatalf("second Primary: got %v, want -1", err)
			}
			state, err := cluster.State("n2", "pvc")
			w.ok(err)
			if len(state.Volumes) != 2 || !state.Volumes[0].Quorum || state.Volumes[0].Minor == state.Volumes[1].Minor {
				t.Fatalf("got volumes %+v", state.Volumes)
			}
			w.ok(cluster.Demote(t.Context(), "n2", "pvc", false))
			w.eventually("not in_use", func() bool { return !*w.view("pvc")["n2"].State.InUse })
			w.ok(w.ResourceDefinitions.Delete(t.Context(), "pvc"))
			if left := cluster.Resources("n1"); len(left) != 0 {
				t.Fatalf("DRBD still has %v", left)
			}
			w.expect("files left", filesLeft(t, w), "")
		})
	}
}

// filesLeft lists the backing files that exist.
func filesLeft(t *testing.T, w *world) string {
	t.Helper()
	var out []string
	for _, d := range w.State().Definitions {
		for _, v := range d.Volumes {
			if _, err := os.Stat(v.BackingFile); err == nil {
				out = append(out, v.BackingFile)
			}
		}
	}
	return strings.Join(out, " ")
}

// TestLaterVolumeOnOldServerBlocksPromotion is the trap of servers below
// 1.33.2: a volume added later on a thick pool never becomes UpToDate, and
// DRBD promotes only what is complete.
func TestLaterVolumeOnOldServerBlocksPromotion(t *testing.T) {
	w, cluster := newDRBDWorld(t)
	old := "1.33.1"
	w.Apply(control.Settings{Version: &old})
	w.deployed("pvc", "thick")
	w.eventually("first sync", func() bool { return w.disks("pvc") == "n1:UpToDate n2:UpToDate n3:Diskless" })
	w.volume("pvc", 1, 65536)
	time.Sleep(500 * time.Millisecond) // longer than any resync of it
	w.expect("disks", w.disks("pvc"), "n1:UpToDate,Inconsistent n2:UpToDate,Inconsistent n3:Diskless,Diskless")
	var refused *drbd.StateError
	if err := cluster.Promote(t.Context(), "n1", "pvc", false); !errors.As(err, &refused) || refused.Code != -2 {
		t.Fatalf("got %v, want -2", err)
	}
}

// TestJoiningReplicaResyncs: a replica that is added to data is not UpToDate
// at once.
func TestJoiningReplicaResyncs(t *testing.T) {
	w, cluster := newDRBDWorld(t)
	w.definition("pvc")
	w.ok(w.createVolume("pvc", 0, 65536, map[string]string{"FileSystem/Type": "ext4"}))
	w.ok(w.autoplace("pvc", "pool", 1))
	w.ok(w.Resources.MakeAvailable(t.Context(), "pvc", "n2", client.ResourceMakeAvailable{Diskful: true}))
	state, err := cluster.State("n2", "pvc")
	w.ok(err)
	if state.Volumes[0].Disk != drbd.Inconsistent {
		t.Fatalf("got %s right after joining", state.Volumes[0].Disk)
	}
	w.eventually("resync", func() bool { return strings.HasPrefix(w.disks("pvc"), "n1:UpToDate n2:UpToDate") })
}

// TestWinnerFormats: mkfs really runs, once, and not where blkid sees data.
func TestWinnerFormats(t *testing.T) {
	w, _ := newDRBDWorld(t)
	w.definition("pvc")
	w.ok(w.createVolume("pvc", 0, 300<<10, map[string]string{"FileSystem/Type": "xfs", "FileSystem/MkfsParams": ""}))
	w.ok(w.createVolume("pvc", 1, 65536, map[string]string{"FileSystem/Type": "ext4", "FileSystem/MkfsParams": "-L recovery"}))
	w.ok(w.createVolume("pvc", 2, 65536, nil))
	w.ok(w.autoplace("pvc", "pool", 2))
	want := map[int]string{0: "xfs", 1: "ext4", 2: ""}
	for _, v := range w.State().Definitions[0].Volumes {
		out, _ := exec.CommandContext(t.Context(), "blkid", "-p", "-o", "value", "-s", "TYPE", v.BackingFile).Output()
		w.expect("file system of "+v.BackingFile, strings.TrimSpace(string(out)), want[v.Number])
	}
	// xfs refuses 64 MiB: an error, the volume stays, and is not deployed.
	w.definition("small")
	w.ok(w.createVolume("small", 0, 65536, map[string]string{"FileSystem/Type": "xfs"}))
	if err := w.autoplace("small", "pool", 2); err == nil || !strings.Contains(err.Error(), "mkfs.xfs") {
		t.Fatalf("got %v, want the message of mkfs.xfs", err)
	}
	for node, r := range w.view("small") {
		if len(r.Volumes) != 1 || r.Volumes[0].State.DiskState == string(drbd.UpToDate) {
			t.Fatalf("%s: got %+v, want a volume that is not UpToDate", node, r.Volumes)
		}
	}
}

// TestLateWinnerMakesAllUpToDate: since 1.33.2 nothing is UpToDate before the
// winner is there, and everything after.
func TestLateWinnerMakesAllUpToDate(t *testing.T) {
	for _, pool := range []string{"pool", "thick"} {
		t.Run(pool, func(t *testing.T) {
			w, cluster := newDRBDWorld(t)
			w.deployed("pvc", pool)
			w.ok(w.SetOnline("n1", false))
			w.volume("pvc", 1, 65536)
			w.expect("disks", w.disks("pvc"), "n1:, n2:UpToDate,Inconsistent n3:Diskless,Diskless")
			if err := cluster.Promote(t.Context(), "n2", "pvc", false); err == nil {
				t.Fatal("promoted with an Inconsistent volume")
			}
			w.ok(w.SetOnline("n1", true))
			w.eventually("UpToDate", func() bool {
				return w.disks("pvc") == "n1:UpToDate,UpToDate n2:UpToDate,UpToDate n3:Diskless,Diskless"
			})
			w.ok(cluster.Promote(t.Context(), "n2", "pvc", false))
		})
	}
}

// TestDeletedVolumeComesBackEmpty: a volume number that is used again gets a
// new device with nothing of the old data.
func TestDeletedVolumeComesBackEmpty(t *testing.T) {
	w, cluster := newDRBDWorld(t)
	w.deployed("pvc", "pool")
	w.ok(w.createVolume("pvc", 1, 65536, map[string]string{"FileSystem/Type": "ext4"}))
	w.ok(w.ResourceDefinitions.DeleteVolumeDefinition(t.Context(), "pvc", 1))
	w.deployed("other", "pool") // takes the minor that became free
	w.volume("pvc", 1, 65536)
	backend, err := cluster.Export("n1", "pvc", 1)
	w.ok(err)
	w.ok(cluster.Promote(t.Context(), "n1", "pvc", false))
	data := make([]byte, 4096)
	if err := backend.Read(t.Context(), data, 0); err != nil || !bytes.Equal(data, make([]byte, 4096)) {
		t.Fatalf("got %v and old data", err)
	}
	w.ok(cluster.Demote(t.Context(), "n1", "pvc", false))
}
