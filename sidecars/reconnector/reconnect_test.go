package reconnector

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	exportsfake "github.com/linbit/linstor-rwx/pkg/exports/fake"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// The whole helper, with a real kernel and an API server in memory.

const testNamespace = "linstor-rwx"

func newExport(name string, service netip.AddrPort) *v1alpha1.NFSExport {
	return &v1alpha1.NFSExport{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NFSExportSpec{
		Service: &v1alpha1.ServiceReference{Namespace: testNamespace, Name: name, ClusterIP: service.Addr().String(), Port: int32(service.Port())}}}
}

func newSlice(name string, endpoint netip.AddrPort) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: testNamespace, Labels: map[string]string{discoveryv1.LabelManagedBy: names.EndpointSliceManager}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{endpoint.Addr().String()}}},
		Ports:      []discoveryv1.EndpointPort{{Port: ptr.To(int32(endpoint.Port()))}},
	}
}

// reconnect runs the helper on the laboratory's node, with the export pvc-1 served
// at a and pvc-2, which has the next address, at b.
func (l *laboratory) reconnect() discoveryclient.EndpointSliceInterface {
	l.t.Helper()
	other := netip.AddrPortFrom(l.service.Addr().Next(), l.service.Port())
	client := fake.NewClientset(newSlice("pvc-1", l.protocol.servers["a"]), newSlice("pvc-2", l.protocol.servers["b"]))
	informers, err := NewInformers(testNamespace, client, exportsfake.New(newExport("pvc-1", l.service), newExport("pvc-2", other)))
	if err != nil {
		l.t.Fatal(err)
	}
	agent := NewAgent(l.kernel, l.kernel, l.kernel, informers, NewMetrics())
	if err := informers.Start(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	if err := informers.Notify(agent.Observe, agent.Forget); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(func() { // on the node, for its routes
			if err := netns.Set(l.node.handle); err != nil {
				l.t.Errorf("enter a network namespace: %v", err)
				return
			}
			agent.Run(l.t.Context())
		})
	}()
	l.t.Cleanup(func() { <-done })
	return client.DiscoveryV1().EndpointSlices(testNamespace)
}

// move tells the cluster that pvc-1 is served at a server.
func (l *laboratory) move(slices discoveryclient.EndpointSliceInterface, server string) time.Time {
	l.t.Helper()
	if _, err := slices.Update(l.t.Context(), newSlice("pvc-1", l.protocol.servers[server]), metav1.UpdateOptions{}); err != nil {
		l.t.Fatal(err)
	}
	return time.Now()
}

func TestClientOfADeadServerComesBackAtOnce(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			l := newLaboratory(t, p)
			l.lead("a")
			slices := l.reconnect()
			stale := l.mustConnect(l.service, "a")

			l.silence("a")
			l.lead("b")
			right := l.mustConnect(l.service, "b")
			moved := l.move(slices, "b")
			if _, err := stale.read(300 * time.Millisecond); !errors.Is(err, unix.ECONNABORTED) {
				t.Fatalf("%v after the move the client of the dead server sees %v", time.Since(moved), err)
			}
			t.Logf("destroyed after %v", time.Since(moved))

			// As the kernel's NFS client does: from the same port.
			from := stale.local()
			stale.Close()
			var again net.Conn
			var err error
			l.node.do(func() {
				again, err = (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: 300 * time.Millisecond}).Dial("tcp", l.service.String())
			})
			if err != nil {
				t.Fatalf("connect again: %v", err)
			}
			defer again.Close()
			if translation, found, err := l.kernel.Lookup(from, l.service); err != nil || !found || translation.To != p.servers["b"] {
				t.Errorf("the client is tied to %v, %v, %v", translation.To, found, err)
			}
			time.Sleep(200 * time.Millisecond) // more looks
			if server, err := right.ask(); err != nil || server != "b" {
				t.Errorf("the client of the right server got %q, %v", server, err)
			}
		})
	}
}

// kube-proxy always learns of a move later than it takes to destroy a connection.
func TestClientWaitsUntilTheProxyLeadsItToTheNewServer(t *testing.T) {
	for _, p := range protocols {
		for _, old := range []string{"silent", "refusing"} {
			t.Run(p.name+" "+old, func(t *testing.T) {
				t.Parallel()
				l := newLaboratory(t, p)
				l.lead("a")
				slices := l.reconnect()
				stale := l.mustConnect(l.service, "a")
				if old == "silent" {
					l.silence("a")
				} else {
					l.servers["a"].run(l.iptables + " -I INPUT -p tcp -j REJECT --reject-with tcp-reset")
				}
				l.move(slices, "b")
				if _, err := stale.read(700 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("before the rules have changed the client sees %v", err)
				}
				l.lead("b")
				started := time.Now()
				stale.lines = bufio.NewScanner(stale)
				if _, err := stale.read(500 * time.Millisecond); !errors.Is(err, unix.ECONNABORTED) {
					t.Fatalf("%v after the rules have changed the client sees %v", time.Since(started), err)
				}
				t.Logf("destroyed %v after the rules have changed", time.Since(started))
				l.mustConnect(l.service, "b")
			})
		}
	}
}

func TestWayOfNewConnectionsIsTried(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			l := newLaboratory(t, p)
			route := func() (route Route) {
				var err error
				l.node.do(func() { route, err = l.kernel.Route(l.service) })
				if err != nil {
					t.Fatal(err)
				}
				return route
			}
			if got := route(); got.Known {
				t.Errorf("without connection tracking the way is %+v", got)
			}
			for _, server := range []string{"a", "b", "a"} {
				l.lead(server)
				if got, want := route(), (Route{Known: true, To: p.servers[server]}); got != want {
					t.Errorf("the way is %+v, want %+v", got, want)
				}
			}
			l.silence("a")
			if got, want := route(), (Route{Known: true, To: p.servers["a"]}); got != want {
				t.Errorf("to a dead server the way is %+v, want %+v", got, want)
			}
			// As kube-proxy does for a Service without endpoints.
			l.node.run(fmt.Sprintf("%s -t nat -F OUTPUT\n%s -A OUTPUT -d %s -p tcp -j REJECT", p.iptables, p.iptables, l.service.Addr()))
			if got, want := route(), (Route{Known: true}); got != want {
				t.Errorf("refused, the way is %+v, want %+v", got, want)
			}
		})
	}
}

func TestTranslationToADeadServerIsGone(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			l := newLaboratory(t, p)
			l.lead("a")
			slices := l.reconnect()
			stale := l.mustConnect(l.service, "a")
			l.silence("a")
			l.lead("b")
			l.move(slices, "b")
			if _, err := stale.read(300 * time.Millisecond); !errors.Is(err, unix.ECONNABORTED) {
				t.Fatal(err)
			}
			eventually(t, "the deletion", func() bool {
				_, found, err := l.kernel.Lookup(stale.local(), l.service)
				return err == nil && !found
			})
		})
	}
}

func TestClientsOfOtherExportsAreLeftAlone(t *testing.T) {
	l := newLaboratory(t, protocols[0])
	l.lead("b")
	slices := l.reconnect()
	// To the very server that pvc-1 leaves, but for nobody's Service.
	l.node.run("iptables-legacy -t nat -A OUTPUT -d 10.96.9.9 -p tcp --dport 2049 -j DNAT --to-destination " + l.protocol.servers["a"].String())
	foreign := l.mustConnect(netip.MustParseAddrPort("10.96.9.9:2049"), "a")
	l.move(slices, "b")
	time.Sleep(500 * time.Millisecond)
	if server, err := foreign.ask(); err != nil || server != "a" {
		t.Errorf("got %q, %v", server, err)
	}
}

// dialing is a client whose SYN goes to a silent server.
func (l *laboratory) dialing() <-chan error {
	l.t.Helper()
	result := make(chan error, 1)
	go func() {
		c, server, err := l.connect(l.service, 30*time.Second)
		if err == nil && server != "b" {
			err = errors.New("connected to " + server)
		}
		if err == nil {
			c.Close()
		}
		result <- err
		close(result)
	}()
	return result
}

func (l *laboratory) wait(result <-chan error, patience time.Duration) error {
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		return errors.New("nothing happens")
	}
}

func TestClientThatConnectsToADeadServerReachesTheNewOneWithItsNextSYN(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			l := newLaboratory(t, p)
			l.lead("a")
			l.silence("a")
			slices := l.reconnect()
			started := time.Now()
			result := l.dialing()
			time.Sleep(200 * time.Millisecond)
			l.move(slices, "b")
			time.Sleep(300 * time.Millisecond) // kube-proxy is late
			l.lead("b")
			err := <-result
			if took := time.Since(started); err != nil || took > 1500*time.Millisecond {
				t.Errorf("connected after %v: %v", took, err)
			}
		})
	}
}

func TestClientThatConnectsToADeadServerForLongIsFreed(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			l := newLaboratory(t, p)
			l.lead("a")
			l.silence("a")
			slices := l.reconnect()
			result := l.dialing()
			time.Sleep(3400 * time.Millisecond) // the next SYN goes out after 7 s
			l.lead("b")
			moved := l.move(slices, "b")
			err := l.wait(result, 300*time.Millisecond)
			if !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("%v after the move: %v", time.Since(moved), err)
			}
		})
	}
}

func TestClientThatConnectsToTheCurrentServerIsLeftAlone(t *testing.T) {
	l := newLaboratory(t, protocols[0])
	l.lead("b")
	l.silence("b")
	slices := l.reconnect()
	started := time.Now()
	result := l.dialing()
	time.Sleep(100 * time.Millisecond)
	l.move(slices, "b")
	time.Sleep(400 * time.Millisecond)
	l.servers["b"].run("iptables-legacy -F INPUT")
	err := <-result
	if took := time.Since(started); err != nil || took > 1500*time.Millisecond {
		t.Errorf("connected after %v: %v", took, err)
	}
}

// Some networks translate a Service's address when a socket is connected.
func TestClientOfAFormerPodAddressIsFreed(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			l := newLaboratory(t, p)
			slices := l.reconnect()
			stale, right := l.mustConnect(p.servers["a"], "a"), l.mustConnect(p.servers["b"], "b")
			l.silence("a")
			l.move(slices, "b")
			if _, err := stale.read(300 * time.Millisecond); !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("got %v", err)
			}
			if server, err := right.ask(); err != nil || server != "b" {
				t.Errorf("the client of the right server got %q, %v", server, err)
			}
		})
	}
}

// Some networks translate where this helper cannot see it. Here it is the route to
// the Service's address that changes.
func TestClientIsFreedWithoutConnectionTracking(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			l := newLaboratory(t, p)
			l.service = netip.AddrPortFrom(l.service.Addr(), serverPort)
			for _, server := range l.servers {
				server.run("ip address add " + l.service.Addr().String() + " dev lo nodad")
			}
			route := func(server string) {
				l.node.run("ip route replace " + l.service.Addr().String() + " via " + p.servers[server].Addr().String())
			}
			route("a")
			slices := l.reconnect()
			older := l.mustConnect(l.service, "a")
			if _, found, err := l.kernel.Lookup(older.local(), l.service); err != nil || found {
				t.Fatalf("connection tracking knows the connection: %v, %v", found, err)
			}
			l.servers["a"].run("ip link set a-end down")
			route("b")
			moved := l.move(slices, "b")
			if _, err := older.read(3 * time.Second); !errors.Is(err, unix.ECONNABORTED) {
				t.Fatalf("got %v", err)
			}
			if took := time.Since(moved); took < unknownPatience || took > unknownPatience+500*time.Millisecond {
				t.Errorf("freed after %v", took)
			}
			newer := l.mustConnect(l.service, "b")
			time.Sleep(1500 * time.Millisecond)
			if server, err := newer.ask(); err != nil || server != "b" {
				t.Errorf("the new client got %q, %v", server, err)
			}
		})
	}
}

// Whoever was away when the export moved finds its client tied to the old server.
func TestStartFindsWhatHappenedBefore(t *testing.T) {
	l := newLaboratory(t, protocols[0])
	l.lead("b")
	stale := l.mustConnect(l.service, "b")
	l.lead("a")
	l.reconnect()
	if _, err := stale.read(time.Second); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("got %v", err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}
