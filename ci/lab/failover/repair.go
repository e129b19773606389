package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// Names in the chart's release.
const (
	ganeshaDaemonSet = lab.Release + "-ganesha"
	ganeshaSelector  = "app.kubernetes.io/component=ganesha"
	supervisorPort   = 9788
)

// Repair ends every fault of nodes, networks and the API server, whoever made it,
// and waits until the laboratory is whole: all nodes Ready and open for pods, all
// ganesha pods ready, all replicas UpToDate. On a whole one it changes nothing.
func (b *Bench) Repair(ctx context.Context) error {
	return inOrder(ctx,
		step{"start the API server", b.lab.Cluster().StartAPIServer},
		step{"switch nodes on and connect them", b.connectNodes},
		step{"wait for the nodes", b.awaitNodes},
		step{"open the nodes for pods", b.openNodes},
		step{"wait for the ganesha pods", b.awaitSupervisors},
		step{"wait for the replicas", b.awaitReplicas},
	)
}

func (b *Bench) connectNodes(ctx context.Context) error {
	for _, node := range b.lab.Nodes() {
		if !node.Running() {
			if err := node.PowerOn(ctx); err != nil {
				return err
			}
		}
		if err := node.Heal(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bench) awaitNodes(ctx context.Context) error {
	for _, node := range b.lab.Nodes() {
		if err := node.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// openNodes undoes cordons and the taint of a node that was out of service. The
// latter only now: before, the node was what the taint says.
func (b *Bench) openNodes(ctx context.Context) error {
	for _, node := range b.lab.Nodes() {
		err := b.changeNode(ctx, node.Name, func(node *corev1.Node) bool {
			before := len(node.Spec.Taints)
			node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
			changed := node.Spec.Unschedulable || len(node.Spec.Taints) < before
			node.Spec.Unschedulable = false
			return changed
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// changeNode updates a Node unless change says that there is nothing to change.
func (b *Bench) changeNode(ctx context.Context, name string, change func(*corev1.Node) bool) error {
	nodes := b.cluster.Client.CoreV1().Nodes()
	return scenario.WaitFor(ctx, "node "+name+" to be changed", func(ctx context.Context) (bool, error) {
		node, err := nodes.Get(ctx, name, metav1.GetOptions{})
		if err != nil || !change(node) {
			return err == nil, err
		}
		_, err = nodes.Update(ctx, node, metav1.UpdateOptions{}) // conflicts with kubelet: try again
		return err == nil, err
	})
}

// Cordon closes a node for pods.
func (b *Bench) Cordon(ctx context.Context, node string) error {
	patch := []byte(`{"spec":{"unschedulable":true}}`)
	if _, err := b.cluster.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("cordon node %s: %w", node, err)
	}
	return nil
}

// Uncordon opens all nodes for pods again.
func (b *Bench) Uncordon(ctx context.Context) error { return b.openNodes(ctx) }

// awaitSupervisors waits until every storage node has a ganesha pod whose
// supervisor says that it is ready. What the API server says of a pod may be from
// before the node's reboot.
func (b *Bench) awaitSupervisors(ctx context.Context) error {
	return scenario.WaitFor(ctx, "the ganesha pods to be ready", func(ctx context.Context) (bool, error) {
		defer pause(ctx, look)
		pods, err := b.ganeshaPods(ctx)
		if err != nil {
			return false, err
		}
		for _, node := range b.storage {
			pod, found := pods[node]
			if !found {
				return false, fmt.Errorf("node %s has no ganesha pod", node)
			}
			if _, err := askSupervisor(ctx, pod, "/readyz"); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// ganeshaPods returns the ganesha pods that are meant to stay, by node.
func (b *Bench) ganeshaPods(ctx context.Context) (map[string]corev1.Pod, error) {
	list, err := b.cluster.Client.CoreV1().Pods(lab.Release).List(ctx, metav1.ListOptions{LabelSelector: ganeshaSelector})
	if err != nil {
		return nil, fmt.Errorf("list the ganesha pods: %w", err)
	}
	pods := map[string]corev1.Pod{}
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			pods[pod.Spec.NodeName] = pod
		}
	}
	return pods, nil
}

// askSupervisor gets a page of a pod's supervisor.
func askSupervisor(ctx context.Context, pod corev1.Pod, page string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d%s", pod.Status.PodIP, supervisorPort, page), nil)
	if err != nil {
		return nil, err
	}
	answer, err := direct.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the supervisor on %s: %w", pod.Spec.NodeName, err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the supervisor on %s for %s: %w", pod.Spec.NodeName, page, err)
	}
	return content, nil
}

// direct knows no proxy, and keeps no connection to pods that may be replaced.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// awaitReplicas waits until all replicas of the volume are UpToDate.
func (b *Bench) awaitReplicas(ctx context.Context) error {
	return scenario.WaitFor(ctx, "the replicas to be UpToDate", func(ctx context.Context) (bool, error) {
		state, err := b.lab.Storage().State(ctx)
		if err != nil {
			return false, err
		}
		definition := state.Definition(b.Volume)
		if definition == nil {
			return false, fmt.Errorf("LINSTOR has no resource definition %s", b.Volume)
		}
		return true, definition.Stale()
	})
}
