package drbd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"time"
)

// Cluster is DRBD on all nodes. All methods are safe for concurrent use.
//
// One lock guards everything; it is held only for changes of state in memory.
// Whatever waits (the node driver, DRBD's time-outs, file I/O) happens outside
// of it, and the state is looked at again afterwards.
type Cluster struct {
	timing    Timing
	driver    NodeDriver
	violation func(string)
	address   func(string) string

	// lifetime ends with Close.
	lifetime context.Context
	stop     context.CancelFunc

	mu         sync.Mutex
	nodes      map[string]*node
	nodeOrder  []string
	resources  map[string]*resource
	partition  [][]string // nil: everybody reaches everybody
	violations []string
	closed     bool

	// changed is closed and replaced at every change of state; I/O that hangs
	// waits for it.
	changed chan struct{}

	subscribers *eventQueue
}

// node is one machine.
type node struct {
	name   string
	on     bool // has power
	up     bool // DRBD's resources are configured in its kernel
	paused bool
	bootID string
	epoch  int // counts power-offs
	// streams are the running events2 of the node.
	streams map[*stream]struct{}
}

// resource is what the nodes' configurations of one name have in common.
type resource struct {
	name     string
	options  ResourceOptions
	volumes  map[int]*volume
	replicas map[string]*replica
	// held are nodes whose resyncs do not start (fault injection).
	held map[string]bool
}

// volume is the replicated data of one volume, the same file for all nodes.
type volume struct {
	number, minor int
	// size is up to where requests are admitted. shown is what status says: it is
	// the size of the nodes' devices, which grow last.
	size, shown int64
	store       *store
}

// replica is a resource on one node, with all that node knows.
type replica struct {
	node *node
	res  *resource
	id   int

	role            string
	suspendedUser   bool
	suspendedQuorum bool
	forceIO         bool
	watchingClose   bool
	// auto says that the role is Primary because somebody opened the device,
	// so it ends with the last close.
	auto         bool
	watchingAuto bool
	attempt      *attempt // of auto-promotion, under way
	refused      time.Time
	promoting    int // promotions under way
	// stale says that another node became Primary without knowing that nobody
	// had the device open here: buffers of this node may be old.
	stale         bool
	watchingStale bool

	disks map[int]*disk
	links map[string]*link // by peer

	inflight int    // requests being executed right now
	served   int    // requests that were ever admitted
	last     *State // what was told to events2 streams
}

// disk is one volume's disk on one node.
type disk struct {
	client bool
	state  DiskState
	quorum bool
	open   bool
	// missing holds the blocks that this disk does not have, compared with
	// the newest data. The data itself is shared, so this is what a resync
	// would copy, and what makes the disk's content old.
	missing extents
	sync    *resync // running as target
	read    int64
	written int64
}

// link is one side's view of a connection.
type link struct {
	peer  string
	state string // connection states as printed
	role  string // the peer's role as last known
	disks map[int]DiskState
	repl  map[int]string
	timer func() // stops the pending detection or connection attempt
	token *int   // identifies the pending timer
	kind  timerKind
}

type timerKind int

const (
	timerNone timerKind = iota
	timerDetect
	timerSettle
	timerConnect
)

// Connection states that the stand-in uses.
const (
	stateConnected      = "Connected"
	stateConnecting     = "Connecting"
	stateUnconnected    = "Unconnected"
	stateNetworkFailure = "NetworkFailure"
)

// New returns an empty Cluster.
func New(options Options) *Cluster {
	c := &Cluster{
		timing: DefaultTiming(), driver: options.Driver, violation: options.Violation, address: options.Address,
		nodes: map[string]*node{}, resources: map[string]*resource{},
		changed: make(chan struct{}), subscribers: newEventQueue(),
	}
	c.lifetime, c.stop = context.WithCancel(context.Background())
	if c.address == nil {
		c.address = func(name string) string { return fmt.Sprintf("192.0.2.%d", 10+slices.Index(c.nodeOrder, name)) }
	}
	if options.Timing != nil {
		c.timing = *options.Timing
	}
	return c
}

// Close releases the backing files and ends streams and subscriptions.
// Requests that hang fail.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.stop()
	for _, res := range c.resources {
		for _, r := range res.replicas {
			for _, l := range r.links {
				l.cancel()
			}
		}
		for _, v := range res.volumes {
			v.store.close()
		}
	}
	for _, n := range c.nodes {
		for s := range n.streams {
			s.end()
		}
	}
	c.wake()
	c.subscribers.close()
}

// AddNode makes a node known; it is powered on and reaches all others.
// Adding it again changes nothing.
func (c *Cluster) AddNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.nodes[name]; ok {
		return
	}
	c.nodes[name] = &node{name: name, on: true, up: true, streams: map[*stream]struct{}{}}
	c.nodeOrder = append(c.nodeOrder, name)
}

// Nodes lists the nodes in the order of their being added.
func (c *Cluster) Nodes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodeOrder)
}

// Resources lists the resources configured on the node, sorted.
func (c *Cluster) Resources(nodeName string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name, res := range c.resources {
		if res.replicas[nodeName] != nil {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// State returns what the node knows of the resource; ErrUnknown when it is
// not configured there, ErrNodeDown when nobody can ask.
func (c *Cluster) State(nodeName, resourceName string) (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.running(nodeName, resourceName)
	if err != nil {
		return State{}, err
	}
	return c.snapshot(r), nil
}

// Violations lists what must never have happened; a test asserts it empty.
func (c *Cluster) Violations() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.violations)
}

// violate records once what must never happen.
func (c *Cluster) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if slices.Contains(c.violations, text) {
		return
	}
	c.violations = append(c.violations, text)
	if c.violation != nil {
		c.violation(text)
	}
}

// running returns the replica on a node whose DRBD is up.
func (c *Cluster) running(nodeName, resourceName string) (*replica, error) {
	n := c.nodes[nodeName]
	if n == nil {
		return nil, fmt.Errorf("node %s: %w", nodeName, ErrUnknown)
	}
	res := c.resources[resourceName]
	if res == nil || res.replicas[nodeName] == nil {
		return nil, fmt.Errorf("resource %s on %s: %w", resourceName, nodeName, ErrUnknown)
	}
	if !n.on || !n.up {
		return nil, fmt.Errorf("resource %s on %s: %w", resourceName, nodeName, ErrNodeDown)
	}
	return res.replicas[nodeName], nil
}

// reach tells whether DRBD packets get from a to b and back.
func (c *Cluster) reach(a, b *node) bool {
	if !a.up || !b.up || a.paused || b.paused {
		return false
	}
	if c.partition == nil {
		return true
	}
	for _, set := range c.partition {
		if slices.Contains(set, a.name) && slices.Contains(set, b.name) {
			return true
		}
	}
	return false
}

// wake lets hanging requests look at the state again.
func (c *Cluster) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// between returns a random duration in [low, high].
func between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + rand.N(high-low+1)
}

// drain waits until the replica executes no request; the caller has made sure
// that no new one starts, or does not mind.
func (c *Cluster) drain(ctx context.Context, r *replica) error {
	for r.inflight > 0 {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			c.mu.Lock()
			return ctx.Err()
		}
		c.mu.Lock()
	}
	return nil
}

// sortedReplicas lists a resource's replicas by node id.
func (res *resource) sortedReplicas() []*replica {
	list := make([]*replica, 0, len(res.replicas))
	for _, r := range res.replicas {
		list = append(list, r)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].id < list[j].id })
	return list
}

// sortedVolumes lists a resource's volume numbers.
func (res *resource) sortedVolumes() []int {
	numbers := make([]int, 0, len(res.volumes))
	for number := range res.volumes {
		numbers = append(numbers, number)
	}
	sort.Ints(numbers)
	return numbers
}

func (l *link) cancel() {
	if l.timer != nil {
		l.timer()
	}
	l.timer, l.kind, l.token = nil, timerNone, nil
}

// addresses returns the form in which events2 prints the resource's addresses;
// the port is derived from the first volume's minor.
func (c *Cluster) addresses(res *resource) func(string) string {
	port := res.port()
	return func(name string) string { return fmt.Sprintf("ipv4:%s:%d", c.address(name), port) }
}

func (res *resource) port() int {
	port := 7000
	if numbers := res.sortedVolumes(); len(numbers) > 0 {
		port += res.volumes[numbers[0]].minor % 1000
	}
	return port
}
