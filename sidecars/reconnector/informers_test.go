package reconnector

import (
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	exportsfake "github.com/linbit/linstor-rwx/pkg/exports/fake"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// A server that is announced does not answer yet: clients that would connect anew
// now would wait longer than they do.
func TestAnnouncedServerIsNoMoveUntilItAnswers(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.244.1.5:20490"), netip.MustParseAddrPort("10.244.2.6:20490")
	client := fake.NewClientset(newSlice("pvc-1", a))
	informers, err := NewInformers(testNamespace, client, exportsfake.New())
	if err != nil {
		t.Fatal(err)
	}
	if err := informers.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := make(chan netip.AddrPort, 10)
	if err := informers.Notify(func(_ string, endpoint netip.AddrPort) { seen <- endpoint }, func(string) {}); err != nil {
		t.Fatal(err)
	}
	next := func() netip.AddrPort {
		select {
		case endpoint := <-seen:
			return endpoint
		case <-time.After(5 * time.Second):
			t.Fatal("nothing is seen")
			return netip.AddrPort{}
		}
	}
	if endpoint := next(); endpoint != a {
		t.Fatalf("got %v", endpoint)
	}
	slice := newSlice("pvc-1", b)
	slice.Annotations = map[string]string{names.AwaitedAnnotation: "true"}
	slices := client.DiscoveryV1().EndpointSlices(testNamespace)
	if slice, err = slices.Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case endpoint := <-seen:
		t.Fatalf("the announced server %v is taken for one that answers", endpoint)
	case <-time.After(300 * time.Millisecond):
	}
	slice.Annotations = nil
	if _, err := slices.Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if endpoint := next(); endpoint != b {
		t.Errorf("got %v", endpoint)
	}
}
