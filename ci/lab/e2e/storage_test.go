package e2e

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// definition returns what LINSTOR has of a resource definition, nil if nothing.
func definition(ctx context.Context, t *testing.T, name string) *control.Definition {
	t.Helper()
	return must1(laboratory.Storage().State(ctx))(t).Definition(name)
}

// linstorVolumes returns the volume numbers of a resource definition.
func linstorVolumes(ctx context.Context, t *testing.T, name string) []int {
	t.Helper()
	found := definition(ctx, t, name)
	if found == nil {
		return nil
	}
	var numbers []int
	for _, volume := range found.Volumes {
		numbers = append(numbers, volume.Number)
	}
	return numbers
}

// primaryNode returns the node that is Primary of a resource, by DRBD's word.
func primaryNode(ctx context.Context, t *testing.T, name string) string {
	t.Helper()
	primaries := must1(laboratory.Storage().State(ctx))(t).Primaries[name]
	switch len(primaries) {
	case 0:
		return ""
	case 1:
		return primaries[0]
	}
	t.Fatalf("the nodes %v are all Primary of %s", primaries, name)
	return ""
}

// newSupervisor is true when the ganesha pod of a node has a supervisor that
// was restarted and is ready.
func newSupervisor(c *scenario.Cluster, node string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		pods, err := c.Client.CoreV1().Pods(lab.Release).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return false, err
		}
		for _, pod := range pods.Items {
			for _, status := range pod.Status.ContainerStatuses {
				if status.Name == "supervisor" {
					return status.RestartCount > 0 && status.Ready, nil
				}
			}
		}
		return false, nil
	}
}
