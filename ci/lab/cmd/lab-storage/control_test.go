package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// lab is a daemon without nodes, and the client that tests use.
type lab struct {
	*control.Client
	t       *testing.T
	cluster *drbd.Cluster
	linstor string // URL of the REST API
	control string // URL of the control API
}

func start(t *testing.T) *lab {
	t.Helper()
	o := options{stateDir: t.TempDir(), nodes: []string{"n1", "n2", "n3=10.1.1.1"}, consumers: []string{"n4"}, pools: []string{"pool:LVM_THIN:20Gi", "thick:LVM:1Gi"}}
	nodes, err := o.nodeOptions()
	if err != nil {
		t.Fatal(err)
	}
	if nodes[0].Address != "10.89.0.11" || nodes[2].Address != "10.1.1.1" || len(nodes[3].Pools) != 0 || nodes[0].Pools[1].TotalKiB != 1<<20 {
		t.Fatalf("flags became %+v", nodes)
	}
	var found violations
	cluster := drbd.New(drbd.Options{Violation: found.add})
	for _, n := range nodes {
		cluster.AddNode(n.Name)
	}
	controller, err := linstor.New(linstor.Options{StateDir: o.stateDir, Nodes: nodes, Replication: cluster, InUseDelay: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	rest := &restServer{address: "127.0.0.1:0", handler: controller}
	if err := rest.up(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newDaemon(controller, cluster, rest, &found).handler())
	t.Cleanup(func() {
		rest.down()
		server.Close()
		controller.Close()
		cluster.Close()
	})
	return &lab{Client: control.NewClient(server.URL, nil), t: t, cluster: cluster, linstor: "http://" + rest.address, control: server.URL}
}

func (l *lab) ok(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// send sends a request to LINSTOR and returns the status, 0 if there is none.
func (l *lab) send(method, path, body string) int {
	l.t.Helper()
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(l.t.Context(), method, l.linstor+"/v1/"+path, strings.NewReader(body))
	l.ok(err)
	answer, err := client.Do(request)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// volume makes a resource definition with one volume on two nodes.
func (l *lab) volume(name string) {
	l.t.Helper()
	for _, c := range [][2]string{
		{"resource-definitions", `{"resource_definition":{"name":"` + name + `"}}`},
		{"resource-definitions/" + name + "/volume-definitions", `{"volume_definition":{"volume_number":0,"size_kib":65536}}`},
		{"resource-definitions/" + name + "/autoplace", `{"select_filter":{"place_count":2,"storage_pool_list":["pool"]}}`},
	} {
		if status := l.send("POST", c[0], c[1]); status != 201 {
			l.t.Fatalf("POST %s: %d", c[0], status)
		}
	}
}

func (l *lab) state() control.State {
	l.t.Helper()
	s, err := l.State(l.t.Context())
	l.ok(err)
	return s
}

func (l *lab) resource(node string) control.Resource {
	l.t.Helper()
	for _, r := range l.state().Definitions[0].Resources {
		if r.Node == node {
			return r
		}
	}
	l.t.Fatalf("no resource on %s", node)
	return control.Resource{}
}

func (l *lab) eventually(what string, f func() bool) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%s did not come true", what)
		}
	}
}

func TestPrimaryIsShownByDRBDAndLater(t *testing.T) {
	l := start(t)
	l.volume("aa")
	l.eventually("connections", func() bool { return l.cluster.Promote(t.Context(), "n2", "aa", false) == nil })
	l.eventually("in use", func() bool { return l.resource("n2").InUse })
	if p := l.state().Primaries["aa"]; len(p) != 1 || p[0] != "n2" || l.resource("n2").Role != drbd.Primary {
		t.Fatalf("primaries %v", p)
	}
}

func TestPowerOffTakesSatelliteAndReplica(t *testing.T) {
	l := start(t)
	l.volume("aa")
	l.ok(l.PowerOff(t.Context(), "n2"))
	if n := l.state().Nodes[1]; n.Online {
		t.Fatalf("got %+v", n)
	}
	if err := l.cluster.Promote(t.Context(), "n2", "aa", false); err == nil {
		t.Fatal("promoted on a node without power")
	}
	// An agent that registers brings both back, with what was missed.
	if status := l.send("POST", "resource-definitions/aa/volume-definitions", `{"volume_definition":{"volume_number":1,"size_kib":65536}}`); status != 201 {
		t.Fatalf("got %d", status)
	}
	l.ok(l.PowerOn(t.Context(), "n2"))
	answer, err := http.Post(l.control+"/register", "application/json", strings.NewReader(`{"node":"n2","bootID":"2","address":"http://127.0.0.1:1"}`))
	l.ok(err)
	_ = answer.Body.Close()
	l.eventually("catching up", func() bool {
		r := l.resource("n2")
		return l.state().Nodes[1].Online && len(r.Volumes) == 2 && r.Volumes[1].Deployed && r.Volumes[1].DiskState == "UpToDate"
	})
}

func TestControllerDownAndUp(t *testing.T) {
	l := start(t)
	for _, mode := range []control.DownMode{control.DownRefuse, control.DownHang} {
		if status := l.send("GET", "nodes", ""); status != 200 {
			t.Fatalf("%s: got %d before", mode, status)
		}
		l.ok(l.ControllerDown(t.Context(), mode))
		if status := l.send("GET", "nodes", ""); status != 0 {
			t.Fatalf("%s: got %d while down", mode, status)
		}
		l.ok(l.ControllerUp(t.Context()))
	}
	if status := l.send("GET", "nodes", ""); status != 200 {
		t.Fatalf("got %d after", status)
	}
}

func TestFaultsByName(t *testing.T) {
	l := start(t)
	l.volume("aa")
	f, err := l.AddFault(t.Context(), control.Fault{Endpoint: "^GET /v1/nodes", Kind: control.FaultError})
	l.ok(err)
	if status := l.send("GET", "nodes", ""); status != 500 {
		t.Fatalf("got %d", status)
	}
	faults, err := l.Faults(t.Context())
	l.ok(err)
	if len(faults) != 1 || faults[0].ID != f.ID || faults[0].Hits != 1 {
		t.Fatalf("got %+v", faults)
	}
	l.ok(l.SatelliteOffline(t.Context(), "n1"))
	l.ok(l.SetDeploy(t.Context(), "n2", control.Deploy{Failures: -1}))
	l.ok(l.SetPool(t.Context(), "n3", "pool", control.Pool{FreeKiB: new(int64)}))
	l.ok(l.SetVersion(t.Context(), "1.31.3"))
	l.ok(l.SetInUseDelay(t.Context(), time.Second))
	l.ok(l.SetSuspendTime(t.Context(), time.Millisecond))
	s := l.state()
	if s.Version != "1.31.3" || s.Nodes[0].Online || s.Nodes[2].Pools[0].FreeKiB != 0 {
		t.Fatalf("got %+v", s)
	}
	l.ok(l.FailDisk(t.Context(), "n2", "aa", 0))
	if d := l.resource("n2").Volumes[0].DiskState; d != "Diskless" {
		t.Fatalf("disk is %s", d)
	}
	l.ok(l.RestoreDisk(t.Context(), "n2", "aa", 0))
	l.eventually("disk back", func() bool { return l.resource("n2").Volumes[0].DiskState == "UpToDate" })
	l.ok(l.SetDiskState(t.Context(), "n2", "aa", 0, "Outdated"))
	if d := l.resource("n2").Volumes[0].DiskState; d != "Outdated" {
		t.Fatalf("disk is %s", d)
	}
	l.ok(l.Partition(t.Context(), []string{"n1", "n3"}, []string{"n2"}))
	l.ok(l.Pause(t.Context(), "n3"))
	if err := l.SatelliteOffline(t.Context(), "n9"); err == nil || !strings.Contains(err.Error(), "n9") {
		t.Fatalf("got %v for an unknown node", err)
	}
	l.ok(l.Reset(t.Context()))
	s = l.state()
	if s.Version != linstor.DefaultVersion || !s.Nodes[0].Online || s.Nodes[2].Pools[0].FreeKiB == 0 {
		t.Fatalf("got %+v after reset", s)
	}
}

func TestViolationsAreShownAndCleared(t *testing.T) {
	l := start(t)
	if status := l.send("GET", "schedules", ""); status != 404 {
		t.Fatalf("got %d", status)
	}
	v, err := l.Violations(t.Context())
	l.ok(err)
	if len(v) != 1 {
		t.Fatalf("got %v", v)
	}
	l.ok(l.ClearViolations(t.Context()))
	v, err = l.Violations(t.Context())
	l.ok(err)
	if len(v) != 0 {
		t.Fatalf("got %v", v)
	}
	r, err := l.Requests(t.Context(), 0)
	l.ok(err)
	if len(r) != 1 || r[0].Status != 404 || r[0].URI != "/v1/schedules" {
		t.Fatalf("got %+v", r)
	}
}
