package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/tools/record"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/firewall"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	gib        = int64(1) << 30
	testExport = "pvc-1"
	testUUID   = "6f8a2c1e-0000-4000-8000-000000000001"
)

// world is a small cluster: an API server, replicated volumes, machines. What
// must never happen in it fails the test, whoever does it.
type world struct {
	t      *testing.T
	lock   sync.Mutex
	offset time.Duration

	version  int
	exports  map[string]*v1alpha1.NFSExport
	slices   map[string]*discoveryv1.EndpointSlice
	attached map[string]bool
	gone     map[string]bool // Node objects that are deleted
	notReady map[string]bool
	boots    map[string]string // boot ids, where they are not the first ones
	taints   map[string][]corev1.Taint
	diedAt   time.Time
	writes   int // status writes

	disks    map[int]*disk // by minor: 1000 is VolNr 0, 1001 is VolNr 1
	machines []*machine
}

// disk is the replicated content of one volume.
type disk struct {
	fsType    string
	fsBytes   int64
	bytes     int64
	formatted int
	users     bool // holds a user's files

	rootApplied int
	marks       map[string]bool
	stamp       *ganesha.Identity
	records     []string
	back        []string // of them, in grace
	known       map[string]ganesha.KnownClient
	grace       ganesha.Grace
	wiped       int
}

func newWorld(t *testing.T, nodes ...string) *world {
	w := &world{
		t: t, exports: map[string]*v1alpha1.NFSExport{}, slices: map[string]*discoveryv1.EndpointSlice{},
		attached: map[string]bool{}, gone: map[string]bool{}, notReady: map[string]bool{}, boots: map[string]string{}, taints: map[string][]corev1.Taint{},
		disks: map[int]*disk{
			1000: {fsType: "ext4", fsBytes: gib, bytes: gib, marks: map[string]bool{}},
			1001: {bytes: 64 << 20, marks: map[string]bool{}},
		},
	}
	w.version = 1
	w.exports[testExport] = newExport()
	for i, name := range nodes {
		m := &machine{world: w, name: name, ip: fmt.Sprintf("10.0.0.%d", i+1), quorum: true, online: true,
			disk: "UpToDate", deployed: true, runDir: t.TempDir(), mountRoot: "/var/lib/linstor-rwx",
			mounts: map[string]int{}, processes: map[string]*ganesha.ProcessState{}}
		w.machines = append(w.machines, m)
		m.restartSupervisor()
	}
	return w
}

func newExport() *v1alpha1.NFSExport {
	return &v1alpha1.NFSExport{
		ObjectMeta: metav1.ObjectMeta{Name: testExport, UID: "export-uid", ResourceVersion: "1", Generation: 1,
			Finalizers: []string{names.WithdrawFinalizer}},
		Spec: v1alpha1.NFSExportSpec{
			ResourceDefinition: v1alpha1.ResourceDefinition{Name: testExport, UUID: testUUID},
			Claim:              &v1alpha1.ClaimReference{Namespace: "shop", Name: "data", UID: "claim-uid"},
			ExportID:           7, FSID: "12.34", ServerScope: testExport,
			Service: &v1alpha1.ServiceReference{Namespace: "linstor-rwx", Name: testExport, ClusterIP: "10.96.0.7", Port: 2049},
			FSType:  "ext4", LeaseSeconds: 6, GraceSeconds: 60, Size: *resource.NewQuantity(gib, resource.BinarySI),
			RootDirectory: v1alpha1.RootDirectory{Mode: "0777"}, Policy: v1alpha1.OnDemand,
		},
	}
}

func (w *world) now() time.Time          { return time.Now().Add(w.offset) }
func (w *world) advance(d time.Duration) { w.offset += d }
func (w *world) machine(name string) *machine {
	for _, m := range w.machines {
		if m.name == name {
			return m
		}
	}
	w.t.Fatalf("no machine %s", name)
	return nil
}

func (w *world) export() *v1alpha1.NFSExport {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.exports[testExport].DeepCopy()
}

func (w *world) change(change func(export *v1alpha1.NFSExport)) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.version++
	w.exports[testExport].ResourceVersion = strconv.Itoa(w.version)
	change(w.exports[testExport])
}

func (w *world) delete() {
	w.change(func(export *v1alpha1.NFSExport) {
		at := metav1.NewTime(w.now())
		export.DeletionTimestamp = &at
	})
}

// endpoint is where clients are sent, or "".
func (w *world) endpoint() string {
	w.lock.Lock()
	defer w.lock.Unlock()
	slice := w.slices[testExport]
	if slice == nil || len(slice.Endpoints) == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", slice.Endpoints[0].Addresses[0], *slice.Ports[0].Port)
}

func (w *world) serving() []string {
	var nodes []string
	for _, m := range w.machines {
		if p := m.processes[testExport]; p != nil && p.Running {
			nodes = append(nodes, m.name)
		}
	}
	return nodes
}

// machine is a node with its DRBD, its mounts, its ganesha container and its
// supervisor.
type machine struct {
	world *world
	name  string
	ip    string

	deployed       bool
	online         bool // connected to the others
	quorum         bool
	disk           string
	primary        bool
	userSuspended  bool
	heldOpen       bool // by somebody of whom the supervisor does not know
	suspended      bool // by loss of quorum
	forced         bool // force-io-failures
	openAfterLazy  bool
	readOnly       bool // ext4 after an I/O error
	apiDown        bool
	dead           bool // without power, and nobody noticed
	silent         bool // its supervisor does not answer
	unheard        bool // it was never heard
	cordoned       bool
	beside         bool   // another pod's ganesha serves on this node
	onProbe        func() // called when ganesha is asked
	rules          firewall.Rules
	launcherDown   bool
	hung           bool // ganesha does not answer
	unkillable     bool // it does not end by SIGKILL until its I/O fails
	lookups        int  // Nodes that the API server was asked for
	cannotStart    bool // ganesha ends at once
	growFails      bool
	losesQuorum    bool
	promotions     int
	processStarts  int
	signals        []string
	journal        []string
	mounts         map[string]int // target -> minor
	processes      map[string]*ganesha.ProcessState
	runDir         string
	mountRoot      string
	agent          *Agent
	recorder       *record.FakeRecorder
	ctx            context.Context
	kill           context.CancelFunc
	calls, crashAt int
	crashAfter     bool
}

// restartSupervisor starts a new supervisor process in the same pod.
func (m *machine) restartSupervisor() {
	m.calls, m.crashAt = 0, 0
	m.ctx, m.kill = context.WithCancel(m.world.t.Context())
	m.recorder = record.NewFakeRecorder(1000)
	settings := Settings{
		NodeName: m.name, PodName: "ganesha-" + m.name, PodNamespace: "linstor-rwx", PodIP: m.ip,
		IdleTimeout: 30 * time.Second, MountRoot: m.mountRoot, RunDir: m.runDir, PortMin: 20490, PortMax: 20499,
		ProbeInterval: 3 * time.Second, ProbeTimeout: time.Second, ProbeFailures: 3,
		StartTimeout: 400 * time.Millisecond, StopTimeout: 200 * time.Millisecond, Workers: 1, Silence: true,
	}
	m.agent = NewAgent(settings, Dependencies{
		DRBD: drbdFake{m}, Files: filesFake{m}, Launcher: launcherFake{m}, Recovery: recoveryFake{m}, Host: hostFake{m},
		Probe: m.probe, Speak: m.speak, Firewall: firewallFake{m}, Cache: cacheFake{m}, Exports: exportsFake{m: m}, Slices: slicesFake{m: m}, Nodes: nodesFake{m: m},
		Recorder: m.recorder, Metrics: NewMetrics(), Now: m.world.now,
	})
	m.agent.Hear(peersFake{m})
	m.agent.active.Store(true)
	m.agent.restoreAccess(m.ctx)
}

// restartPod ends all processes of the pod; the mounts stay on the host.
func (m *machine) restartPod() {
	m.processes = map[string]*ganesha.ProcessState{}
	m.openAfterLazy = false
	m.rules = firewall.Rules{} // another network namespace
	if m.forced && len(m.mounts) == 0 {
		m.forced = false
	}
	m.runDir = m.world.t.TempDir()
	m.ip += "0"
	m.restartSupervisor()
}

// settle lets the supervisor work until it has nothing to do at once.
func (m *machine) settle() {
	m.world.t.Helper()
	for range 40 {
		after, err := m.agent.reconcile(m.ctx, testExport)
		if m.ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, errOutdated) {
			m.journal = append(m.journal, "error: "+err.Error())
			return
		}
		if err == nil && (after == 0 || after > again) {
			return
		}
	}
	m.world.t.Errorf("node %s does not come to rest: %v", m.name, m.journal)
}

// observe looks at the running server once.
func (m *machine) observe() { m.agent.observeOnce(m.ctx, testExport) }

// call counts what the supervisor changes, and crashes it at the chosen one.
func (m *machine) call(what string, effect func() error) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	m.world.lock.Lock()
	defer m.world.lock.Unlock()
	m.calls++
	m.journal = append(m.journal, what)
	if m.calls == m.crashAt && !m.crashAfter {
		m.kill()
		return m.ctx.Err()
	}
	err := effect()
	if m.calls == m.crashAt {
		m.kill()
		return m.ctx.Err()
	}
	return err
}

func (m *machine) events() []string {
	var events []string
	for {
		select {
		case event := <-m.recorder.Events:
			events = append(events, event)
		default:
			return events
		}
	}
}

func (m *machine) did(what string) int {
	return len(slices.DeleteFunc(slices.Clone(m.journal), func(entry string) bool { return entry != what }))
}

// --- the API server ---

type cacheFake struct{ m *machine }

func (c cacheFake) Export(name string) *v1alpha1.NFSExport {
	c.m.world.lock.Lock()
	defer c.m.world.lock.Unlock()
	if export := c.m.world.exports[name]; export != nil {
		return export.DeepCopy()
	}
	return nil
}
func (c cacheFake) ExportNames() []string       { return []string{testExport} }
func (c cacheFake) ExportsOf(string) []string   { return []string{testExport} }
func (c cacheFake) Attached(volume string) bool { return c.m.world.attached[volume] }
func (c cacheFake) Cordoned() bool              { return c.m.cordoned }
func (c cacheFake) NodeAddresses() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
}

func (c cacheFake) Node(name string) *corev1.Node {
	node, err := c.m.node(name)
	if err != nil {
		return nil
	}
	return node
}

// NodeOfHost: machines are called as their nodes are.
func (c cacheFake) NodeOfHost(hostname string) *corev1.Node { return c.Node(hostname) }

func (c cacheFake) EndpointSlice(name string) *discoveryv1.EndpointSlice {
	c.m.world.lock.Lock()
	defer c.m.world.lock.Unlock()
	return c.m.world.slices[name].DeepCopy()
}

var errAPIDown = errors.New("the API server does not answer")

func (m *machine) api(what string, effect func() error) error {
	if m.apiDown {
		return errAPIDown
	}
	return m.call(what, effect)
}

type exportsFake struct {
	exports.Interface
	m *machine
}

func (e exportsFake) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.NFSExport, error) {
	if e.m.apiDown {
		return nil, errAPIDown
	}
	if export := (cacheFake{e.m}).Export(name); export != nil {
		return export, nil
	}
	return nil, apierrors.NewNotFound(v1alpha1.Resource.GroupResource(), name)
}

func (e exportsFake) write(what string, export *v1alpha1.NFSExport, apply func(stored *v1alpha1.NFSExport)) (*v1alpha1.NFSExport, error) {
	var result *v1alpha1.NFSExport
	w := e.m.world
	err := e.m.api(what, func() error {
		stored := w.exports[export.Name]
		if stored == nil {
			return apierrors.NewNotFound(v1alpha1.Resource.GroupResource(), export.Name)
		}
		if stored.ResourceVersion != export.ResourceVersion {
			return apierrors.NewConflict(v1alpha1.Resource.GroupResource(), export.Name, errors.New("changed"))
		}
		apply(stored)
		w.version++
		stored.ResourceVersion = strconv.Itoa(w.version)
		result = stored.DeepCopy()
		if stored.DeletionTimestamp != nil && len(stored.Finalizers) == 0 {
			delete(w.exports, export.Name)
			delete(w.slices, export.Name) // owned
		}
		return nil
	})
	return result, err
}

func (e exportsFake) Update(_ context.Context, export *v1alpha1.NFSExport, _ metav1.UpdateOptions) (*v1alpha1.NFSExport, error) {
	return e.write("update export", export, func(stored *v1alpha1.NFSExport) {
		stored.Finalizers = export.Finalizers
		stored.Annotations = export.Annotations
		for _, m := range e.m.world.machines {
			if len(export.Finalizers) == 0 && m.online == e.m.online && (m.primary || len(m.mounts) > 0) {
				e.m.world.t.Errorf("the export was withdrawn while node %s uses the volume", m.name)
			}
		}
	})
}

func (e exportsFake) UpdateStatus(_ context.Context, export *v1alpha1.NFSExport, _ metav1.UpdateOptions) (*v1alpha1.NFSExport, error) {
	e.m.world.writes++
	return e.write("status", export, func(stored *v1alpha1.NFSExport) { stored.Status = *export.Status.DeepCopy() })
}

type slicesFake struct {
	discoveryclient.EndpointSliceInterface
	m *machine
}

var sliceResource = discoveryv1.Resource("endpointslices")

func (s slicesFake) Get(_ context.Context, name string, _ metav1.GetOptions) (*discoveryv1.EndpointSlice, error) {
	if s.m.apiDown {
		return nil, errAPIDown
	}
	if slice := (cacheFake{s.m}).EndpointSlice(name); slice != nil {
		return slice, nil
	}
	return nil, apierrors.NewNotFound(sliceResource, name)
}

func (s slicesFake) put(what string, slice *discoveryv1.EndpointSlice) (*discoveryv1.EndpointSlice, error) {
	return slice, s.m.api(what, func() error {
		stored := slice.DeepCopy()
		s.m.world.version++
		stored.UID, stored.ResourceVersion = types.UID("slice"), strconv.Itoa(s.m.world.version)
		s.m.world.slices[slice.Name] = stored
		return nil
	})
}

func (s slicesFake) Create(_ context.Context, slice *discoveryv1.EndpointSlice, _ metav1.CreateOptions) (*discoveryv1.EndpointSlice, error) {
	return s.put("create endpoint", slice)
}

func (s slicesFake) Update(_ context.Context, slice *discoveryv1.EndpointSlice, _ metav1.UpdateOptions) (*discoveryv1.EndpointSlice, error) {
	return s.put("update endpoint", slice)
}

func (s slicesFake) Delete(_ context.Context, name string, options metav1.DeleteOptions) error {
	return s.m.api("delete endpoint", func() error {
		stored := s.m.world.slices[name]
		if stored == nil {
			return apierrors.NewNotFound(sliceResource, name)
		}
		if *options.Preconditions.ResourceVersion != stored.ResourceVersion {
			return apierrors.NewConflict(sliceResource, name, errors.New("changed"))
		}
		delete(s.m.world.slices, name)
		return nil
	})
}

type nodesFake struct {
	corev1client.NodeInterface
	m *machine
}

func (n nodesFake) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
	n.m.lookups++
	if n.m.apiDown {
		return nil, errAPIDown
	}
	return n.m.node(name)
}

// node is what the API server knows of a node. Those that are no machine of the
// world are clients.
func (m *machine) node(name string) (*corev1.Node, error) {
	if m.world.gone[name] {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	ready := corev1.ConditionTrue
	for _, machine := range m.world.machines {
		if machine.name == name && (!machine.online || machine.dead) {
			ready = corev1.ConditionUnknown
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: m.world.taints[name]},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
	if m.world.notReady[name] {
		node.Status.Conditions[0].Status = corev1.ConditionFalse
	}
	node.Status.NodeInfo.BootID = cmp.Or(m.world.boots[name], "boot-of-"+name)
	return node, nil
}
