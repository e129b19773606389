package csitest

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

const rd = "resource-definitions/"

func (d *driver) code(err error, want codes.Code) {
	d.t.Helper()
	if status.Code(err) != want {
		d.t.Fatalf("got %v, want %s", err, want)
	}
}

// send posts to LINSTOR as our provisioner does.
func (d *driver) send(path, body string) {
	d.t.Helper()
	answer, err := http.Post(d.URL+"/v1/"+path, "application/json", strings.NewReader(body))
	d.ok(err)
	_ = answer.Body.Close()
	if answer.StatusCode >= 300 {
		d.t.Fatalf("POST %s: %s", path, answer.Status)
	}
}

func TestDriverKnowsItsNode(t *testing.T) {
	d := start(t, false)
	info, err := d.node.NodeGetInfo(d.context(10*time.Second), &csi.NodeGetInfoRequest{})
	d.ok(err)
	if info.GetNodeId() != "n2" || info.GetAccessibleTopology().GetSegments()["kubernetes.io/hostname"] != "n2" {
		t.Fatalf("got %v", info)
	}
}

func TestDriverRefusesRWX(t *testing.T) {
	d := start(t, false)
	request := createRequest("pvc-rwx", gib)
	request.VolumeCapabilities = []*csi.VolumeCapability{rwx}
	_, err := d.CreateVolume(d.context(20*time.Second), request)
	d.code(err, codes.InvalidArgument)
	d.asks()
}

func TestCreateVolumePlain(t *testing.T) {
	d := start(t, false)
	d.mark()
	volume := d.create("pvc-a")
	d.asks(
		"GET "+rd+"pvc-a", "GET resource-groups/my-rg", "POST resource-groups", "POST resource-groups/my-rg/volume-groups", "GET resource-groups/my-rg",
		"PUT resource-groups/my-rg", "GET resource-groups/my-rg", "GET "+rd+"pvc-a", "POST resource-definitions", "GET "+rd+"pvc-a",
		"GET "+rd+"pvc-a/volume-definitions/0", "POST "+rd+"pvc-a/volume-definitions", "GET "+rd+"pvc-a/volume-definitions/0",
		"POST "+rd+"pvc-a/autoplace", "PUT "+rd+"pvc-a",
	)
	if volume.GetCapacityBytes() != gib || volume.GetVolumeContext()["linstor.csi.linbit.com/uses-volume-context"] != "true" {
		t.Fatalf("got %v", volume)
	}
	got := d.definition("pvc-a")
	if got == nil || got.Group != "my-rg" || len(got.Volumes) != 1 || got.Volumes[0].SizeKiB != gib>>10 ||
		!strings.HasPrefix(got.Props["Aux/csi-provisioning-completed-by"], "linstor-csi/") || got.Props["Aux/csi.storage.k8s.io/pvc/name"] != "data" {
		t.Fatalf("got %+v", got)
	}
	var kinds []string
	for _, r := range got.Resources {
		kinds = append(kinds, r.Node+"="+strings.Join(r.Flags, ","))
	}
	if s := strings.Join(kinds, " "); s != "n1= n2= n3=DISKLESS,DRBD_DISKLESS,TIE_BREAKER" {
		t.Fatalf("placed on %s", s)
	}
}

// TestVolumeOneBeforeCreateVolume is how a claim for an export is created:
// group, definition and VolNr 1 exist, then the driver adds VolNr 0.
func TestVolumeOneBeforeCreateVolume(t *testing.T) {
	d := start(t, false)
	d.send("resource-groups", `{"name":"my-rg"}`)
	d.send("resource-definitions", `{"resource_definition":{"name":"pvc-p","resource_group_name":"my-rg"}}`)
	d.send(rd+"pvc-p/volume-definitions", `{"volume_definition":{"volume_number":1,"size_kib":65536,"props":{"Aux/rwx.linbit.com/export":"pvc-p"}}}`)
	d.mark()
	if got := d.create("pvc-p"); got.GetCapacityBytes() != gib {
		t.Fatalf("got %v", got)
	}
	got := d.definition("pvc-p")
	for _, r := range got.Resources {
		for _, v := range r.Volumes {
			if want := map[bool]string{true: "Diskless", false: "UpToDate"}[r.Diskless]; !v.Deployed || v.DiskState != want || len(r.Volumes) != 2 {
				t.Fatalf("%s: got %+v", r.Node, r.Volumes)
			}
		}
	}
	if got.Volumes[1].Minor == got.Volumes[0].Minor+1 {
		t.Fatalf("minors %d and %d: VolNr 1's must not follow VolNr 0's here", got.Volumes[0].Minor, got.Volumes[1].Minor)
	}

	d.mark()
	if got := d.create("pvc-p"); got.GetCapacityBytes() != gib {
		t.Fatalf("retry: got %v", got)
	}
	d.asks("GET "+rd+"pvc-p", "GET "+rd+"pvc-p/volume-definitions")
	_, err := d.CreateVolume(d.context(20*time.Second), createRequest("pvc-p", 2*gib))
	d.code(err, codes.AlreadyExists)

	d.mark()
	_, err = d.DeleteVolume(d.context(30*time.Second), &csi.DeleteVolumeRequest{VolumeId: "pvc-p"})
	d.ok(err)
	d.asks(
		"PUT "+rd+"pvc-p", "DELETE "+rd+"pvc-p/resources/n3?", "DELETE "+rd+"pvc-p/resources/n1?", "DELETE "+rd+"pvc-p/resources/n2?",
		"GET "+rd+"pvc-p/volume-definitions", "DELETE "+rd+"pvc-p/volume-definitions/1", "DELETE "+rd+"pvc-p/volume-definitions/0",
		"PUT "+rd+"pvc-p", "GET "+rd+"pvc-p", "DELETE "+rd+"pvc-p", "DELETE resource-groups/my-rg",
	)
	if d.definition("pvc-p") != nil {
		t.Fatal("definition is left")
	}
	if groups := d.State().Groups; len(groups) != 1 {
		t.Fatalf("groups %v are left", groups)
	}
}

func TestNotEnoughNodesLeavesNothing(t *testing.T) {
	d := start(t, false)
	request := createRequest("pvc-a", gib)
	request.Parameters["linstor.csi.linbit.com/autoPlace"] = "4"
	_, err := d.CreateVolume(d.context(20*time.Second), request)
	if err == nil || !strings.Contains(err.Error(), "Not enough available nodes") {
		t.Fatalf("got %v", err)
	}
	if d.definition("pvc-a") != nil {
		t.Fatal("definition is left")
	}
}

func TestDeleteVolumeWaitsForDemotion(t *testing.T) {
	d := start(t, false)
	d.create("pvc-a")
	d.Replication.SetPrimary("n1", "pvc-a", true)
	time.Sleep(50 * time.Millisecond)
	_, err := d.DeleteVolume(d.context(3*time.Second), &csi.DeleteVolumeRequest{VolumeId: "pvc-a"})
	d.code(err, codes.DeadlineExceeded)
	if got := d.definition("pvc-a"); got == nil || len(got.Resources) != 3 {
		t.Fatalf("in use, and got %+v", got)
	}
	d.Replication.SetPrimary("n1", "pvc-a", false)
	time.Sleep(50 * time.Millisecond)
	_, err = d.DeleteVolume(d.context(30*time.Second), &csi.DeleteVolumeRequest{VolumeId: "pvc-a"})
	d.ok(err)
	if d.definition("pvc-a") != nil {
		t.Fatal("definition is left")
	}
}

func TestDeleteVolumeWithOfflineNodeFinishesLater(t *testing.T) {
	d := start(t, false)
	d.create("pvc-a")
	d.ok(d.SetOnline("n2", false))
	_, err := d.DeleteVolume(d.context(30*time.Second), &csi.DeleteVolumeRequest{VolumeId: "pvc-a"})
	d.ok(err)
	got := d.definition("pvc-a")
	if got == nil || strings.Join(got.Flags, ",") != "DELETE" || nodes(got) != "n2" {
		t.Fatalf("got %+v, want the replica of the offline node, all being deleted", got)
	}
	d.ok(d.SetOnline("n2", true))
	if got := d.definition("pvc-a"); got != nil {
		t.Fatalf("got %+v after the node's return", got)
	}
}

func TestControllerExpand(t *testing.T) {
	d := start(t, false)
	d.create("pvc-a")
	d.send(rd+"pvc-a/volume-definitions", `{"volume_definition":{"volume_number":1,"size_kib":65536}}`)
	expand := func(size int64, c *csi.VolumeCapability) (*csi.ControllerExpandVolumeResponse, error) {
		return d.ControllerExpandVolume(d.context(20*time.Second), &csi.ControllerExpandVolumeRequest{
			VolumeId: "pvc-a", CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapability: c})
	}
	d.mark()
	answer, err := expand(2*gib, rwx)
	d.ok(err)
	d.asks("GET "+rd+"pvc-a", "GET "+rd+"pvc-a/volume-definitions", "GET "+rd+"pvc-a/volume-definitions", "PUT "+rd+"pvc-a/volume-definitions/0")
	if answer.GetCapacityBytes() != 2*gib || answer.GetNodeExpansionRequired() {
		t.Fatalf("got %v", answer)
	}
	if resizes := strings.Join(d.Replication.Resizes(), " "); resizes != "pvc-a/0=2147483648" {
		t.Fatalf("devices grown: %s", resizes)
	}
	d.ok(d.SetOnline("n2", false))
	if _, err := expand(3*gib, rwo); err == nil || !strings.Contains(err.Error(), "UpToDate") {
		t.Fatalf("got %v with a node offline", err)
	}
	d.ok(d.SetOnline("n2", true))
	answer, err = expand(3*gib, rwo)
	d.ok(err)
	if !answer.GetNodeExpansionRequired() {
		t.Fatalf("got %v", answer)
	}
}

func TestControllerPublish(t *testing.T) {
	d := start(t, false)
	volume := d.create("pvc-a")
	publish := func(node string, attributes map[string]string, c *csi.VolumeCapability) map[string]string {
		t.Helper()
		answer, err := d.ControllerPublishVolume(d.context(20*time.Second), &csi.ControllerPublishVolumeRequest{
			VolumeId: "pvc-a", NodeId: node, VolumeCapability: c, VolumeContext: attributes})
		d.ok(err)
		return answer.GetPublishContext()
	}
	attributes := map[string]string{"linstor.csi.linbit.com/nfs-export": "nfs://10.1.2.3:2049/pvc-a"}
	for k, v := range volume.GetVolumeContext() {
		attributes[k] = v
	}
	d.mark()
	got := publish("n4", attributes, rwx)
	d.asks("GET "+rd+"pvc-a", "GET "+rd+"pvc-a/volume-definitions")
	if got["linstor.csi.linbit.com/fs-type"] != "nfs" || got["linstor.csi.linbit.com/device-path"] != "nfs://10.1.2.3:2049/pvc-a" {
		t.Fatalf("got %v", got)
	}

	// The usual claim gets a diskless replica, and the tiebreaker goes.
	d.mark()
	got = publish("n4", volume.GetVolumeContext(), rwo)
	d.asks("GET "+rd+"pvc-a", "GET "+rd+"pvc-a/volume-definitions", "POST "+rd+"pvc-a/resources/n4/make-available", "PUT "+rd+"pvc-a/resources/n4/volumes/0")
	if !strings.HasPrefix(got["linstor.csi.linbit.com/device-path"], "/dev/drbd1") {
		t.Fatalf("got %v", got)
	}
	if n := nodes(d.definition("pvc-a")); n != "n1 n2 n4" {
		t.Fatalf("replicas on %s", n)
	}
	// In use it cannot go; this version of the driver passes the refusal on.
	d.Replication.SetPrimary("n4", "pvc-a", true)
	time.Sleep(50 * time.Millisecond)
	_, err := d.ControllerUnpublishVolume(d.context(20*time.Second), &csi.ControllerUnpublishVolumeRequest{VolumeId: "pvc-a", NodeId: "n4"})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("got %v", err)
	}
	d.Replication.SetPrimary("n4", "pvc-a", false)
	time.Sleep(50 * time.Millisecond)
	// Unused it goes, and the tiebreaker comes back.
	_, err = d.ControllerUnpublishVolume(d.context(20*time.Second), &csi.ControllerUnpublishVolumeRequest{VolumeId: "pvc-a", NodeId: "n4"})
	d.ok(err)
	if r := d.definition("pvc-a").Resources[2]; r.Node != "n3" || strings.Join(r.Flags, ",") != "DISKLESS,DRBD_DISKLESS,TIE_BREAKER" {
		t.Fatalf("got %+v", r)
	}
}

func nodes(d *control.Definition) string {
	var out []string
	for _, r := range d.Resources {
		out = append(out, r.Node)
	}
	return strings.Join(out, " ")
}

func TestSnapshotRestoreAndClone(t *testing.T) {
	d := start(t, false)
	d.create("pvc-a")
	d.send(rd+"pvc-a/volume-definitions", `{"volume_definition":{"volume_number":1,"size_kib":65536,"props":{"Aux/mark":"one"}}}`)
	suspended := 0
	d.Replication.WhileSuspended = func(string) { suspended++ }
	d.mark()
	snapshot, err := d.CreateSnapshot(d.context(20*time.Second), &csi.CreateSnapshotRequest{Name: "snapshot-1", SourceVolumeId: "pvc-a"})
	d.ok(err)
	d.asks("GET key-value-store/csi-backup-mapping", "GET remotes", "POST actions/snapshot/multi")
	if s := snapshot.GetSnapshot(); !s.GetReadyToUse() || s.GetSizeBytes() != gib || s.GetSnapshotId() != "InCluster:///pvc-a/snapshot-1" || suspended != 1 {
		t.Fatalf("got %v, suspended %d times", s, suspended)
	}
	list, err := d.ListSnapshots(d.context(20*time.Second), &csi.ListSnapshotsRequest{})
	d.ok(err)
	if len(list.GetEntries()) != 1 {
		t.Fatalf("got %v", list)
	}

	restore := createRequest("pvc-r", 2*gib)
	restore.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot.GetSnapshot().GetSnapshotId()}}}
	answer, err := d.CreateVolume(d.context(30*time.Second), restore)
	d.ok(err)
	if answer.GetVolume().GetCapacityBytes() != 2*gib {
		t.Fatalf("got %v", answer)
	}
	d.inherits("pvc-r")

	copied := createRequest("pvc-c", gib)
	copied.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "pvc-a"}}}
	_, err = d.CreateVolume(d.context(30*time.Second), copied)
	d.ok(err)
	d.inherits("pvc-c")

	// With a snapshot the definition outlives its volume.
	_, err = d.DeleteVolume(d.context(30*time.Second), &csi.DeleteVolumeRequest{VolumeId: "pvc-a"})
	d.ok(err)
	if got := d.definition("pvc-a"); got == nil || len(got.Volumes)+len(got.Resources) != 0 {
		t.Fatalf("got %+v", got)
	}
	_, err = d.DeleteSnapshot(d.context(30*time.Second), &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshot().GetSnapshotId()})
	d.ok(err)
	if d.definition("pvc-a") != nil {
		t.Fatal("definition is left")
	}
}

// inherits checks what a restored or cloned definition gets: both volumes with
// their properties and all properties of the definition, and a new uuid.
func (d *driver) inherits(name string) {
	d.t.Helper()
	got := d.definition(name)
	if got == nil || len(got.Volumes) != 2 || got.Volumes[1].Props["Aux/mark"] != "one" || got.Props["Aux/csi.storage.k8s.io/pvc/name"] != "data" {
		d.t.Fatalf("%s: got %+v", name, got)
	}
	if source := d.definition("pvc-a"); source != nil && source.UUID == got.UUID {
		d.t.Fatalf("%s has its source's uuid", name)
	}
}

func TestVolumeLists(t *testing.T) {
	d := start(t, false)
	d.create("pvc-a")
	list, err := d.ListVolumes(d.context(20*time.Second), &csi.ListVolumesRequest{})
	d.ok(err)
	if len(list.GetEntries()) != 1 || list.GetEntries()[0].GetStatus().GetVolumeCondition().GetAbnormal() {
		t.Fatalf("got %v", list)
	}
	d.ok(d.SetOnline("n2", false))
	list, err = d.ListVolumes(d.context(20*time.Second), &csi.ListVolumesRequest{})
	d.ok(err)
	if !list.GetEntries()[0].GetStatus().GetVolumeCondition().GetAbnormal() {
		t.Fatal("healthy with a satellite offline")
	}
	capacity, err := d.GetCapacity(d.context(20*time.Second), &csi.GetCapacityRequest{Parameters: createRequest("", 0).Parameters})
	d.ok(err)
	if c := capacity.GetAvailableCapacity(); c < 35*gib || c > 60*gib {
		t.Fatalf("got %d bytes", c)
	}
}

// TestDriverBelievesItsCache: with its default cache the driver deletes what
// was promoted a moment ago up to the point where LINSTOR refuses.
func TestDriverBelievesItsCache(t *testing.T) {
	d := start(t, true)
	d.create("pvc-a")
	d.Replication.SetPrimary("n1", "pvc-a", true)
	time.Sleep(50 * time.Millisecond)
	_, err := d.DeleteVolume(d.context(20*time.Second), &csi.DeleteVolumeRequest{VolumeId: "pvc-a"})
	if err == nil {
		t.Fatal("deleted a volume in use")
	}
	got := d.definition("pvc-a")
	if got == nil || len(got.Volumes) != 1 || !strings.Contains(nodes(got), "n1") {
		t.Fatalf("got %+v", got)
	}
}
