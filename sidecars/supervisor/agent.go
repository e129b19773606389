package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports"
)

// errOutdated says that a write was based on an old copy: not an error, the next
// pass will know better.
var errOutdated = errors.New("the cached object is outdated")

// outdatedDelay gives the caches the time to catch up.
const outdatedDelay = 200 * time.Millisecond

// Cache is what the supervisor knows of the cluster without asking.
type Cache interface {
	// Export returns nil if there is none. The object is shared.
	Export(name string) *v1alpha1.NFSExport
	// ExportNames are the names of all exports.
	ExportNames() []string
	// ExportsOf are the names of the exports of a DRBD resource.
	ExportsOf(resource string) []string
	// Attached says whether the volume has a VolumeAttachment of the CSI driver.
	Attached(volume string) bool
	// Cordoned says whether this node is unschedulable or being deleted.
	Cordoned() bool
	// Node returns nil if there is none. The object is shared, and holds only what
	// a NodeRecord shows.
	Node(name string) *corev1.Node
	// NodeOfHost returns the only node of this host name, or nil.
	NodeOfHost(hostname string) *corev1.Node
	// NodeAddresses are the addresses from which the nodes' own connections come.
	NodeAddresses() []netip.Prefix
	// EndpointSlice returns nil if there is none. The object is shared.
	EndpointSlice(name string) *discoveryv1.EndpointSlice
}

// Dependencies are the outside world of an Agent.
type Dependencies struct {
	DRBD     DRBD
	Files    Filesystem
	Launcher Launcher
	Recovery Recovery
	Host     Host
	Probe    Prober
	// Speak ends the grace of a client in its place.
	Speak Speaker
	// NodeLock is nil if this is the node's only supervisor.
	NodeLock NodeLock
	// Firewall is nil if the pod's network namespace is left as it is.
	Firewall Firewall
	Cache    Cache
	Exports  exports.Interface
	Slices   discoveryclient.EndpointSliceInterface
	Nodes    corev1client.NodeInterface
	Recorder record.EventRecorder
	Metrics  *Metrics
	Now      func() time.Time
}

// Agent serves the exports of one node. Each export is worked on by one worker
// at a time; a second queue looks at running servers, so that one that hangs
// cannot keep its export from being fenced.
type Agent struct {
	settings Settings
	drbd     DRBD
	files    Filesystem
	launcher Launcher
	recovery Recovery
	host     Host
	probe    Prober
	speak    Speaker
	access   *access
	cache    Cache
	exports  exports.Interface
	slices   discoveryclient.EndpointSliceInterface
	nodes    corev1client.NodeInterface
	events   events
	metrics  *Metrics
	now      func() time.Time

	work         workqueue.TypedRateLimitingInterface[string]
	observations workqueue.TypedRateLimitingInterface[string]

	// peers is nil without heartbeat.
	peers    Peers
	nodeLock NodeLock
	active   atomic.Bool
	leaving  atomic.Bool
	ready    atomic.Bool
	isolated atomic.Bool
	// reachedAPI is when watchIsolation reached the API server last, while this node
	// served.
	reachedAPI time.Time

	// starts has a place for each start that may run at the same time.
	starts chan struct{}

	lock     sync.Mutex
	waiting  []string // for a place among starts
	memories map[string]*memory
	ports    map[string]int
}

// memory is what the agent remembers of one export. Only the export's worker
// touches it, but for what lock protects.
type memory struct {
	latest        *v1alpha1.NFSExport
	statusWritten time.Time
	failures      int
	primaryPeer   string
	lastServer    string
	lostServer    time.Time
	handOver      time.Time
	refusals      int
	// promoted is how long the promotion took that takeOver made.
	promoted time.Duration

	lock     sync.Mutex
	resource string
	watched  []string
	// cutOff are the peers to which DRBD has no connection.
	cutOff   []string
	server   *Server
	observed Observation
	// connected are the records of the clients that were connected at the last look.
	connected []string
	// suspended: a snapshot suspended I/O when the export was looked at last.
	suspended bool
	timers    Timers
}

// NewAgent returns an Agent; Run starts it.
func NewAgent(settings Settings, d Dependencies) *Agent {
	limiter := func() workqueue.TypedRateLimiter[string] {
		return workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 30*time.Second)
	}
	return &Agent{
		settings: settings, drbd: d.DRBD, files: d.Files, launcher: d.Launcher, recovery: d.Recovery, host: d.Host,
		probe: d.Probe, speak: d.Speak, nodeLock: d.NodeLock, access: newAccess(settings, d.Firewall, d.Cache), cache: d.Cache, exports: d.Exports, slices: d.Slices, nodes: d.Nodes,
		events: events{d.Recorder}, metrics: d.Metrics, now: d.Now,
		work:         workqueue.NewTypedRateLimitingQueue(limiter()),
		observations: workqueue.NewTypedRateLimitingQueue(limiter()),
		starts:       make(chan struct{}, settings.parallelStarts()),
		memories:     map[string]*memory{},
		ports:        map[string]int{},
	}
}

// Trigger has the export looked at soon.
func (a *Agent) Trigger(export string) { a.work.Add(export) }

// TriggerResource has the exports of a DRBD resource looked at soon; "" means
// every export.
func (a *Agent) TriggerResource(resource string) {
	if resource == "" {
		a.TriggerAll()
		return
	}
	for _, name := range a.cache.ExportsOf(resource) {
		a.Trigger(name)
	}
	// What this node holds counts even if its NFSExport is gone.
	a.lock.Lock()
	defer a.lock.Unlock()
	for name, memory := range a.memories {
		if memory.isOf(resource) {
			a.work.Add(name)
		}
	}
}

// TriggerAll has every export looked at soon, and what an earlier supervisor
// left on this node.
func (a *Agent) TriggerAll() {
	for _, name := range a.cache.ExportNames() {
		a.Trigger(name)
	}
	for _, name := range a.leftovers() {
		a.Trigger(name)
	}
}

// Run works until ctx ends. It then leaves everything as it is: the servers go
// on without a supervisor, and the next one adopts them.
func (a *Agent) Run(ctx context.Context) {
	a.restoreAccess(ctx)
	var workers sync.WaitGroup
	for range a.settings.Workers {
		workers.Go(func() { a.worker(ctx, a.work, a.reconcileOnce) })
		workers.Go(func() { a.worker(ctx, a.observations, a.observeOnce) })
	}
	workers.Go(func() { wait.UntilWithContext(ctx, a.checkAccess, accessInterval) })
	workers.Go(func() { wait.UntilWithContext(ctx, a.watchIsolation, isolationInterval) })
	a.becomeActive(ctx)
	<-ctx.Done()
	a.work.ShutDown()
	a.observations.ShutDown()
	workers.Wait()
}

func (a *Agent) worker(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], do func(context.Context, string)) {
	for {
		name, shutdown := queue.Get()
		if shutdown {
			return
		}
		func() {
			defer queue.Done(name)
			defer utilruntime.HandleCrashWithContext(ctx)
			if ctx.Err() == nil {
				do(ctx, name)
			}
		}()
	}
}

// reconcileOnce is one pass over one export, with its error logged once.
func (a *Agent) reconcileOnce(ctx context.Context, name string) {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("export", name))
	after, err := a.reconcile(ctx, name)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errOutdated):
		a.work.AddAfter(name, outdatedDelay)
	case err != nil:
		a.metrics.reconcileErrors.Inc()
		klog.FromContext(ctx).Error(err, "Pass over export failed, it is repeated")
		a.work.AddRateLimited(name)
	default:
		a.work.Forget(name)
		if after > 0 {
			a.work.AddAfter(name, after)
		}
	}
}

// reconcile gathers, decides and acts. It returns when to look again without a
// trigger, or 0.
func (a *Agent) reconcile(ctx context.Context, name string) (time.Duration, error) {
	f, err := a.gather(ctx, name)
	if err != nil {
		return 0, err
	}
	decision := decide(a.settings, f)
	if decision.Action != Nothing && decision.Action != Keep && decision.Action != Unfreeze {
		klog.FromContext(ctx).Info("Acting on export", "action", decision.Action, "reason", decision.Reason, "why", decision.Message, "fence", decision.Fence)
	}
	switch decision.Action {
	case Nothing:
		a.forgetIfGone(f)
		return decision.After, nil
	case Keep:
		return a.keep(ctx, f, decision)
	case Adopt:
		a.adopt(ctx, f)
		return again, nil
	case Start:
		return a.inTurn(name, func() (time.Duration, error) { return a.startServer(ctx, f) })
	case Restart:
		return a.inTurn(name, func() (time.Duration, error) { return a.restartServer(ctx, f, decision) })
	case Grow:
		return again, a.growServed(ctx, f)
	case GrowIdle:
		return a.inTurn(name, func() (time.Duration, error) { return again, a.growIdle(ctx, f) })
	case Stop:
		return again, a.stopServer(ctx, f, decision)
	case Describe:
		return decision.After, a.describeUnserved(ctx, f, decision)
	case Prepare:
		return 0, a.prepare(ctx, f)
	case TakeOver:
		return a.takeOver(ctx, f)
	case HandOver:
		return again, a.handOver(ctx, f, decision)
	case RefuseMove:
		return again, a.refuseMove(ctx, f, decision)
	case Unfreeze:
		return again, a.unfreeze(ctx, f)
	case Withdraw:
		return 0, a.withdraw(ctx, f)
	}
	return 0, fmt.Errorf("act on export %s: unknown action %q", name, decision.Action)
}

// startQueueDelay is when an export that waits for its turn to start looks again
// by itself; usually it is called.
const startQueueDelay = 5 * time.Second

// inTurn starts an export if there is a place, or notes that it waits for one:
// a worker must not wait, for another export may have to be fenced.
func (a *Agent) inTurn(name string, start func() (time.Duration, error)) (time.Duration, error) {
	select {
	case a.starts <- struct{}{}:
	default:
		a.lock.Lock()
		defer a.lock.Unlock()
		if !slices.Contains(a.waiting, name) {
			a.waiting = append(a.waiting, name)
		}
		return startQueueDelay, nil
	}
	defer a.callNext()
	return start()
}

// callNext gives the place of a start that has ended to the one that waits
// longest.
func (a *Agent) callNext() {
	<-a.starts
	a.lock.Lock()
	defer a.lock.Unlock()
	if len(a.waiting) > 0 {
		a.work.Add(a.waiting[0])
		a.waiting = a.waiting[1:]
	}
}

// again asks for another pass right after one that changed something.
const again = 10 * time.Millisecond

// describeUnserved writes why nobody serves the export, and says it aloud if it
// is news.
func (a *Agent) describeUnserved(ctx context.Context, f Facts, decision Decision) error {
	if err := a.writeStatus(ctx, f, unservedStatus(f, decision)); err != nil {
		return err
	}
	m := a.remember(f.Name)
	m.lock.Lock()
	m.timers.Described, m.timers.DescribedAs = f.Now, decision.Reason
	m.lock.Unlock()
	switch decision.Reason {
	case ReasonIdle, ReasonVolumeMissing, ReasonStale:
	default:
		a.events.warning(f.Export, decision.Reason, decision.Message)
	}
	return nil
}

// remember returns the memory of an export, a new one if there is none.
func (a *Agent) remember(name string) *memory {
	a.lock.Lock()
	defer a.lock.Unlock()
	m, ok := a.memories[name]
	if !ok {
		m = &memory{}
		a.memories[name] = m
	}
	return m
}

// forgetIfGone drops what is remembered of an export that is gone.
func (a *Agent) forgetIfGone(f Facts) {
	if f.Export != nil {
		return
	}
	if a.access.open(f.Name) {
		if err := a.access.close(context.Background(), f.Name); err != nil {
			klog.Background().Error(err, "Rules of an export that is gone are left")
		}
		a.freePort(f.Name)
	}
	// The mount points; Remove, not RemoveAll: what is mounted or holds anything
	// stays.
	for _, path := range []string{a.settings.lockPath(f.Name), a.settings.dataPath(f.Name), a.settings.recoveryPath(f.Name), filepath.Dir(a.settings.dataPath(f.Name))} {
		_ = os.Remove(path)
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	delete(a.memories, f.Name)
	a.metrics.forget(f.Name)
}

func (m *memory) setResource(name string) string {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.resource = name
	return name
}

func (m *memory) isOf(resource string) bool {
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.resource == resource
}

func (m *memory) isCutOff(node string) bool {
	m.lock.Lock()
	defer m.lock.Unlock()
	return slices.Contains(m.cutOff, node)
}

func (m *memory) setServer(server *Server) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.server = server
	m.observed = Observation{}
	m.connected = nil
}

// noteConnected remembers who is connected, and returns who was.
func (m *memory) noteConnected(keys []string) []string {
	m.lock.Lock()
	defer m.lock.Unlock()
	before := m.connected
	m.connected = slices.Clone(keys)
	return before
}

func (m *memory) currentServer() *Server {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.server == nil {
		return nil
	}
	server := *m.server
	return &server
}
