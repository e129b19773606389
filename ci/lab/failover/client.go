package failover

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// podsDirectory is where kubelet keeps what belongs to pods.
const podsDirectory = "/var/lib/kubelet/pods"

// client is a pod in which the workload program uses the volume in every way at
// once. It is started through the API server, but stopped and read through its
// node, by the laboratory's own network: the fault may be about the rest.
type client struct {
	node   *lab.Node
	pod    string
	uid    string
	doomed bool
	// rivals are the clients whose locks it wants; work is all that it does.
	rivals []string
	work   []string
	// output is the file in the scratch folder that it writes its record to.
	output string
	// thefts counts the locks that each thief had got when locks were released.
	thefts map[string]int
}

func podName(node string) string { return "client-" + node }

// ensurePod makes the node's client pod run, anew if the old one has ended.
func (b *Bench) ensurePod(ctx context.Context, node string) error {
	pods, err := b.clientPods(ctx)
	if err != nil {
		return err
	}
	name := podName(node)
	for _, pod := range pods {
		if pod.Name != name {
			continue
		}
		if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
			return nil
		}
		if err := b.cluster.DeletePods(ctx, name); err != nil {
			return err
		}
	}
	if err := b.cluster.CreatePod(ctx, scenario.Pod{Name: name, Node: node, Claim: claimName, Scratch: true}); err != nil {
		return err
	}
	return b.cluster.WaitRunning(ctx, name)
}

// start lets the client begin its work in a folder of the volume.
func (c *client) start(ctx context.Context, cluster *scenario.Cluster, folder string) error {
	_, err := cluster.Exec(ctx, c.pod, scenario.Workload, "detach", path.Join(scenario.ScratchPath, c.output),
		"use", path.Join(scenario.DataPath, folder), "--name", c.node.Name, "--rivals", strings.Join(c.rivals, ","))
	return err
}

// read returns what the client has said so far.
func (c *client) read(ctx context.Context) (record, error) {
	content, err := c.node.ReadFile(ctx, c.recordPath())
	if err != nil {
		return nil, fmt.Errorf("read the record of the client on %s: %w", c.node.Name, err)
	}
	return parseRecord(content)
}

// recordPath is where its record is on its node.
func (c *client) recordPath() string {
	return path.Join(podsDirectory, c.uid, "volumes", "kubernetes.io~empty-dir", scenario.ScratchVolume, c.output)
}

// signal sends a signal to the client's work.
func (c *client) signal(ctx context.Context, name string) error {
	if _, err := c.node.Exec(ctx, "pkill", "-"+name, "-f", "--", "^workload use "); err != nil {
		return fmt.Errorf("signal the client on %s: %w", c.node.Name, err)
	}
	return nil
}

// lines is the file that a client's writer wrote.
func (c *client) lines(folder string) string {
	return path.Join(scenario.DataPath, folder, c.node.Name+".lines")
}

// checkedBy returns a client that can look at what this one wrote: another one,
// which has none of it in its memory.
func (c *client) checkedBy(clients []*client) *client {
	return clients[slices.IndexFunc(clients, func(other *client) bool { return other != c })]
}
