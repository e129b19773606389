package linstor

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// Replication is what satellites ask of DRBD; *drbd.Cluster implements it.
type Replication interface {
	Configure(ctx context.Context, node string, config drbd.ResourceConfig) error
	Deconfigure(ctx context.Context, node, resource string) error
	Resize(ctx context.Context, resource string, volume int, sizeBytes int64) error
	SuspendIO(ctx context.Context, resource string) error
	ResumeIO(resource string) error
	State(node, resource string) (drbd.State, error)
	SetDiskState(node, resource string, volume int, state drbd.DiskState) error
	Subscribe(func(drbd.Event)) (cancel func())
}

// Options configure a Controller.
type Options struct {
	// StateDir gets the backing files and the request log.
	StateDir    string
	Nodes       []NodeOptions
	Replication Replication
	// Version is the server's version; empty: DefaultVersion.
	Version string
	// InUseDelay is how late role changes are known to LINSTOR.
	InUseDelay time.Duration
}

// DefaultVersion is a version without the traps of older servers.
const DefaultVersion = "1.33.3"

// DefaultInUseDelay is the usual time from a promotion to in_use in the REST
// API of the real server.
const DefaultInUseDelay = 300 * time.Millisecond

// NodeOptions describe one LINSTOR node. Without pools it is a consumer.
type NodeOptions struct {
	Name, Address string
	Props         map[string]string
	Pools         []PoolOptions
}

// PoolOptions describe a storage pool: Kind is LINSTOR's provider kind.
type PoolOptions struct {
	Name, Kind string
	TotalKiB   int64
}

// Controller is the controller and all satellites of one LINSTOR cluster.
// It serves the REST API as an http.Handler.
type Controller struct {
	stateDir    string
	replication Replication
	routes      *router
	cancel      func()
	background  sync.WaitGroup

	mu          sync.Mutex
	version     string
	inUseDelay  time.Duration
	suspendTime time.Duration
	cloneTime   time.Duration
	props       map[string]string
	nodes       map[string]*node
	groups      map[string]*resourceGroup
	definitions map[string]*resourceDefinition
	keyValues   map[string]map[string]string
	promotions  map[chan promotionEvent]bool
	closed      bool

	// violations have their own lock: whoever reports one may hold others.
	violationsMu sync.Mutex
	violations   []string
}

// New makes a Controller with an empty database and subscribes to the
// replication's events until Close.
func New(options Options) (*Controller, error) {
	for _, dir := range []string{"volumes", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(options.StateDir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
	}
	c := &Controller{
		stateDir: options.StateDir, replication: options.Replication,
		version: options.Version, inUseDelay: options.InUseDelay,
		props: map[string]string{
			propAutoQuorum: "io-error", propAutoTieBreaker: "True", propOnNoQuorum: "io-error",
			"DrbdOptions/auto-diskful-allow-cleanup": "True", "TcpPortAutoRange": "7000-7999",
		},
		nodes: map[string]*node{}, groups: map[string]*resourceGroup{}, definitions: map[string]*resourceDefinition{},
		keyValues: map[string]map[string]string{}, promotions: map[chan promotionEvent]bool{},
	}
	if c.version == "" {
		c.version = DefaultVersion
	}
	c.groups[defaultGroup] = &resourceGroup{name: defaultGroup, uuid: newUUID(), props: map[string]string{}, volumes: map[int]*volumeGroup{}}
	for _, o := range options.Nodes {
		n := &node{name: o.Name, uuid: newUUID(), address: o.Address, props: clone(o.Props), online: true, pools: map[string]*pool{}}
		n.props["CurStltConnName"] = "default"
		for _, p := range append(slices.Clone(o.Pools), PoolOptions{Name: disklessPool, Kind: kindDiskless}) {
			n.pools[p.Name] = &pool{name: p.Name, kind: p.Kind, uuid: newUUID(), totalKiB: p.TotalKiB, props: map[string]string{}}
		}
		c.nodes[o.Name] = n
	}
	log, err := newRequestLog(filepath.Join(options.StateDir, "linstor-requests.log"))
	if err != nil {
		return nil, err
	}
	c.routes = newRouter(c, log)
	c.cancel = options.Replication.Subscribe(c.replicationEvent)
	return c, nil
}

// Close ends the event subscription, hanging requests and event streams, and
// waits for satellites that still work.
func (c *Controller) Close() {
	c.cancel()
	c.mu.Lock()
	c.closed = true
	for stream := range c.promotions {
		close(stream)
	}
	c.promotions = nil
	c.mu.Unlock()
	c.routes.close()
	c.background.Wait()
}

// inBackground runs f and makes Close wait for it.
func (c *Controller) inBackground(f func()) {
	c.background.Add(1)
	go func() {
		defer c.background.Done()
		f()
	}()
}

// AddViolation records something that must not have happened.
func (c *Controller) AddViolation(text string) {
	c.violationsMu.Lock()
	defer c.violationsMu.Unlock()
	c.violations = append(c.violations, text)
}

// Violations lists what must not have happened, such as unhandled requests.
func (c *Controller) Violations() []string {
	c.violationsMu.Lock()
	defer c.violationsMu.Unlock()
	return slices.Clone(c.violations)
}

// ClearViolations forgets them, for tests that provoke one.
func (c *Controller) ClearViolations() {
	c.violationsMu.Lock()
	defer c.violationsMu.Unlock()
	c.violations = nil
}

// Apply changes version and times.
func (c *Controller) Apply(settings control.Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := func(target *time.Duration, value *control.Duration) {
		if value != nil {
			*target = time.Duration(*value)
		}
	}
	if settings.Version != nil {
		c.version = *settings.Version
	}
	set(&c.inUseDelay, settings.InUseDelay)
	set(&c.suspendTime, settings.SuspendTime)
	set(&c.cloneTime, settings.CloneTime)
}

// atLeast says whether the server's version has a behaviour that came with
// the given version.
func atLeast(version, wanted string) bool {
	a, b := strings.Split(version, "."), strings.Split(wanted, ".")
	for i := range b {
		var x int
		if i < len(a) {
			x, _ = strconv.Atoi(strings.SplitN(a[i], "-", 2)[0])
		}
		y, _ := strconv.Atoi(b[i])
		if x != y {
			return x > y
		}
	}
	return true
}

// laterVolumesInitialised says whether a volume that is added to existing
// resources is made UpToDate (and formatted) as the first ones are: decided
// for each volume definition since 1.33.2, before for the resource definition.
func laterVolumesInitialised(version string) bool { return atLeast(version, "1.33.2") }

// prop resolves a property for a resource definition: RD, RG, controller.
func (c *Controller) prop(rd *resourceDefinition, key string) string {
	if v, ok := rd.props[key]; ok {
		return v
	}
	if g := c.groups[rd.group]; g != nil {
		if v, ok := g.props[key]; ok {
			return v
		}
	}
	return c.props[key]
}

// volumeProp resolves a property of a volume: resource, VD, VG, RD, RG.
func (c *Controller) volumeProp(rd *resourceDefinition, vd *volumeDefinition, r *resource, key string) string {
	if r != nil {
		if v, ok := r.props[key]; ok {
			return v
		}
	}
	if v, ok := vd.props[key]; ok {
		return v
	}
	if g := c.groups[rd.group]; g != nil && g.volumes[vd.number] != nil {
		if v, ok := g.volumes[vd.number].props[key]; ok {
			return v
		}
	}
	return c.prop(rd, key)
}

// freeMinor returns the lowest device minor that no volume definition has.
func (c *Controller) freeMinor() (int, bool) {
	used := map[int]bool{}
	for _, rd := range c.definitions {
		for _, vd := range rd.volumes {
			used[vd.minor] = true
		}
	}
	for minor := firstMinor; minor <= lastMinor; minor++ {
		if !used[minor] {
			return minor, true
		}
	}
	return 0, false
}

func (c *Controller) freePort() int {
	used := map[int]bool{}
	for _, rd := range c.definitions {
		used[rd.port] = true
	}
	for port := firstPort; ; port++ {
		if !used[port] {
			return port
		}
	}
}

func (c *Controller) sortedNodes() []*node {
	out := make([]*node, 0, len(c.nodes))
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		out = append(out, c.nodes[name])
	}
	return out
}

func (c *Controller) sortedDefinitions() []*resourceDefinition {
	out := make([]*resourceDefinition, 0, len(c.definitions))
	for _, name := range slices.Sorted(maps.Keys(c.definitions)) {
		out = append(out, c.definitions[name])
	}
	return out
}

func (c *Controller) online(name string) bool {
	n := c.nodes[name]
	return n != nil && n.online
}

// inUseNode returns the node that LINSTOR believes to use the resource.
// Offline satellites' belief is unknown and does not count.
func (c *Controller) inUseNode(rd *resourceDefinition) string {
	for _, r := range rd.sortedResources() {
		if r.inUse && c.online(r.node) {
			return r.node
		}
	}
	return ""
}
