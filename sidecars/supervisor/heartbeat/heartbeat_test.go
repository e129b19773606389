package heartbeat

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// addresses are the pods of a cluster: each node has an address of the loopback
// network of its own.
type addresses map[string]string

func (a addresses) PodAddresses(node string) []netip.Addr {
	text, ok := a[node]
	if !ok {
		return nil
	}
	return []netip.Addr{netip.MustParseAddr(text)}
}

// start runs the heartbeat of one node bound to its own loopback address.
func start(t *testing.T, cluster addresses, state func() State, watched []string, changed chan<- string) (*Heartbeat, context.CancelFunc) {
	t.Helper()
	settings := Settings{Port: 29789, Interval: 20 * time.Millisecond, Timeout: 100 * time.Millisecond}
	h, err := newAt(netip.AddrPortFrom(netip.MustParseAddr(cluster[state().Node]), uint16(settings.Port)), settings, cluster, state,
		func() []string { return watched }, func(node string) { changed <- node })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return h, stop
}

func next(t *testing.T, changed <-chan string, want string) {
	t.Helper()
	select {
	case node := <-changed:
		if node != want {
			t.Fatalf("news of %s, want of %s", node, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("no news of %s", want)
	}
}

func state(s State) func() State { return func() State { return s } }

func TestPeerThatDiesFallsSilentAndIsHeardAgain(t *testing.T) {
	cluster := addresses{"a": "127.0.8.1", "b": "127.0.8.2"}
	ofA := make(chan string, 100)
	a, _ := start(t, cluster, state(State{Node: "a"}), []string{"b"}, ofA)
	if _, known := a.Peer("b"); known {
		t.Fatal("a peer is known that nobody heard")
	}
	time.Sleep(300 * time.Millisecond)
	if len(ofA) > 0 {
		t.Fatal("a peer that was never heard fell silent")
	}

	_, stop := start(t, cluster, state(State{Node: "b", Ready: true, Exports: 3}), nil, make(chan string, 100))
	next(t, ofA, "b")
	peer, known := a.Peer("b")
	if !known || peer.Silent || !peer.Ready || peer.Exports != 3 {
		t.Fatalf("peer is %+v", peer)
	}
	stop()
	next(t, ofA, "b")
	if peer, _ := a.Peer("b"); !peer.Silent {
		t.Fatalf("dead peer is %+v", peer)
	}
	start(t, cluster, state(State{Node: "b", Ready: true}), nil, make(chan string, 100))
	next(t, ofA, "b")
	if peer, _ := a.Peer("b"); peer.Silent {
		t.Fatalf("living peer is %+v", peer)
	}
}

func TestPeerThatLeavesSaysSoAtOnce(t *testing.T) {
	cluster := addresses{"a": "127.0.8.3", "b": "127.0.8.4"}
	news := make(chan string, 100)
	a, _ := start(t, cluster, state(State{Node: "a"}), []string{"b"}, news)
	var leaving atomic.Bool
	start(t, cluster, func() State { return State{Node: "b", Leaving: leaving.Load()} }, nil, make(chan string, 100))
	next(t, news, "b")
	leaving.Store(true)
	next(t, news, "b")
	if peer, _ := a.Peer("b"); !peer.Leaving {
		t.Fatalf("leaving peer is %+v", peer)
	}
}

// The supervisor that waits while a rollout runs two on a node does not speak for
// the node.
func TestWhoDoesNotActDoesNotSpeak(t *testing.T) {
	cluster := addresses{"a": "127.0.8.8", "b": "127.0.8.9"}
	a, _ := start(t, cluster, state(State{Node: "a"}), []string{"b"}, make(chan string, 100))
	var active atomic.Bool
	settings := Settings{Port: 29789, Interval: 20 * time.Millisecond, Timeout: 100 * time.Millisecond}
	b, err := newAt(netip.MustParseAddrPort("127.0.8.9:29789"), settings, cluster, func() State {
		if active.Load() {
			return State{Node: "b"}
		}
		return State{}
	}, func() []string { return []string{"a"} }, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	go b.Run(t.Context())
	time.Sleep(200 * time.Millisecond)
	if _, known := a.Peer("b"); known {
		t.Error("it spoke")
	}
	active.Store(true)
	time.Sleep(200 * time.Millisecond)
	if _, known := a.Peer("b"); !known {
		t.Error("it does not speak although it acts")
	}
}

func TestDatagramFromAnotherAddressIsNotBelieved(t *testing.T) {
	a := addresses{"a": "127.0.8.5", "b": "127.0.8.6"}
	news := make(chan string, 100)
	listening, _ := start(t, a, state(State{Node: "a"}), nil, news)
	// The forger says that it is b, from an address that is not b's.
	forger := addresses{"a": "127.0.8.5", "b": "127.0.8.7"}
	start(t, forger, state(State{Node: "b", Ready: true}), []string{"a"}, make(chan string, 100))
	time.Sleep(200 * time.Millisecond)
	if peer, known := listening.Peer("b"); known {
		t.Fatalf("a forged datagram was believed: %+v", peer)
	}
}
