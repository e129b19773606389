// Package heartbeat lets the supervisors of storage nodes hear of each other
// without the API server: a ping by UDP, answered with what the peer says of
// itself.
//
// Nothing is decided by it. A peer that is silent only makes a supervisor try to
// promote what that peer served, and DRBD decides: so a lost, late or forged
// datagram costs one refused try.
package heartbeat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// State is what a supervisor says of itself.
type State struct {
	Node string `json:"node"`
	// Leaving: its pod ends, it serves nothing new.
	Leaving bool `json:"leaving,omitempty"`
	// Cordoned: its node takes no new work if another can.
	Cordoned bool `json:"cordoned,omitempty"`
	// Ready: it can start a ganesha.
	Ready bool `json:"ready,omitempty"`
	// Exports is how many it serves.
	Exports int `json:"exports,omitempty"`
}

// Peer is what is known of another supervisor.
type Peer struct {
	State
	// Heard is when its last datagram came.
	Heard time.Time
	// Silent: it was heard once and has not answered for the time-out. One that
	// was never heard is not silent, but unknown.
	Silent bool
}

// Settings of the heartbeat.
type Settings struct {
	// Port is the UDP port, the same in every pod.
	Port int
	// Interval is the time between two pings.
	Interval time.Duration
	// Timeout is how long a peer may be silent.
	Timeout time.Duration
}

// Cluster is what the heartbeat needs to know of the others.
type Cluster interface {
	// PodAddresses are the addresses of the supervisors' pods on a node: usually
	// one, two while one replaces the other.
	PodAddresses(node string) []netip.Addr
}

// Heartbeat pings peers and answers their pings.
type Heartbeat struct {
	settings Settings
	own      func() State
	watched  func() []string
	cluster  Cluster
	changed  func(node string)

	connection *net.UDPConn

	lock  sync.Mutex
	peers map[string]*peer
}

type peer struct {
	Peer
	// unanswered counts pings since it was heard. Counting them, instead of the
	// time alone, keeps a process that was itself stopped from suspecting all.
	unanswered int
}

// message is one datagram.
type message struct {
	Version int   `json:"version"`
	Ping    bool  `json:"ping,omitempty"`
	State   State `json:"state"`
}

const (
	version    = 1
	maxMessage = 1024
)

// New listens at the port. own is what this supervisor says of itself, without a
// Node nothing: then it only listens. watched
// are the nodes to be pinged; changed is called with the name of a node that
// falls silent, speaks again, or says something new of itself but the number of
// exports.
func New(settings Settings, cluster Cluster, own func() State, watched func() []string, changed func(node string)) (*Heartbeat, error) {
	return newAt(netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(settings.Port)), settings, cluster, own, watched, changed)
}

func newAt(at netip.AddrPort, settings Settings, cluster Cluster, own func() State, watched func() []string, changed func(node string)) (*Heartbeat, error) {
	address := net.UDPAddrFromAddrPort(at)
	if at.Addr().IsUnspecified() {
		address = &net.UDPAddr{Port: settings.Port} // both families, or the one there is
	}
	connection, err := net.ListenUDP("udp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for heartbeats at port %d: %w", settings.Port, err)
	}
	return &Heartbeat{
		settings: settings, own: own, watched: watched, cluster: cluster, changed: changed,
		connection: connection, peers: map[string]*peer{},
	}, nil
}

// Run pings and answers until ctx ends.
func (h *Heartbeat) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = h.connection.Close() })
	defer stop()
	var listener sync.WaitGroup
	listener.Go(func() { h.listen(ctx) })
	ticker := time.NewTicker(h.settings.Interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		h.pingAll(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	listener.Wait()
}

// Peer returns what is known of a node's supervisor; false if it was never heard.
func (h *Heartbeat) Peer(node string) (Peer, bool) {
	h.lock.Lock()
	defer h.lock.Unlock()
	p, ok := h.peers[node]
	if !ok || p.Heard.IsZero() {
		return Peer{}, false
	}
	return p.Peer, true
}

// pingAll sends a ping to every watched peer and notes who has become silent.
func (h *Heartbeat) pingAll(ctx context.Context) {
	own := h.own()
	for _, node := range h.watched() {
		if node == own.Node {
			continue
		}
		// A pod that is gone, with no other in its place, is silent as well.
		for _, address := range h.cluster.PodAddresses(node) {
			h.send(ctx, netip.AddrPortFrom(address, uint16(h.settings.Port)), message{Version: version, Ping: true, State: own})
		}
		if h.missed(node) {
			klog.FromContext(ctx).Info("Supervisor of peer is silent", "peer", node)
			h.changed(node)
		}
	}
}

// missed counts a ping, and says whether the peer has just become silent.
func (h *Heartbeat) missed(node string) bool {
	h.lock.Lock()
	defer h.lock.Unlock()
	p, ok := h.peers[node]
	if !ok {
		return false
	}
	p.unanswered++
	needed := int(h.settings.Timeout / h.settings.Interval)
	if p.Silent || p.unanswered <= needed || time.Since(p.Heard) < h.settings.Timeout {
		return false
	}
	p.Silent = true
	return true
}

func (h *Heartbeat) send(ctx context.Context, to netip.AddrPort, m message) {
	if m.State.Node == "" {
		return
	}
	content, err := json.Marshal(m)
	if err == nil {
		_, err = h.connection.WriteToUDPAddrPort(content, to)
	}
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).V(4).Info("Heartbeat was not sent", "to", to, "err", err)
	}
}

// listen answers pings and notes who was heard.
func (h *Heartbeat) listen(ctx context.Context) {
	buffer := make([]byte, maxMessage)
	for {
		n, from, err := h.connection.ReadFromUDPAddrPort(buffer)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier datagram
		}
		var m message
		if json.Unmarshal(buffer[:n], &m) != nil || m.Version != version || m.State.Node == "" {
			continue
		}
		// Only from where the API server says that this node's pod is.
		if !slices.Contains(h.cluster.PodAddresses(m.State.Node), from.Addr().Unmap()) {
			continue
		}
		if m.Ping {
			h.send(ctx, from, message{Version: version, State: h.own()})
		}
		if h.heard(m.State) {
			klog.FromContext(ctx).V(2).Info("Supervisor of peer has news", "peer", m.State.Node, "leaving", m.State.Leaving,
				"cordoned", m.State.Cordoned, "ready", m.State.Ready)
			h.changed(m.State.Node)
		}
	}
}

// heard notes a datagram, and says whether it has news.
func (h *Heartbeat) heard(state State) bool {
	h.lock.Lock()
	defer h.lock.Unlock()
	p, ok := h.peers[state.Node]
	if !ok {
		p = &peer{}
		h.peers[state.Node] = p
	}
	before := p.Peer
	p.Peer = Peer{State: state, Heard: time.Now()}
	p.unanswered = 0
	before.Exports = state.Exports
	return before.Silent || before.State != state
}
