package reconnector

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// fakeInterfaces are interfaces whose addresses the test sets.
type fakeInterfaces struct {
	lock      sync.Mutex
	addresses []netip.Addr
	changed   func()
}

func (i *fakeInterfaces) Addresses() ([]netip.Addr, error) {
	i.lock.Lock()
	defer i.lock.Unlock()
	return i.addresses, nil
}

func (i *fakeInterfaces) Watch(ctx context.Context, changed func()) error {
	i.lock.Lock()
	i.changed = changed
	i.lock.Unlock()
	changed()
	<-ctx.Done()
	return ctx.Err()
}

func (i *fakeInterfaces) set(addresses ...string) {
	i.lock.Lock()
	defer i.lock.Unlock()
	i.addresses = nil
	for _, address := range addresses {
		i.addresses = append(i.addresses, netip.MustParseAddr(address))
	}
	if i.changed != nil {
		i.changed()
	}
}

// publishing runs a Publisher for node n1, whose first publication is over.
func publishing(t *testing.T, test func(t *testing.T, i *fakeInterfaces, client *fake.Clientset), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "uid-n1"}})...)
		interfaces := &fakeInterfaces{}
		interfaces.set("10.244.1.0", "192.0.2.1", "2001:db8::1")
		settings := Settings{NodeName: "n1", PodNamespace: testNamespace, Release: "rwx", Resync: time.Hour}
		p := NewPublisher(settings, interfaces, client.CoreV1().ConfigMaps(testNamespace), client.CoreV1().Nodes(), NewMetrics())
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { p.Run(ctx) })
		defer func() {
			cancel()
			done.Wait()
		}()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		test(t, interfaces, client)
	})
}

// requests returns the verbs of the requests since it was called last.
func requests(client *fake.Clientset) (verbs []string) {
	for _, action := range client.Actions() {
		verbs = append(verbs, action.GetVerb()+" "+action.GetResource().Resource)
	}
	client.ClearActions()
	return verbs
}

func published(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	configMap, err := client.CoreV1().ConfigMaps(testNamespace).Get(t.Context(), "rwx-node-n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(configMap.Data["addresses"]), " ")
}

func TestNodeTellsItsAddresses(t *testing.T) {
	publishing(t, func(t *testing.T, i *fakeInterfaces, client *fake.Clientset) {
		if got, want := requests(client), []string{"get nodes", "get configmaps", "create configmaps"}; !slices.Equal(got, want) {
			t.Errorf("requests %v, want %v", got, want)
		}
		configMap, err := client.CoreV1().ConfigMaps(testNamespace).Get(t.Context(), "rwx-node-n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := configMap.Data["addresses"], "10.244.1.0\n192.0.2.1\n2001:db8::1\n"; got != want {
			t.Errorf("addresses %q, want %q", got, want)
		}
		if configMap.Labels["rwx.linbit.com/node-addresses"] != "n1" {
			t.Errorf("labels %v", configMap.Labels)
		}
		if len(configMap.OwnerReferences) != 1 || configMap.OwnerReferences[0].Kind != "Node" || configMap.OwnerReferences[0].UID != "uid-n1" {
			t.Errorf("owners %+v", configMap.OwnerReferences)
		}
	})
}

func TestChangedAddressesAreTold(t *testing.T) {
	publishing(t, func(t *testing.T, i *fakeInterfaces, client *fake.Clientset) {
		requests(client)
		for _, address := range []string{"10.244.1.1", "10.244.1.2", "10.244.1.3"} { // at once
			i.set("192.0.2.1", address)
		}
		time.Sleep(2 * settle)
		synctest.Wait()
		if got, want := requests(client), []string{"get nodes", "get configmaps", "update configmaps"}; !slices.Equal(got, want) {
			t.Errorf("requests %v, want %v", got, want)
		}
		if got := published(t, client); got != "192.0.2.1 10.244.1.3" {
			t.Errorf("told %q", got)
		}
	})
}

func TestEqualAddressesCostNoRequest(t *testing.T) {
	publishing(t, func(t *testing.T, i *fakeInterfaces, client *fake.Clientset) {
		requests(client)
		for range 10 {
			i.set("10.244.1.0", "192.0.2.1", "2001:db8::1")
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		if got := requests(client); len(got) != 0 {
			t.Errorf("requests %v", got)
		}
	})
}

func TestConfigMapOfAnEarlierStartIsNotRewritten(t *testing.T) {
	var written *corev1.ConfigMap
	publishing(t, func(t *testing.T, _ *fakeInterfaces, client *fake.Clientset) {
		var err error
		if written, err = client.CoreV1().ConfigMaps(testNamespace).Get(t.Context(), "rwx-node-n1", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	publishing(t, func(t *testing.T, _ *fakeInterfaces, client *fake.Clientset) {
		if got, want := requests(client), []string{"get nodes", "get configmaps"}; !slices.Equal(got, want) {
			t.Errorf("requests %v, want %v", got, want)
		}
	}, written)
}

// The garbage collector removes what belongs to a Node that was deleted, also if
// the node has registered again.
func TestConfigMapThatWasRemovedComesBack(t *testing.T) {
	publishing(t, func(t *testing.T, _ *fakeInterfaces, client *fake.Clientset) {
		if err := client.CoreV1().ConfigMaps(testNamespace).Delete(t.Context(), "rwx-node-n1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := published(t, client); got != "10.244.1.0 192.0.2.1 2001:db8::1" {
			t.Errorf("told %q", got)
		}
	})
}

func TestFailureToTellIsRepeated(t *testing.T) {
	publishing(t, func(t *testing.T, i *fakeInterfaces, client *fake.Clientset) {
		failures := 3
		client.PrependReactor("update", "configmaps", func(k8stesting.Action) (bool, runtime.Object, error) {
			failures--
			return failures >= 0, nil, errors.New("the API server is away")
		})
		i.set("192.0.2.9")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := published(t, client); got != "192.0.2.9" || failures != -1 {
			t.Errorf("told %q after %d failures", got, 3-failures)
		}
	})
}

// An empty list would lock the node out.
func TestNoAddressesAreNotTold(t *testing.T) {
	publishing(t, func(t *testing.T, i *fakeInterfaces, client *fake.Clientset) {
		requests(client)
		i.set()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := requests(client); len(got) != 0 {
			t.Errorf("requests %v", got)
		}
		i.set("192.0.2.1")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := published(t, client); got != "192.0.2.1" {
			t.Errorf("told %q", got)
		}
	})
}

func TestOnlyAddressesByWhichOthersAreReachedCount(t *testing.T) {
	n := newNamespace(t)
	n.run(`ip link add tunnel type veth peer name far
		ip link add kube-ipvs0 type veth peer name away
		ip link set far up
		ip link set tunnel up
		ip address add 10.96.0.10/32 dev kube-ipvs0
		ip address add 203.0.113.7/32 dev lo
		ip address add 169.254.20.10/32 dev tunnel
		ip address add 10.244.1.0/32 dev tunnel
		ip address add 192.0.2.1/24 dev tunnel
		ip address add 2001:db8::1/64 dev tunnel nodad
		ip address add fd00:77::1/64 dev tunnel nodad`)
	var interfaces *HostInterfaces
	var err error
	n.do(func() { interfaces, err = OpenInterfaces() })
	if err != nil {
		t.Fatal(err)
	}
	defer interfaces.Close()
	got, err := interfaces.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	if want := "10.244.1.0\n192.0.2.1\n203.0.113.7\n2001:db8::1\nfd00:77::1\n"; addressLines(got) != want {
		t.Errorf("got %v, want %v", got, strings.Fields(want))
	}
}

func TestChangeOfAddressesIsNoticed(t *testing.T) {
	n := newNamespace(t)
	n.run(`ip link add tunnel type veth peer name far
		ip link set far up
		ip link set tunnel up`)
	var interfaces *HostInterfaces
	var err error
	n.do(func() { interfaces, err = OpenInterfaces() })
	if err != nil {
		t.Fatal(err)
	}
	defer interfaces.Close()
	changes := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go onThread(func() {
		if err := netns.Set(n.handle); err != nil {
			ended <- err
			return
		}
		ended <- interfaces.Watch(ctx, func() { changes <- struct{}{} })
	})
	noticed := func() bool {
		select {
		case <-changes:
			return true
		case <-time.After(500 * time.Millisecond):
			return false
		}
	}
	if !noticed() {
		t.Fatal("what was there is not told")
	}
	for _, test := range []struct {
		command string
		want    bool
	}{
		{"ip address add 192.0.2.1/24 dev tunnel", true},
		{"ip address add 169.254.20.10/32 dev tunnel", false},
		{"ip address add fe80::77/64 dev tunnel nodad", false},
		{"ip address add 2001:db8::1/64 dev tunnel nodad", true},
		{"ip address del 192.0.2.1/24 dev tunnel", true},
	} {
		n.run(test.command)
		if got := noticed(); got != test.want {
			t.Errorf("%s: noticed %v", test.command, got)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}
