package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// A client that asks for something every few seconds only keeps its session, and so
// its locks: Linux renews an idle client's lease so late that a lease of less than
// 10 s may be over by then.
func TestIdleClientsKeepTheirLocks(t *testing.T) {
	t.Parallel()
	const idle = 100 * time.Second // with a lease of 6 s each client lost its session two or three times
	ctx, c := setup(t, idle+4*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "shared", Class: class}))
	nodes := []string{"n1", "n2", consumerNode}
	for _, node := range nodes {
		must(t, c.CreatePod(ctx, scenario.Pod{Name: "on-" + node, Node: node, Claim: "shared"}))
	}
	volume := must1(c.WaitBound(ctx, "shared"))(t)
	must(t, c.WaitRunning(ctx, "on-n1", "on-n2", "on-"+consumerNode))
	must1(c.WaitServing(ctx, volume.Name))(t)

	before := map[string]string{}
	for _, node := range nodes {
		before[node] = sessions(ctx, t, node, volume.Name)
	}
	ended := make(chan error)
	for _, node := range nodes {
		go func() {
			_, err := c.Exec(ctx, "on-"+node, scenario.Workload, "lock", scenario.DataPath+"/of-"+node,
				"--hold", idle.String(), "--every", "5s", "--jitter", "4s")
			ended <- err
		}()
	}
	for range nodes {
		must(t, <-ended)
	}
	for _, node := range nodes {
		if after := sessions(ctx, t, node, volume.Name); after != before[node] {
			t.Errorf("node %s made its session anew: %s, before %s", node, after, before[node])
		}
	}
}

// sessions is how often a node's NFS client of a volume has made a session, by the
// words of its mounts.
func sessions(ctx context.Context, t *testing.T, name, volume string) string {
	t.Helper()
	node := must1(laboratory.Node(name))(t)
	var made []string
	own := false
	for line := range strings.Lines(string(must1(node.ReadFile(ctx, "/proc/self/mountstats"))(t))) {
		switch fields := strings.Fields(line); {
		case len(fields) > 1 && fields[0] == "device":
			own = strings.HasSuffix(fields[1], ":"+names.ExportPath(volume))
		case own && len(fields) > 1 && fields[0] == "CREATE_SESSION:":
			made = append(made, fields[1])
		}
	}
	if len(made) == 0 {
		t.Fatalf("node %s has no NFS client of %s", name, volume)
	}
	return strings.Join(made, " ")
}
