package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/filesystem"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/names"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

// Facts is everything that is known of one export on this node at one moment.
// decide looks at nothing else.
type Facts struct {
	Now  time.Time
	Node string
	Name string

	// Export is nil when there is no such NFSExport (any more).
	Export *v1alpha1.NFSExport
	// Attached: a VolumeAttachment of the volume exists.
	Attached bool
	// Cordoned: this node takes no new work if another can.
	Cordoned bool
	// Leaving: this pod ends; it serves nothing new.
	Leaving bool
	// Awaited: the supervisor of the pod that replaces this one is waiting.
	Awaited bool
	// Passive: another supervisor of this node acts.
	Passive bool
	// Isolated: neither another supervisor nor the API server can be reached.
	Isolated bool
	// Prepared: clients of the export are let in here already.
	Prepared bool
	// Exports is how many exports this node serves.
	Exports int
	// Peers is what is known, by the heartbeat, of the supervisors on the other
	// nodes of the resource. A node that is not in it was never heard.
	Peers map[string]heartbeat.Peer
	// SliceHere: the export's EndpointSlice points to this node, SliceMine: to this
	// pod.
	SliceHere, SliceMine bool
	// SliceAwaited: the server that it points to does not answer yet.
	SliceAwaited bool
	// LastServer is looked up only if this node is not going to serve, for the API
	// server may not answer, and if status names a server that DRBD on this node
	// cannot reach.
	LastServer NodeState

	// Resource is nil when DRBD here does not know it.
	Resource *drbd.Resource
	Data     *filesystem.Mount
	Recovery *filesystem.Mount
	// Process is nil when the launcher never started one, or forgot it.
	Process *ganesha.ProcessState
	// Beside: a ganesha of another pod of this node serves the export. Its supervisor
	// may have died while a rollout replaces the pod.
	Beside bool
	// LauncherDown: the launcher does not answer, so no ganesha can be started.
	LauncherDown bool
	// Intent is what this pod wrote before it started a ganesha.
	Intent *Intent
	// Server is what this supervisor knows to run; nil after its own start.
	Server *Server

	// Observed is the last look at the running server.
	Observed Observation
	Timers   Timers
}

// Intent is written to the pod's run directory before a ganesha is started. It
// lives as long as the pod, like the ganesha it describes, so that another
// supervisor process can adopt that ganesha.
type Intent struct {
	Export      string    `json:"export"`
	Resource    string    `json:"resource"`
	PodIP       string    `json:"podIP"`
	Port        int       `json:"port"`
	ConfigHash  string    `json:"configHash"`
	BootEpoch   int64     `json:"bootEpoch"`
	Started     time.Time `json:"started"`
	DeviceBytes int64     `json:"deviceBytes"`
}

// Server is a ganesha that this supervisor serves an export with.
type Server struct {
	Intent
	// SizeBytes is the size of the filesystem as df shows it.
	SizeBytes int64
	// GrowError says why the filesystem is smaller than its device.
	GrowError string
	GrowAfter time.Time
	// Degraded says what needs attention although the export is served.
	Degraded string
	// Spoken are the records of the clients for whom grace was ended.
	Spoken []string
	// Failover is set if the export was taken over from another server.
	Failover *v1alpha1.Failover
}

// Observation is the result of looking at a running server.
type Observation struct {
	At time.Time
	// Failures is the number of failed probes in a row.
	Failures int
	Error    string
	Clients  int
	Grace    ganesha.Grace
}

// Timers are the moments that a decision depends on; zero means "not so now".
// They are kept in memory only: after a restart of the supervisor they start
// anew, which only delays.
type Timers struct {
	// Wanted: since when it should be served and no Primary is known.
	Wanted time.Time
	// Unserved: since when no Primary is known.
	Unserved time.Time
	// Idle: since when nobody is attached.
	Idle time.Time
	// Stray: since when this node is Primary without using the device.
	Stray time.Time
	// LauncherDown: since when the launcher does not answer.
	LauncherDown time.Time
	// Suspected: since when the Primary's supervisor is silent.
	Suspected time.Time
	// Outgrown: since when nobody serves a filesystem that may be smaller than its
	// device.
	Outgrown time.Time
	// HandOver: since when the status names the node that shall serve next.
	HandOver time.Time
	// Frozen: since when the port of the server that ended here is frozen, and
	// Elsewhere: since when, after that, clients are sent to another node.
	Frozen    time.Time
	Elsewhere time.Time
	// Described: when this node last wrote why nobody serves, and DescribedAs: the
	// reason. They are forgotten when somebody serves or nobody has to any more.
	Described   time.Time
	DescribedAs string
	// Isolated: when this node last let the export go because it was isolated.
	Isolated time.Time
	// HandOverAfter: after a hand-over that failed, when the next one may be tried.
	HandOverAfter time.Time
	// NotBefore: after a failed start, when the next one may be tried.
	NotBefore time.Time
	// Restarts are the restarts in place of the last minutes.
	Restarts []time.Time
}

// NodeState is what Kubernetes says of another node.
type NodeState string

// The states of another node.
const (
	NodeUnknown  NodeState = ""
	NodeReady    NodeState = "Ready"
	NodeNotReady NodeState = "NotReady"
	// NodeGone: its Node object is deleted, so it is no part of the cluster.
	NodeGone NodeState = "Gone"
)

// wanted says whether somebody should serve the export, or, if it is served
// already, whether it should be kept.
func (f Facts) wanted() bool {
	return f.Export != nil && f.Export.DeletionTimestamp.IsZero() && (f.Export.Spec.Policy == v1alpha1.Always || f.Attached)
}

// suspect returns the node that is Primary as far as DRBD knows yet, and whose
// supervisor is silent, or "".
func (f Facts) suspect() string {
	if f.Resource == nil {
		return ""
	}
	if peer := f.Resource.PrimaryPeer(); peer != "" && f.Peers[peer].Silent {
		return peer
	}
	return ""
}

// outgrown says whether the filesystem may be smaller than its device: the device
// grew since the filesystem was last known to fill it, or nobody has opened the
// filesystem yet and the export was changed after its first status.
func (f Facts) outgrown() bool {
	if f.Export == nil || f.Resource == nil {
		return false
	}
	device, ok := f.Resource.Device(names.DataVolume)
	status := f.Export.Status
	switch {
	case !ok:
		return false
	case status.Size != nil: // it was opened
		return device.SizeBytes > status.DeviceBytes
	case status.DeviceBytes == 0: // nobody has looked at the device yet
		return false
	}
	return device.SizeBytes > status.DeviceBytes || f.Export.Generation > generationOfBaseline(status)
}

// awaitsGrowth says whether the device is still smaller than it shall be. LINSTOR
// grows it on its own time, and DRBD reports no event for a size.
func (f Facts) awaitsGrowth() bool {
	device, ok := f.Resource.Device(names.DataVolume)
	return ok && device.SizeBytes > 0 && device.SizeBytes < f.Export.Spec.Size.Value()
}

// handedTo is the node that the last server hands the export over to, or "".
func (f Facts) handedTo() string {
	if f.Export == nil || f.Export.Status.HandOver == nil || f.Now.Sub(f.Timers.HandOver) > handOverLimit {
		return ""
	}
	return f.Export.Status.HandOver.To
}

// mayStart says whether nothing here speaks against serving now.
func (f Facts) mayStart() bool {
	if !f.wanted() || f.Resource == nil {
		return false
	}
	reason, _ := fitToServe(*f.Resource)
	return reason == ""
}

func (f Facts) running() bool { return f.Process != nil && f.Process.Running }
func (f Facts) mounted() bool { return f.Data != nil || f.Recovery != nil }
func (f Facts) primary() bool { return f.Resource != nil && f.Resource.Role == drbd.RolePrimary }

// holding says whether this node uses the device.
func (f Facts) holding() bool { return f.running() || f.mounted() }

// serving says whether everything that serves is in place; whether it works is
// the probe's business.
func (f Facts) serving() bool {
	return f.running() && f.Data != nil && f.Recovery != nil && f.primary()
}

// complete says whether the provisioner has filled in what serving needs.
func complete(export *v1alpha1.NFSExport) bool {
	return export.Spec.ExportID != 0 && export.Spec.FSID != "" && export.Spec.Service != nil && export.Spec.ResourceDefinition.UUID != ""
}

// factTimeout bounds what asks another program.
const factTimeout = 10 * time.Second

// gather collects the facts of one export. The API server is asked only through
// caches, except for an export that is being deleted.
func (a *Agent) gather(ctx context.Context, name string) (Facts, error) {
	memory := a.remember(name)
	f := Facts{Now: a.now(), Node: a.settings.NodeName, Name: name}

	f.Export = a.currentExport(name)
	f.Attached = a.cache.Attached(name)
	f.Cordoned = a.cache.Cordoned()
	f.Leaving = a.leaving.Load()
	f.Awaited = f.Leaving && a.nodeLock != nil && a.nodeLock.Awaited()
	f.Passive = !a.active.Load()
	f.Isolated = a.isolated.Load()
	f.Exports = a.served()
	f.Prepared = a.access.open(name)
	slice := a.cache.EndpointSlice(name)
	f.SliceHere = pointsTo(slice, a.settings.NodeName)
	f.SliceMine = f.SliceHere && slices.Contains(slice.Endpoints[0].Addresses, a.settings.PodIP)
	f.SliceAwaited = slice != nil && slice.Annotations[names.AwaitedAnnotation] != ""

	intent, err := a.readIntent(name)
	if err != nil {
		return f, err
	}
	f.Intent = intent
	resourceName := memory.setResource(resourceOf(f))
	bounded, cancel := context.WithTimeout(ctx, factTimeout)
	defer cancel()
	resource, err := a.drbd.Status(bounded, resourceName)
	switch {
	case err == nil:
		f.Resource = &resource
	case !errors.Is(err, drbd.ErrUnknownResource):
		return f, fmt.Errorf("read state of DRBD resource %s: %w", resourceName, err)
	}

	f.Peers = a.peersOf(f.Resource)

	mounts, err := a.files.List(filepath.Join(a.settings.exportsRoot(), name))
	if err != nil {
		return f, fmt.Errorf("list mounts of export %s: %w", name, err)
	}
	f.Data = mountAt(mounts, a.settings.dataPath(name))
	f.Recovery = mountAt(mounts, a.settings.recoveryPath(name))

	processes, err := a.launcher.List(bounded)
	if err != nil {
		if ctx.Err() != nil {
			return f, ctx.Err()
		}
		f.LauncherDown = true
	}
	a.ready.Store(!f.LauncherDown)
	if index := slices.IndexFunc(processes, func(p ganesha.ProcessState) bool { return p.Name == name }); index >= 0 {
		f.Process = &processes[index]
	}
	f.Beside = !f.running() && a.host.Locked(a.settings.lockPath(name))

	if unreachableServer(f) != "" && !f.mayStart() {
		f.LastServer = a.nodeState(ctx, f.Export.Status.Node)
	}
	memory.track(&f)
	return f, nil
}

// track copies what is remembered into the facts and sets the timers.
func (m *memory) track(f *Facts) {
	m.lock.Lock()
	defer m.lock.Unlock()
	// A server does not answer while a snapshot suspends its I/O. That is no sign of
	// its death, neither then nor right after.
	suspended := f.Resource != nil && f.Resource.Suspended.User
	if suspended || m.suspended {
		m.observed.Failures, m.observed.Error = 0, ""
	}
	m.suspended = suspended
	f.Observed = m.observed
	if m.server != nil {
		server := *m.server
		f.Server = &server
	}

	since := func(timer *time.Time, active bool) {
		switch {
		case !active:
			*timer = time.Time{}
		case timer.IsZero():
			*timer = f.Now
		}
	}
	primaryPeer := ""
	if f.Resource != nil {
		primaryPeer = f.Resource.PrimaryPeer()
	}
	if m.primaryPeer != "" && primaryPeer == "" {
		m.lastServer, m.lostServer = m.primaryPeer, f.Now
	}
	m.primaryPeer = primaryPeer
	m.watched, m.cutOff = nil, nil
	for node := range f.Peers {
		m.watched = append(m.watched, node)
	}
	if f.Resource != nil {
		for _, connection := range f.Resource.Connections {
			if connection.State != drbd.ConnectionConnected {
				m.cutOff = append(m.cutOff, connection.Name)
			}
		}
	}

	unserved := primaryPeer == "" && !f.primary()
	if !unserved || m.timers.Wanted.IsZero() == f.wanted() {
		m.timers.Described, m.timers.DescribedAs = time.Time{}, ""
	}
	since(&m.timers.Unserved, unserved)
	since(&m.timers.Wanted, unserved && f.wanted())
	since(&m.timers.Idle, !f.Attached)
	since(&m.timers.Stray, f.primary() && !f.holding() && m.server == nil)
	since(&m.timers.LauncherDown, f.LauncherDown)
	since(&m.timers.Suspected, f.suspect() != "")
	since(&m.timers.Outgrown, unserved && f.outgrown())
	if f.suspect() == "" {
		m.refusals = 0
	}
	handOver := time.Time{}
	if f.Export != nil && f.Export.Status.HandOver != nil {
		handOver = f.Export.Status.HandOver.Since.Time
	}
	if !m.handOver.Equal(handOver) { // another one
		m.handOver, m.timers.HandOver = handOver, time.Time{}
	}
	since(&m.timers.HandOver, !handOver.IsZero())
	since(&m.timers.Elsewhere, !m.timers.Frozen.IsZero() && !f.SliceMine && !f.SliceAwaited)
	m.timers.Restarts = slices.DeleteFunc(m.timers.Restarts, func(at time.Time) bool { return f.Now.Sub(at) > restartWindow })
	f.Timers = m.timers
	f.Timers.Restarts = slices.Clone(m.timers.Restarts)
}

// resourceOf names the DRBD resource of an export. The provisioner gives both
// the same name.
func resourceOf(f Facts) string {
	switch {
	case f.Export != nil:
		return f.Export.Spec.ResourceDefinition.Name
	case f.Intent != nil:
		return f.Intent.Resource
	}
	return f.Name
}

func mountAt(mounts []filesystem.Mount, target string) *filesystem.Mount {
	for i := len(mounts) - 1; i >= 0; i-- { // the topmost one counts
		if mounts[i].Target == target {
			return &mounts[i]
		}
	}
	return nil
}

func (a *Agent) readIntent(name string) (*Intent, error) {
	content, err := os.ReadFile(a.settings.runPath(name, "server.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read intent of export %s: %w", name, err)
	}
	intent := &Intent{}
	if err := json.Unmarshal(content, intent); err != nil || intent.Port == 0 {
		return nil, nil // as good as none: the server will be started again
	}
	return intent, nil
}

func (a *Agent) writeIntent(intent Intent) error {
	content, err := json.MarshalIndent(intent, "", "  ")
	if err != nil {
		return fmt.Errorf("write intent of export %s: %w", intent.Export, err)
	}
	return writeFile(a.settings.runPath(intent.Export, "server.json"), append(content, '\n'))
}

func (a *Agent) removeIntent(name string) error {
	if err := os.RemoveAll(filepath.Dir(a.settings.runPath(name, "server.json"))); err != nil {
		return fmt.Errorf("remove run directory of export %s: %w", name, err)
	}
	return nil
}

// hasFinalizer says whether the export still waits for us.
func hasFinalizer(export *v1alpha1.NFSExport) bool {
	return slices.Contains(export.Finalizers, names.WithdrawFinalizer)
}
