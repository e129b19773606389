package linstor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	lapi "github.com/LINBIT/golinstor"
	"github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/linstortest"
)

// world is a LINSTOR with one helper for each thing that tests do often.
type world struct {
	*linstortest.Cluster
	*client.Client
	t *testing.T
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cluster := linstortest.Start(t, 0)
	base, err := url.Parse(cluster.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewClient(client.BaseURL(base), client.Log(nil))
	if err != nil {
		t.Fatal(err)
	}
	return &world{Cluster: cluster, Client: c, t: t}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused demands an error with this return code.
func (w *world) refused(err error, code uint64) {
	w.t.Helper()
	if !errors.Is(err, client.ApiCallRcErr(code)) {
		w.t.Fatalf("got error %v, want return code %d", err, code&lapi.MaskBitsCode)
	}
}

// definition creates a resource definition in the default group.
func (w *world) definition(name string) {
	w.t.Helper()
	w.ok(w.ResourceDefinitions.Create(w.t.Context(), client.ResourceDefinitionCreate{ResourceDefinition: client.ResourceDefinition{Name: name}}))
}

func (w *world) createVolume(name string, number int32, sizeKiB uint64, props map[string]string) error {
	return w.ResourceDefinitions.CreateVolumeDefinition(w.t.Context(), name, client.VolumeDefinitionCreate{
		VolumeDefinition: client.VolumeDefinition{VolumeNumber: &number, SizeKib: sizeKiB, Props: props}})
}

func (w *world) volume(name string, number int32, sizeKiB uint64) {
	w.t.Helper()
	w.ok(w.createVolume(name, number, sizeKiB, nil))
}

func (w *world) autoplace(name, pool string, count int32) error {
	return w.Resources.Autoplace(w.t.Context(), name, client.AutoPlaceRequest{SelectFilter: client.AutoSelectFilter{PlaceCount: count, StoragePool: pool}})
}

// deployed makes a resource definition with volume 0 on two nodes of a pool.
func (w *world) deployed(name, pool string) {
	w.t.Helper()
	w.definition(name)
	w.volume(name, 0, 64<<10)
	w.ok(w.autoplace(name, pool, 2))
}

// view returns the resources of a definition by node.
func (w *world) view(name string) map[string]client.ResourceWithVolumes {
	w.t.Helper()
	list, err := w.Resources.GetResourceView(w.t.Context(), &client.ListOpts{Resource: []string{name}})
	w.ok(err)
	out := map[string]client.ResourceWithVolumes{}
	for _, r := range list {
		out[r.NodeName] = r
	}
	return out
}

// disks describes the definition as "node:disk,disk node:...".
func (w *world) disks(name string) string {
	w.t.Helper()
	var out []string
	view := w.view(name)
	for _, node := range []string{"n1", "n2", "n3", "n4"} {
		r, ok := view[node]
		if !ok {
			continue
		}
		var states []string
		for _, v := range r.Volumes {
			states = append(states, v.State.DiskState)
		}
		out = append(out, node+":"+strings.Join(states, ","))
	}
	return strings.Join(out, " ")
}

func (w *world) expect(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

// call sends a raw request and returns status and replies.
func (w *world) call(method, path, body string) (int, []client.ApiCallRc, string) {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.URL+path, strings.NewReader(body))
	w.ok(err)
	answer, err := http.DefaultClient.Do(request)
	w.ok(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	w.ok(err)
	var replies []client.ApiCallRc
	_ = json.Unmarshal(text, &replies)
	return answer.StatusCode, replies, string(text)
}

// TestRefusalsCarryStatusAndCode is the table of rules: what the real server
// answers by HTTP status and return code.
func TestRefusalsCarryStatusAndCode(t *testing.T) {
	volume := func(number, size int) string {
		return fmt.Sprintf(`{"volume_definition":{"volume_number":%d,"size_kib":%d}}`, number, size)
	}
	cases := []struct {
		name         string
		prepare      func(w *world)
		method, path string
		body         string
		status       int
		code         uint64
	}{
		{name: "definition exists", method: "POST", path: "/v1/resource-definitions", body: `{"resource_definition":{"name":"aa"}}`, status: 500, code: lapi.FailExistsRscDfn},
		{name: "definition of unknown group", method: "POST", path: "/v1/resource-definitions", body: `{"resource_definition":{"name":"bb","resource_group_name":"x"}}`, status: 404, code: lapi.FailNotFoundRscGrp},
		{name: "bad name", method: "POST", path: "/v1/resource-definitions", body: `{"resource_definition":{"name":"a b"}}`, status: 500, code: lapi.FailInvldRscName},
		{name: "bad JSON", method: "POST", path: "/v1/resource-definitions", body: `{`, status: 400, code: lapi.FailInvldRequest},
		{name: "unknown definition", method: "GET", path: "/v1/resource-definitions/xx", status: 404, code: lapi.FailNotFoundRscDfn},
		{name: "delete unknown definition", method: "DELETE", path: "/v1/resource-definitions/xx", status: 200, code: lapi.WarnNotFound},
		{name: "delete definition in use", prepare: func(w *world) { w.use("n1", "aa") }, method: "DELETE", path: "/v1/resource-definitions/aa", status: 500, code: lapi.FailInUse},
		{name: "delete definition with snapshot", prepare: func(w *world) { w.snapshot("aa", "s") }, method: "DELETE", path: "/v1/resource-definitions/aa", status: 500, code: lapi.FailExistsSnapshotDfn},
		{name: "property without namespace", method: "PUT", path: "/v1/resource-definitions/aa", body: `{"override_props":{"rwx/export":"x"}}`, status: 500, code: lapi.FailInvldProp},
		{name: "volume exists", method: "POST", path: "/v1/resource-definitions/aa/volume-definitions", body: volume(0, 65536), status: 500, code: lapi.FailExistsVlmDfn},
		{name: "volume too small", method: "POST", path: "/v1/resource-definitions/aa/volume-definitions", body: volume(1, 1), status: 500, code: lapi.FailInvldVlmSize},
		{name: "volume of unknown definition", method: "POST", path: "/v1/resource-definitions/xx/volume-definitions", body: volume(1, 65536), status: 404, code: lapi.FailNotFoundRscDfn},
		{name: "no space in thick pool", prepare: func(w *world) { w.deployed("kk", "thick") }, method: "POST", path: "/v1/resource-definitions/kk/volume-definitions", body: volume(1, 30<<20), status: 500, code: lapi.FailInvldVlmSize},
		{name: "unknown volume", method: "GET", path: "/v1/resource-definitions/aa/volume-definitions/7", status: 404, code: lapi.FailNotFoundVlmDfn},
		{name: "delete unknown volume", method: "DELETE", path: "/v1/resource-definitions/aa/volume-definitions/7", status: 200, code: lapi.WarnNotFound},
		{name: "delete volume in use", prepare: func(w *world) { w.use("n1", "aa") }, method: "DELETE", path: "/v1/resource-definitions/aa/volume-definitions/0", status: 500, code: lapi.FailInUse},
		{name: "same size", method: "PUT", path: "/v1/resource-definitions/aa/volume-definitions/0", body: `{"size_kib":65536}`, status: 200, code: lapi.WarnVlmdfnResizeSameSize},
		{name: "shrink", method: "PUT", path: "/v1/resource-definitions/aa/volume-definitions/0", body: `{"size_kib":32768}`, status: 500, code: lapi.FailInvldVlmSize},
		{name: "grow while Outdated", prepare: func(w *world) { w.ok(w.Replication.SetDiskState("n2", "aa", 0, drbd.Outdated)) }, method: "PUT", path: "/v1/resource-definitions/aa/volume-definitions/0", body: `{"size_kib":131072}`, status: 500, code: lapi.FailNotAllUptodate},
		{name: "grow while a node is offline", prepare: func(w *world) { w.ok(w.SetOnline("n2", false)) }, method: "PUT", path: "/v1/resource-definitions/aa/volume-definitions/0", body: `{"size_kib":131072}`, status: 500, code: lapi.FailNotAllUptodate},
		{name: "grow without space", prepare: func(w *world) { w.deployed("kk", "thick") }, method: "PUT", path: "/v1/resource-definitions/kk/volume-definitions/0", body: `{"size_kib":31457280}`, status: 500, code: lapi.FailNotEnoughFreeSpace},
		{name: "grow beyond DRBD's limit", method: "PUT", path: "/v1/resource-definitions/aa/volume-definitions/0", body: `{"size_kib":1099511627777}`, status: 500, code: lapi.FailInvldVlmSize},
		{name: "grow while the tiebreaker is offline", prepare: func(w *world) { w.ok(w.SetOnline("n3", false)) }, method: "PUT", path: "/v1/resource-definitions/aa/volume-definitions/0", body: `{"size_kib":131072}`, status: 200, code: lapi.WarnNotConnected},
		{name: "too many replicas", method: "POST", path: "/v1/resource-definitions/aa/autoplace", body: `{"select_filter":{"place_count":4}}`, status: 500, code: lapi.FailNotEnoughNodes},
		{name: "autoplace in full pools", prepare: func(w *world) {
			w.definition("ff")
			w.volume("ff", 0, 65536)
			for _, n := range []string{"n1", "n2", "n3"} {
				w.ok(w.SetPool(n, "pool", control.Pool{FreeKiB: new(int64)}))
			}
		}, method: "POST", path: "/v1/resource-definitions/ff/autoplace", body: `{"select_filter":{"place_count":2,"storage_pool_list":["pool"]}}`, status: 500, code: lapi.FailNotEnoughNodes},
		{name: "resource exists", method: "POST", path: "/v1/resource-definitions/aa/resources/n1", body: `{"resource":{}}`, status: 500, code: lapi.FailExistsRsc},
		{name: "resource on unknown node", method: "POST", path: "/v1/resource-definitions/aa/resources/n9", body: `{"resource":{}}`, status: 404, code: lapi.FailNotFoundNode},
		{name: "delete resource in use", prepare: func(w *world) { w.use("n1", "aa") }, method: "DELETE", path: "/v1/resource-definitions/aa/resources/n1", status: 500, code: lapi.FailInUse},
		{name: "delete unknown resource", method: "DELETE", path: "/v1/resource-definitions/aa/resources/n4", status: 200, code: lapi.WarnNotFound},
		{name: "delete last disk under diskless", prepare: func(w *world) {
			w.ok(w.Resources.MakeAvailable(w.t.Context(), "aa", "n4", client.ResourceMakeAvailable{}))
			w.ok(w.Resources.Delete(w.t.Context(), "aa", "n1"))
		}, method: "DELETE", path: "/v1/resource-definitions/aa/resources/n2", status: 500, code: lapi.FailInUse},
		{name: "group exists", method: "POST", path: "/v1/resource-groups", body: `{"name":"DfltRscGrp"}`, status: 500, code: lapi.FailExistsRscGrp},
		{name: "group with definitions", prepare: func(w *world) {
			w.ok(w.ResourceGroups.Create(w.t.Context(), client.ResourceGroup{Name: "g"}))
			w.ok(w.ResourceDefinitions.Create(w.t.Context(), client.ResourceDefinitionCreate{ResourceDefinition: client.ResourceDefinition{Name: "ga", ResourceGroupName: "g"}}))
		}, method: "DELETE", path: "/v1/resource-groups/g", status: 500, code: lapi.FailExistsRscDfn},
		{name: "delete unknown group", method: "DELETE", path: "/v1/resource-groups/x", status: 200, code: lapi.WarnNotFound},
		{name: "unknown group", method: "GET", path: "/v1/resource-groups/x", status: 404, code: lapi.FailNotFoundRscGrp},
		{name: "snapshot exists", prepare: func(w *world) { w.snapshot("aa", "s") }, method: "POST", path: "/v1/resource-definitions/aa/snapshots", body: `{"name":"s"}`, status: 500, code: lapi.FailExistsSnapshotDfn},
		{name: "snapshot on thick pool", prepare: func(w *world) { w.deployed("kk", "thick") }, method: "POST", path: "/v1/resource-definitions/kk/snapshots", body: `{"name":"s"}`, status: 500, code: lapi.FailSnapshotsNotSupported},
		{name: "snapshot of nothing", prepare: func(w *world) { w.definition("ee") }, method: "POST", path: "/v1/resource-definitions/ee/snapshots", body: `{"name":"s"}`, status: 404, code: lapi.FailNotFoundRsc},
		{name: "delete unknown snapshot", method: "DELETE", path: "/v1/resource-definitions/aa/snapshots/s", status: 200, code: lapi.WarnNotFound},
		{name: "restore unknown snapshot", method: "POST", path: "/v1/resource-definitions/aa/snapshot-restore-volume-definition/s", body: `{"to_resource":"aa"}`, status: 404, code: lapi.FailNotFoundSnapshotDfn},
		{name: "clone exists", method: "POST", path: "/v1/resource-definitions/aa/clone", body: `{"name":"aa"}`, status: 500, code: lapi.FailExistsRscDfn},
		{name: "clone while Inconsistent", prepare: func(w *world) { w.ok(w.Replication.SetDiskState("n2", "aa", 0, drbd.Inconsistent)) }, method: "POST", path: "/v1/resource-definitions/aa/clone", body: `{"name":"cc"}`, status: 500, code: lapi.FailNotAllUptodate},
		{name: "status of unknown clone", method: "GET", path: "/v1/resource-definitions/aa/clone/cc", status: 404, code: lapi.FailNotFoundRscDfn},
		{name: "unknown node", method: "GET", path: "/v1/nodes/n9", status: 404, code: lapi.FailNotFoundNode},
		{name: "unknown store", method: "GET", path: "/v1/key-value-store/x", status: 404, code: lapi.FailNotFoundKvs},
		{name: "volume while offline", prepare: func(w *world) { w.ok(w.SetOnline("n2", false)) }, method: "POST", path: "/v1/resource-definitions/aa/volume-definitions", body: volume(1, 65536), status: 201, code: lapi.WarnNotConnected},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.deployed("aa", "pool")
			if tc.prepare != nil {
				tc.prepare(w)
			}
			status, replies, text := w.call(tc.method, tc.path, tc.body)
			found := false
			for _, r := range replies {
				found = found || r.Is(tc.code) || uint64(r.RetCode)&(lapi.MaskError|lapi.MaskBitsCode) == tc.code
			}
			if status != tc.status || !found {
				t.Fatalf("got %d %s, want %d with code %d", status, text, tc.status, tc.code&lapi.MaskBitsCode)
			}
		})
	}
}

func (w *world) use(node, name string) {
	w.t.Helper()
	w.Replication.SetPrimary(node, name, true)
	w.eventually("in_use", func() bool { s := w.view(name)[node].State; return s != nil && s.InUse != nil && *s.InUse })
}

func (w *world) release(node, name string) {
	w.t.Helper()
	w.Replication.SetPrimary(node, name, false)
	w.eventually("not in_use", func() bool { s := w.view(name)[node].State; return s == nil || !*s.InUse })
}

func (w *world) snapshot(name, snapshot string) {
	w.t.Helper()
	w.ok(w.Resources.CreateSnapshot(w.t.Context(), client.Snapshot{Name: snapshot, ResourceName: name}))
}

func (w *world) eventually(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s did not come true", what)
		}
	}
}

func TestUnhandledRequestIsViolation(t *testing.T) {
	w := newWorld(t)
	status, replies, text := w.call("GET", "/v1/schedules", "")
	if status != 404 || len(replies) != 1 {
		t.Fatalf("got %d %s", status, text)
	}
	if v := w.Violations(); len(v) != 1 || !strings.Contains(v[0], "GET /v1/schedules") {
		t.Fatalf("got violations %v", v)
	}
	w.ClearViolations()
	w.call("DELETE", "/v1/nodes/n1", "")
	if len(w.Violations()) != 1 {
		t.Fatal("a known path with an unknown method must be a violation too")
	}
	w.ClearViolations()
}

// TestErrorsKeepWhatTheyCommitted: no deployment failure is ever rolled back.
func TestErrorsKeepWhatTheyCommitted(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.ok(w.SetDeploy("n2", control.Deploy{Failures: 1}))
	err := w.createVolume("aa", 1, 65536, nil)
	w.refused(err, lapi.FailUnknownError)
	w.refused(w.createVolume("aa", 1, 65536, nil), lapi.FailExistsVlmDfn)
	w.expect("disks after failure", w.disks("aa"), "n1:UpToDate,UpToDate n2:UpToDate, n3:Diskless,Diskless")
	w.ok(w.FullSync("n2"))
	w.expect("disks after retry of the satellite", w.disks("aa"), "n1:UpToDate,UpToDate n2:UpToDate,UpToDate n3:Diskless,Diskless")
}

func TestOfflineSatelliteCatchesUp(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.ok(w.SetOnline("n2", false))
	w.volume("aa", 1, 65536)
	if s := w.view("aa")["n2"].State; s != nil {
		t.Fatalf("offline satellite has state %+v, want null", *s)
	}
	w.expect("disks while offline", w.disks("aa"), "n1:UpToDate,UpToDate n2:, n3:Diskless,Diskless")
	w.ok(w.SetOnline("n2", true))
	w.expect("disks after return", w.disks("aa"), "n1:UpToDate,UpToDate n2:UpToDate,UpToDate n3:Diskless,Diskless")
}

func TestAnswerWaitsForSlowSatellite(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.ok(w.SetDeploy("n2", control.Deploy{Delay: control.Duration(300 * time.Millisecond)}))
	start := time.Now()
	w.volume("aa", 1, 65536)
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Fatalf("answered after %v, before the slow satellite", took)
	}
}

// TestRequestGoesOnWithoutItsClient: a client's deadline does not undo.
func TestRequestGoesOnWithoutItsClient(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	w.ok(w.SetDeploy("n1", control.Deploy{Delay: control.Duration(200 * time.Millisecond)}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	number := int32(1)
	err := w.ResourceDefinitions.CreateVolumeDefinition(ctx, "aa", client.VolumeDefinitionCreate{VolumeDefinition: client.VolumeDefinition{VolumeNumber: &number, SizeKib: 65536}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the deadline", err)
	}
	w.eventually("deployment without client", func() bool {
		return w.disks("aa") == "n1:UpToDate,UpToDate n2:UpToDate,UpToDate n3:Diskless,Diskless"
	})
}

func TestFaultsHitTheRequestedCall(t *testing.T) {
	w := newWorld(t)
	w.deployed("aa", "pool")
	add := func(f control.Fault) {
		t.Helper()
		_, err := w.AddFault(f)
		w.ok(err)
	}
	get := func(ctx context.Context) error {
		_, err := w.ResourceDefinitions.Get(ctx, "aa")
		return err
	}
	add(control.Fault{Endpoint: "^GET /v1/resource-definitions/aa$", Kind: control.FaultError, Skip: 1})
	w.ok(get(t.Context()))
	w.refused(get(t.Context()), lapi.FailUnknownError)
	w.ok(get(t.Context()))

	add(control.Fault{Endpoint: "^GET ", Kind: control.FaultHang})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := get(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v from a hanging request", err)
	}

	add(control.Fault{Endpoint: "^POST .*/volume-definitions$", Kind: control.FaultCommitThenReset})
	if err := w.createVolume("aa", 1, 65536, nil); err == nil || errors.As(err, new(client.ApiCallError)) {
		t.Fatalf("got %v, want a broken connection", err)
	}
	w.refused(w.createVolume("aa", 1, 65536, nil), lapi.FailExistsVlmDfn)

	add(control.Fault{Endpoint: "^POST .*/volume-definitions$", Kind: control.FaultReset})
	if err := w.createVolume("aa", 2, 65536, nil); err == nil {
		t.Fatal("got no error from a reset connection")
	}
	w.volume("aa", 2, 65536)
}
