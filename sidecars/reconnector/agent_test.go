package reconnector

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeKernel is a kernel whose sockets and translations are set by the test.
type fakeKernel struct {
	lock         sync.Mutex
	sockets      []Socket
	translations map[netip.AddrPort]netip.AddrPort // by the socket's own address
	routes       map[netip.AddrPort]Route          // by the Service
	destroyError error
	lookupError  error

	looks     int
	tries     int
	listed    []netip.AddrPort
	destroyed []netip.AddrPort
	forgotten []netip.AddrPort
}

func (k *fakeKernel) List(remotes []netip.AddrPort) ([]Socket, error) {
	k.lock.Lock()
	defer k.lock.Unlock()
	k.looks++
	k.listed = slices.SortedFunc(slices.Values(remotes), netip.AddrPort.Compare)
	var found []Socket
	for _, socket := range k.sockets {
		if slices.Contains(remotes, socket.Remote) {
			found = append(found, socket)
		}
	}
	return found, nil
}

func (k *fakeKernel) Destroy(s Socket) error {
	k.lock.Lock()
	defer k.lock.Unlock()
	if k.destroyError != nil {
		return k.destroyError
	}
	k.destroyed = append(k.destroyed, s.Local)
	k.sockets = slices.DeleteFunc(k.sockets, func(one Socket) bool { return one.Cookie == s.Cookie })
	return nil
}

func (k *fakeKernel) Lookup(from, _ netip.AddrPort) (Translation, bool, error) {
	k.lock.Lock()
	defer k.lock.Unlock()
	to, found := k.translations[from]
	return Translation{To: to, reply: []byte(from.String())}, found, k.lookupError
}

func (k *fakeKernel) Forget(t Translation) error {
	k.lock.Lock()
	defer k.lock.Unlock()
	k.forgotten = append(k.forgotten, t.To)
	delete(k.translations, netip.MustParseAddrPort(string(t.reply)))
	return nil
}

func (k *fakeKernel) Route(remote netip.AddrPort) (Route, error) {
	k.lock.Lock()
	defer k.lock.Unlock()
	k.tries++
	return k.routes[remote], nil
}

// route sets where new connections to a Service are sent.
func (k *fakeKernel) route(service netip.AddrPort, route Route) {
	k.lock.Lock()
	defer k.lock.Unlock()
	k.routes[service] = route
}

// counts returns what happened since it was called last.
func (k *fakeKernel) counts() (looks, destroyed, forgotten int) {
	k.lock.Lock()
	defer k.lock.Unlock()
	looks, destroyed, forgotten = k.looks, len(k.destroyed), len(k.forgotten)
	k.looks, k.tries, k.destroyed, k.forgotten = 0, 0, nil, nil
	return
}

func (k *fakeKernel) add(sockets ...Socket) {
	k.lock.Lock()
	defer k.lock.Unlock()
	k.sockets = append(k.sockets, sockets...)
}

// lead sets where the packets of a socket are sent.
func (k *fakeKernel) lead(socket Socket, to netip.AddrPort) {
	k.lock.Lock()
	defer k.lock.Unlock()
	k.translations[socket.Local] = to
}

type fakeServices map[string]netip.AddrPort

func (s fakeServices) Service(export string) netip.AddrPort { return s[export] }

var (
	service1  = netip.MustParseAddrPort("10.96.0.7:2049")
	service2  = netip.MustParseAddrPort("10.96.0.8:2049")
	endpointA = netip.MustParseAddrPort("10.244.1.5:20490")
	endpointB = netip.MustParseAddrPort("10.244.2.6:20490")
	endpointC = netip.MustParseAddrPort("10.244.3.7:20490")
)

// socketTo is a socket of this node, with a port and cookie of its own.
func socketTo(number int, remote netip.AddrPort) Socket {
	return Socket{Local: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.1:%d", 700+number)), Remote: remote, State: Established, Cookie: uint64(number)}
}

// inBubble runs an agent with fake time; the exports pvc-1 and pvc-2 are served at
// A, and their first looks are over.
func inBubble(t *testing.T, test func(t *testing.T, a *Agent, k *fakeKernel)) {
	synctest.Test(t, func(t *testing.T) {
		k := &fakeKernel{translations: map[netip.AddrPort]netip.AddrPort{}, routes: map[netip.AddrPort]Route{}}
		a := NewAgent(k, k, k, fakeServices{"pvc-1": service1, "pvc-2": service2}, NewMetrics())
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { a.Run(ctx) })
		defer func() {
			cancel()
			done.Wait()
		}()
		a.Observe("pvc-1", endpointA)
		a.Observe("pvc-2", netip.AddrPortFrom(endpointA.Addr(), 20491))
		time.Sleep(time.Minute)
		synctest.Wait()
		k.counts()
		test(t, a, k)
	})
}

func TestNobodyLooksUnlessAnEndpointHasChanged(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		time.Sleep(time.Hour)
		a.Observe("pvc-1", endpointA)
		a.Observe("pvc-1", netip.AddrPort{})
		time.Sleep(time.Hour)
		synctest.Wait()
		if looks, _, _ := k.counts(); looks != 0 {
			t.Fatalf("%d looks", looks)
		}
		a.Observe("pvc-1", endpointB)
		synctest.Wait()
		if looks, _, _ := k.counts(); looks != 1 {
			t.Errorf("%d looks at once", looks)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if looks, _, _ := k.counts(); looks < 28 || looks > 31 {
			t.Errorf("%d looks in the first seconds", looks)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if looks, _, _ := k.counts(); looks < 11 || looks > 13 {
			t.Errorf("%d looks afterwards", looks)
		}
	})
}

func TestExportsThatMoveTogetherShareTheirLooks(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		a.Observe("pvc-1", endpointB)
		a.Observe("pvc-2", endpointC)
		synctest.Wait()
		if looks, _, _ := k.counts(); looks > 2 {
			t.Errorf("%d looks", looks)
		}
		want := []netip.AddrPort{service1, service2, endpointA, netip.AddrPortFrom(endpointA.Addr(), 20491)}
		if !slices.Equal(k.listed, want) {
			t.Errorf("asked for %v, want %v", k.listed, want)
		}
	})
}

func TestClientIsFreedAsSoonAsNewConnectionsReachTheServer(t *testing.T) {
	for name, before := range map[string]Route{
		"sent to the old server": {Known: true, To: endpointA},
		"refused":                {Known: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
				client, second := socketTo(1, service1), socketTo(2, service1)
				k.add(client, second)
				k.lead(client, endpointA)
				k.lead(second, endpointA)
				k.route(service1, before)
				a.Observe("pvc-1", endpointB)
				time.Sleep(550 * time.Millisecond)
				synctest.Wait()
				if looks, destroyed, forgotten := k.counts(); destroyed != 0 || forgotten != 0 || looks < 5 {
					t.Fatalf("%d destroyed, %d forgotten in %d looks: the clients would be tied to the old server again", destroyed, forgotten, looks)
				}
				k.route(service1, Route{Known: true, To: endpointB})
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if k.tries != 1 {
					t.Errorf("%d tries in one look", k.tries)
				}
				if _, destroyed, _ := k.counts(); destroyed != 2 {
					t.Errorf("%d destroyed", destroyed)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if k.tries != 0 {
					t.Errorf("%d tries for nobody", k.tries)
				}
			})
		})
	}
}

func TestClientOfASlowProxyIsNotForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		client := socketTo(1, service1)
		k.add(client)
		k.lead(client, endpointA)
		k.route(service1, Route{Known: true, To: endpointA})
		a.Observe("pvc-1", endpointB)
		time.Sleep(time.Minute)
		k.route(service1, Route{Known: true, To: endpointB})
		time.Sleep(time.Second)
		synctest.Wait()
		if _, destroyed, _ := k.counts(); destroyed != 1 {
			t.Errorf("%d destroyed", destroyed)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if looks, _, _ := k.counts(); looks > 1 {
			t.Errorf("%d looks for nobody", looks)
		}
	})
}

func TestClientOfADeadProxyIsNotLookedAtForEver(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		client := socketTo(1, service1)
		k.add(client)
		k.lead(client, endpointA)
		k.route(service1, Route{Known: true, To: endpointA})
		a.Observe("pvc-1", endpointB)
		time.Sleep(misledPeriod + time.Second)
		synctest.Wait()
		k.counts()
		time.Sleep(time.Hour)
		synctest.Wait()
		if looks, destroyed, _ := k.counts(); looks != 0 || destroyed != 0 {
			t.Errorf("%d looks, %d destroyed", looks, destroyed)
		}
	})
}

// Where nobody can tell, a client may have been freed before kube-proxy has changed
// its rules.
func TestClientThatReconnectedTooEarlyIsFreedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		client := socketTo(1, service1)
		k.add(client)
		k.lead(client, endpointA)
		a.Observe("pvc-1", endpointB)
		synctest.Wait()
		if _, destroyed, forgotten := k.counts(); destroyed != 1 || forgotten != 1 {
			t.Fatalf("%d destroyed, %d forgotten", destroyed, forgotten)
		}
		early := socketTo(2, service1)
		early.State, early.Repeats = SynSent, time.Second
		k.add(early)
		k.lead(early, endpointA)
		time.Sleep(150 * time.Millisecond)
		synctest.Wait()
		if _, destroyed, forgotten := k.counts(); destroyed != 0 || forgotten != 1 {
			t.Errorf("%d destroyed, %d forgotten: the SYN will be repeated", destroyed, forgotten)
		}
		k.lead(early, endpointB)
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, destroyed, forgotten := k.counts(); destroyed != 0 || forgotten != 0 {
			t.Errorf("%d destroyed, %d forgotten: it leads to the new server", destroyed, forgotten)
		}
	})
}

func TestClientsAreFreedWithoutConnectionTracking(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		k.lookupError = errors.ErrUnsupported
		older, other := socketTo(1, service1), socketTo(2, service2)
		k.add(older, other)
		a.Observe("pvc-1", endpointB)
		time.Sleep(500 * time.Millisecond)
		k.add(socketTo(3, service1)) // connected since
		time.Sleep(450 * time.Millisecond)
		synctest.Wait()
		if _, destroyed, _ := k.counts(); destroyed != 0 {
			t.Fatalf("%d destroyed before the translation can have changed", destroyed)
		}
		time.Sleep(150 * time.Millisecond)
		synctest.Wait()
		if !slices.Equal(k.destroyed, []netip.AddrPort{older.Local}) {
			t.Fatalf("destroyed %v, want %v", k.destroyed, older.Local)
		}
		time.Sleep(time.Minute)
		if _, destroyed, _ := k.counts(); destroyed != 1 {
			t.Errorf("%d destroyed", destroyed)
		}
	})
}

func TestServerThatComesBackWhereItWasKeepsItsClients(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		tracked, untracked := socketTo(1, service1), socketTo(2, service1)
		k.add(tracked, untracked, socketTo(3, endpointA))
		k.lead(tracked, endpointA)
		a.Observe("pvc-1", netip.AddrPort{})
		time.Sleep(5 * time.Second)
		a.Observe("pvc-1", endpointA)
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, destroyed, forgotten := k.counts(); destroyed != 0 || forgotten != 0 {
			t.Errorf("%d destroyed, %d forgotten", destroyed, forgotten)
		}
	})
}

func TestConnectionToTheFormerEndpointItselfIsDestroyed(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		k.add(socketTo(1, endpointA))
		a.Observe("pvc-1", endpointB)
		synctest.Wait()
		if _, destroyed, _ := k.counts(); destroyed != 1 {
			t.Errorf("%d destroyed", destroyed)
		}
	})
}

// A pod gives the port of an export that has left to the next one.
func TestConnectionToAReusedPortIsLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		a.Observe("pvc-1", endpointB)
		a.Observe("pvc-2", endpointA)
		k.add(socketTo(1, endpointA))
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, destroyed, _ := k.counts(); destroyed != 0 {
			t.Errorf("%d destroyed", destroyed)
		}
	})
}

// The packets of a connection that cannot be destroyed shall at least reach a
// server that resets it.
func TestKernelWithoutDestructionStillForgetsTranslations(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		k.destroyError = fmt.Errorf("destroy: %w", errors.ErrUnsupported)
		client := socketTo(1, service1)
		k.add(client)
		k.lead(client, endpointA)
		a.Observe("pvc-1", endpointB)
		synctest.Wait()
		if _, _, forgotten := k.counts(); forgotten != 1 {
			t.Errorf("%d forgotten", forgotten)
		}
		if errs := value(t, a.metrics, "errors_total", ""); errs != 0 {
			t.Errorf("%v errors for what is said at the start", errs)
		}
	})
}

func TestOneFailureDoesNotKeepTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		k.lookupError = errors.New("no memory")
		direct := socketTo(2, endpointA)
		k.add(socketTo(1, service1), direct)
		a.Observe("pvc-1", endpointB)
		synctest.Wait()
		if !slices.Equal(k.destroyed, []netip.AddrPort{direct.Local}) {
			t.Errorf("destroyed %v", k.destroyed)
		}
		if errs := value(t, a.metrics, "errors_total", ""); errs != 1 {
			t.Errorf("%v errors", errs)
		}
	})
}

func TestDestructionIsCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		client := socketTo(1, service1)
		k.add(client, socketTo(2, endpointA))
		k.lead(client, endpointA)
		a.Observe("pvc-1", endpointB)
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		for _, test := range []struct {
			name, reason string
			want         float64
		}{
			{"sockets_destroyed_total", string(Translated), 1},
			{"sockets_destroyed_total", string(FormerEndpoint), 1},
			{"sockets_destroyed_total", string(EndpointChanged), 0},
			{"translations_deleted_total", "", 1},
			{"destroy_seconds", "", 2},
			{"errors_total", "", 0},
		} {
			if got := value(t, a.metrics, test.name, test.reason); got != test.want {
				t.Errorf("%s %s is %v, want %v", test.name, test.reason, got, test.want)
			}
		}
	})
}

// value is what /metrics says of a counter, or how many values a histogram has.
func value(t *testing.T, m *Metrics, name, reason string) float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "linstor_rwx_reconnector_"+name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if reason == "" || metric.GetLabel()[0].GetValue() == reason {
				return metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
		return 0
	}
	if reason == "" {
		t.Fatalf("there is no metric %s", name)
	}
	return 0
}

func TestExportThatIsGoneIsForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, a *Agent, k *fakeKernel) {
		a.Observe("pvc-1", endpointB)
		a.Forget("pvc-1")
		a.Observe("pvc-1", netip.AddrPort{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(a.movements) != 1 {
			t.Errorf("remembers %v", a.movements)
		}
	})
}
