package linstor_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	lapi "github.com/LINBIT/golinstor"
	"github.com/LINBIT/golinstor/client"
	"github.com/LINBIT/golinstor/clonestatus"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// placement describes where a definition is: "n1 n2 n3(TIE_BREAKER) quorum".
func (w *world) placement(name string) string {
	w.t.Helper()
	var out []string
	for _, d := range w.State().Definitions {
		if d.Name != name {
			continue
		}
		for _, r := range d.Resources {
			kind := ""
			switch flags := strings.Join(r.Flags, ","); {
			case strings.Contains(flags, "DELETE"):
				kind = "(deleted)"
			case strings.Contains(flags, "TIE_BREAKER"):
				kind = "(tiebreaker)"
			case r.Diskless:
				kind = "(diskless)"
			}
			out = append(out, r.Node+kind)
		}
		out = append(out, d.Props["DrbdOptions/Resource/quorum"])
	}
	return strings.Join(out, " ")
}

func TestTiebreakerFollowsPlacement(t *testing.T) {
	available := func(node string, diskful bool) func(*world) error {
		return func(w *world) error {
			return w.Resources.MakeAvailable(w.t.Context(), "aa", node, client.ResourceMakeAvailable{Diskful: diskful})
		}
	}
	remove := func(node string, keep bool) func(*world) error {
		return func(w *world) error {
			return w.Resources.Delete(w.t.Context(), "aa", node, &client.ResourceDeleteOpts{KeepTiebreaker: keep})
		}
	}
	cases := []struct {
		name  string
		steps []func(*world) error
		want  string
	}{
		{"two replicas get one", nil, "n1 n2 n3(tiebreaker) majority"},
		{"third replica takes its place", []func(*world) error{available("n3", true)}, "n1 n2 n3 majority"},
		{"attached it is an ordinary diskless", []func(*world) error{available("n3", false)}, "n1 n2 n3(diskless) majority"},
		{"another diskless replaces it", []func(*world) error{available("n4", false)}, "n1 n2 n4(diskless) majority"},
		{"deleted diskless stays as tiebreaker", []func(*world) error{available("n4", false), remove("n4", true)}, "n1 n2 n4(tiebreaker) majority"},
		{"deleted diskless gives way to a new tiebreaker", []func(*world) error{available("n4", false), remove("n4", false)}, "n1 n2 n3(tiebreaker) majority"},
		{"tiebreaker cannot be deleted with keep", []func(*world) error{remove("n3", true)}, "n1 n2 n3(tiebreaker) majority"},
		{"deleted tiebreaker does not come back", []func(*world) error{remove("n3", false)}, "n1 n2 off"},
		{"one replica needs none", []func(*world) error{remove("n2", false)}, "n1 off"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.deployed("aa", "pool")
			for _, step := range tc.steps {
				w.ok(step(w))
			}
			w.expect("placement", w.placement("aa"), tc.want)
			if config, ok := w.Replication.Config("n1", "aa"); !ok || config.Options.Quorum != tc.want[strings.LastIndex(tc.want, " ")+1:] {
				t.Fatalf("DRBD was told %+v", config.Options)
			}
		})
	}
}

func TestNoTiebreakerWithoutFreeNode(t *testing.T) {
	w := newWorld(t)
	w.ok(w.SetOnline("n3", false))
	w.ok(w.SetOnline("n4", false))
	w.deployed("aa", "pool")
	w.expect("placement", w.placement("aa"), "n1 n2 off")
}

func TestDeletionWaitsForOfflineNode(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.volume("aa", 1, 65536)
	w.ok(w.SetOnline("n2", false))
	w.ok(w.ResourceDefinitions.DeleteVolumeDefinition(t.Context(), "aa", 1))
	vds, err := w.ResourceDefinitions.GetVolumeDefinitions(t.Context(), "aa")
	w.ok(err)
	if len(vds) != 2 || strings.Join(vds[1].Flags, ",") != "DELETE" {
		t.Fatalf("got %+v", vds)
	}
	w.ok(w.ResourceDefinitions.Delete(t.Context(), "aa"))
	w.expect("placement", w.placement("aa"), "n2(deleted) majority")
	w.refused(w.ResourceDefinitions.Create(t.Context(), client.ResourceDefinitionCreate{ResourceDefinition: client.ResourceDefinition{Name: "aa"}}), lapi.FailExistsRscDfn)
	w.ok(w.SetOnline("n2", true))
	if left := w.State().Definitions; len(left) != 0 {
		t.Fatalf("left: %+v", left)
	}
}

func TestInUseOfOfflineSatelliteIsUnknown(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.use("n1", "aa")
	w.ok(w.SetOnline("n1", false))
	if s := w.view("aa")["n1"].State; s != nil {
		t.Fatalf("got state %+v, want null", s)
	}
	w.Replication.SetPrimary("n1", "aa", false)
	w.ok(w.SetOnline("n1", true))
	if s := w.view("aa")["n1"].State; s == nil || *s.InUse {
		t.Fatal("the satellite's return does not tell what is in use now")
	}
}

func TestPromotionEventsReachClients(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	stream, err := w.Events.DRBDPromotion(t.Context(), "")
	w.ok(err)
	defer stream.Close()
	next := func() client.EventMayPromoteChange {
		select {
		case e := <-stream.Events:
			return e
		case <-time.After(5 * time.Second):
			t.Fatal("no event")
			return client.EventMayPromoteChange{}
		}
	}
	for range 3 {
		if e := next(); e.ResourceName != "aa" || !e.MayPromote {
			t.Fatalf("got %+v", e)
		}
	}
	w.Replication.SetPrimary("n1", "aa", true)
	if e := next(); e.NodeName != "n1" || e.MayPromote {
		t.Fatalf("got %+v", e)
	}
}

// TestSnapshotShowsOneInstant: both volumes are copied while I/O of the whole
// resource is suspended, and it is SUCCESSFUL only afterwards.
func TestSnapshotShowsOneInstant(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.volume("aa", 1, 65536)
	files := w.State().Definitions[0].Volumes
	write := func(text string) {
		for _, v := range files {
			f, err := os.OpenFile(v.BackingFile, os.O_WRONLY, 0)
			w.ok(err)
			_, err = f.WriteAt([]byte(text), 0)
			w.ok(err)
			w.ok(f.Close())
		}
	}
	write("before")
	var during []string
	w.Replication.WhileSuspended = func(string) {
		list, _ := w.Resources.GetSnapshots(context.Background(), "aa")
		for _, s := range list {
			during = append(during, strings.Join(s.Flags, ","))
		}
	}
	w.snapshot("aa", "ss")
	if len(during) != 1 || during[0] != "" || w.Replication.Suspended("aa") {
		t.Fatalf("flags while suspended: %q, suspended after: %v", during, w.Replication.Suspended("aa"))
	}
	write("after!")
	s, err := w.Resources.GetSnapshot(t.Context(), "aa", "ss")
	w.ok(err)
	if strings.Join(s.Flags, ",") != "SUCCESSFUL" || len(s.VolumeDefinitions) != 2 || s.VolumeDefinitions[1].VolumeNumber != 1 || strings.Join(s.Nodes, ",") != "n1,n2" {
		t.Fatalf("got %+v", s)
	}

	w.definition("bb")
	w.ok(w.Resources.RestoreVolumeDefinitionSnapshot(t.Context(), "aa", "ss", client.SnapshotRestore{ToResource: "bb"}))
	w.ok(w.Resources.RestoreSnapshot(t.Context(), "aa", "ss", client.SnapshotRestore{ToResource: "bb", Nodes: []string{"n1"}}))
	w.expect("restored", w.disks("bb"), "n1:UpToDate,UpToDate")
	for _, v := range w.State().Definitions[1].Volumes {
		data, err := os.ReadFile(v.BackingFile)
		w.ok(err)
		w.expect("content", string(data[:6]), "before")
	}
}

func TestFailedSnapshotSaysSo(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.ok(w.SetDeploy("n2", control.Deploy{Failures: 1}))
	w.refused(w.Resources.CreateSnapshot(t.Context(), client.Snapshot{Name: "ss", ResourceName: "aa"}), lapi.FailUnknownError)
	s, err := w.Resources.GetSnapshot(t.Context(), "aa", "ss")
	w.ok(err)
	if strings.Join(s.Flags, ",") != "FAILED_DEPLOYMENT" || w.Replication.Suspended("aa") {
		t.Fatalf("got %+v", s)
	}
}

func TestRestoreAndCloneInheritProperties(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.ok(w.createVolume("aa", 1, 65536, map[string]string{"Aux/volume": "one"}))
	w.ok(w.ResourceDefinitions.Modify(t.Context(), "aa", client.GenericPropsModify{OverrideProps: map[string]string{"Aux/keep": "1", "Aux/drop": "1"}}))
	w.snapshot("aa", "ss")
	w.ok(w.ResourceDefinitions.Modify(t.Context(), "aa", client.GenericPropsModify{DeleteProps: []string{"Aux/keep"}}))
	w.definition("bb")
	w.ok(w.Resources.RestoreVolumeDefinitionSnapshot(t.Context(), "aa", "ss", client.SnapshotRestore{ToResource: "bb"}))
	_, err := w.ResourceDefinitions.Clone(t.Context(), "aa", client.ResourceDefinitionCloneRequest{Name: "cc", GenericPropsModify: client.GenericPropsModify{DeleteProps: []string{"Aux/drop"}}})
	w.ok(err)
	w.cloneIs("aa", "cc", clonestatus.Complete)
	props := map[string]map[string]string{}
	uuids := map[string]bool{}
	for _, d := range w.State().Definitions {
		props[d.Name] = d.Props
		uuids[d.UUID] = true
		if d.Volumes[1].Props["Aux/volume"] != "one" {
			t.Errorf("%s: volume properties %v", d.Name, d.Volumes[1].Props)
		}
	}
	if len(uuids) != 3 {
		t.Error("uuids are not their own")
	}
	if b := props["bb"]; b["Aux/keep"] != "1" || b["Aux/drop"] != "1" {
		t.Errorf("restored properties %v", b)
	}
	if c := props["cc"]; c["Aux/keep"] != "" || c["Aux/drop"] != "" {
		t.Errorf("cloned properties %v", c)
	}
}

func (w *world) cloneIs(source, target string, want clonestatus.CloneStatus) {
	w.t.Helper()
	w.eventually("clone "+string(want), func() bool {
		s, err := w.ResourceDefinitions.CloneStatus(w.t.Context(), source, target)
		w.ok(err)
		return s.Status == want
	})
}

// TestCloneFailsWhileNodeIsOffline: the real server says FAILED although the
// clone is completed when the node is back.
func TestCloneFailsWhileNodeIsOffline(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	cloneTime := control.Duration(300 * time.Millisecond)
	w.Apply(control.Settings{CloneTime: &cloneTime})
	_, err := w.ResourceDefinitions.Clone(t.Context(), "aa", client.ResourceDefinitionCloneRequest{Name: "cc"})
	w.ok(err)
	w.cloneIs("aa", "cc", clonestatus.Cloning)
	w.ok(w.SetOnline("n2", false))
	w.cloneIs("aa", "cc", clonestatus.Failed)
	w.eventually("deployment on n1", func() bool { return strings.HasPrefix(w.disks("cc"), "n1:UpToDate") })
	w.ok(w.SetOnline("n2", true))
	w.cloneIs("aa", "cc", clonestatus.Complete)
}

// TestGrowHappensWhenAllDisksHave: the device grows after the slowest disk.
func TestGrowHappensWhenAllDisksHave(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "thick")
	w.ok(w.SetDeploy("n2", control.Deploy{Failures: 1}))
	w.refused(w.ResourceDefinitions.ModifyVolumeDefinition(t.Context(), "aa", 0, client.VolumeDefinitionModify{SizeKib: 131072}), lapi.FailUnknownError)
	vd, err := w.ResourceDefinitions.GetVolumeDefinition(t.Context(), "aa", 0)
	w.ok(err)
	if vd.SizeKib != 131072 || strings.Join(vd.Flags, ",") != "RESIZE" || len(w.Replication.Resizes()) != 0 {
		t.Fatalf("got %+v and resizes %v", vd, w.Replication.Resizes())
	}
	w.ok(w.FullSync("n2"))
	vd, err = w.ResourceDefinitions.GetVolumeDefinition(t.Context(), "aa", 0)
	w.ok(err)
	if len(vd.Flags) != 0 || strings.Join(w.Replication.Resizes(), " ") != "aa/0=134217728" {
		t.Fatalf("got %+v and resizes %v", vd, w.Replication.Resizes())
	}
}

// TestGrowthThatFailedIsTriedAgainWithAnyChange: setting the same size again does
// nothing, changing a property has all satellites updated.
func TestGrowthThatFailedIsTriedAgainWithAnyChange(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.ok(w.SetDeploy("n2", control.Deploy{Failures: 2}))
	grow := client.VolumeDefinitionModify{SizeKib: 131072}
	touch := func(value string) client.VolumeDefinitionModify {
		return client.VolumeDefinitionModify{GenericPropsModify: client.GenericPropsModify{OverrideProps: map[string]string{"Aux/tried": value}}}
	}
	modify := func(modification client.VolumeDefinitionModify) error {
		return w.ResourceDefinitions.ModifyVolumeDefinition(t.Context(), "aa", 0, modification)
	}
	w.refused(modify(grow), lapi.FailUnknownError)
	w.refused(modify(touch("1")), lapi.FailUnknownError)
	w.ok(modify(grow))
	if resizes := w.Replication.Resizes(); len(resizes) != 0 {
		t.Fatalf("setting the same size again resized %v", resizes)
	}
	w.ok(modify(touch("2")))
	if resizes := w.Replication.Resizes(); strings.Join(resizes, " ") != "aa/0=134217728" {
		t.Fatalf("resized %v", resizes)
	}
}

func TestSyncStatus(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	synced := func() bool {
		s, err := w.ResourceDefinitions.SyncStatus(t.Context(), "aa")
		w.ok(err)
		return s.SyncedOnAll
	}
	if !synced() {
		t.Fatal("not synced after placement")
	}
	w.ok(w.Replication.SetDiskState("n2", "aa", 0, drbd.Inconsistent))
	if synced() {
		t.Fatal("synced with an Inconsistent disk")
	}
}

func TestHangingControllerAnswersAgain(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.SetHanging(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.ResourceDefinitions.Get(ctx, "aa"); err == nil {
		t.Fatal("a hanging controller answered")
	}
	w.SetHanging(false)
	_, err := w.ResourceDefinitions.Get(t.Context(), "aa")
	w.ok(err)
}

// TestReadingCalls: what has no rule of its own is at least understood by the
// real client.
func TestReadingCalls(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	got, err := w.Client.Controller.GetVersion(t.Context())
	w.ok(err)
	w.expect("version", got.Version, linstor.DefaultVersion)
	list, err := w.Nodes.GetAll(t.Context())
	w.ok(err)
	pools, err := w.Nodes.GetStoragePoolView(t.Context())
	w.ok(err)
	if len(list) != 4 || len(pools) != 10 {
		t.Fatalf("got %d nodes, %d pools", len(list), len(pools))
	}
	rds, err := w.ResourceDefinitions.GetAll(t.Context(), client.RDGetAllRequest{WithVolumeDefinitions: true})
	w.ok(err)
	if len(rds) != 1 || len(rds[0].VolumeDefinitions) != 1 {
		t.Fatalf("got %+v", rds)
	}
	if view := w.view("unknown"); len(view) != 0 {
		t.Fatalf("got %+v", view)
	}
	w.ok(w.KeyValueStore.CreateOrModify(t.Context(), "store", client.GenericPropsModify{OverrideProps: map[string]string{"a": "b"}}))
	kv, err := w.KeyValueStore.Get(t.Context(), "store")
	w.ok(err)
	w.expect("value", kv.Props["a"], "b")
	w.ok(w.KeyValueStore.Delete(t.Context(), "store"))
	w.ok(w.Client.Controller.Modify(t.Context(), client.GenericPropsModify{OverrideProps: map[string]string{"DrbdOptions/auto-quorum": "suspend-io"}}))
	props, err := w.Client.Controller.GetProps(t.Context())
	w.ok(err)
	w.expect("controller property", props["DrbdOptions/auto-quorum"], "suspend-io")
}
