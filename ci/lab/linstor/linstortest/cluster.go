package linstortest

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/linstor"
)

// Cluster is a LINSTOR stand-in that serves HTTP for one test.
type Cluster struct {
	*linstor.Controller
	Replication *Replication
	// URL is where the REST API listens.
	URL string
}

// Start serves a LINSTOR with nodes n1 to n4, of which n1 to n3 have the thin
// pool "pool" and the thick pool "thick" of 20 GiB each, until the test ends.
// The test fails if there are violations that it has not cleared. Role changes
// are known after inUseDelay.
func Start(t testing.TB, inUseDelay time.Duration) *Cluster {
	t.Helper()
	replication := NewReplication()
	controller, err := linstor.New(linstor.Options{
		StateDir: t.TempDir(), Replication: replication, InUseDelay: inUseDelay, Nodes: Nodes(3, 1),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(controller)
	t.Cleanup(func() {
		violations := controller.Violations()
		controller.Close()
		server.CloseClientConnections()
		server.Close()
		for _, v := range violations {
			t.Errorf("violation: %s", v)
		}
	})
	return &Cluster{Controller: controller, Replication: replication, URL: server.URL}
}

// Nodes describes storage nodes and consumers, named n1, n2, ...
func Nodes(storage, consumers int) []linstor.NodeOptions {
	var out []linstor.NodeOptions
	for i := 1; i <= storage+consumers; i++ {
		n := linstor.NodeOptions{Name: fmt.Sprintf("n%d", i), Address: fmt.Sprintf("10.89.0.%d", 10+i)}
		n.Props = map[string]string{"Aux/topology/kubernetes.io/hostname": n.Name}
		if i <= storage {
			n.Pools = []linstor.PoolOptions{{Name: "pool", Kind: "LVM_THIN", TotalKiB: 20 << 20}, {Name: "thick", Kind: "LVM", TotalKiB: 20 << 20}}
		}
		out = append(out, n)
	}
	return out
}
