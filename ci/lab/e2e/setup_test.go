package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// The nodes that tests pin pods to: one that can hold replicas and one that
// only consumes.
const (
	storageNode  = "n1"
	consumerNode = "n4"
)

// laboratory is the running one; TestMain attaches to it.
var laboratory *lab.Lab

func TestMain(m *testing.M) {
	err := lab.Enter()
	if err == nil {
		laboratory, err = lab.Attach()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var testNumber atomic.Int64

// inUse is how many tests use the laboratory. Those that break nothing, and are not
// about time, run at the same time (t.Parallel), which is after all others.
var inUse atomic.Int64

// setup returns the cluster in a namespace of the test's own and a context
// that ends with the given time. After the test it deletes the test's pods and
// claims and proves that nothing is left anywhere; of tests that run at the same
// time the last one does so, for all of them.
func setup(t *testing.T, limit time.Duration) (context.Context, *scenario.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	inUse.Add(1)
	namespace := fmt.Sprintf("e2e-%d-%d", os.Getpid()%10000, testNumber.Add(1))
	c, err := scenario.Connect(ctx, namespace)
	if err != nil {
		inUse.Add(-1)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if t.Failed() {
			describe(ctx, t, c)
		}
		err := c.Clear(ctx)
		last := inUse.Add(-1) == 0
		must(t, err)
		if !last {
			return
		}
		must(t, scenario.WaitFor(ctx, "nothing to be left behind", func(ctx context.Context) (bool, error) {
			leaks, err := laboratory.Leaks(ctx)
			if err == nil && len(leaks) > 0 {
				err = fmt.Errorf("left behind: %s", strings.Join(leaks, "; "))
			}
			return err == nil, err
		}))
		violations, err := laboratory.Storage().Violations(ctx)
		must(t, err)
		for _, violation := range violations {
			t.Errorf("the stand-ins saw what must not happen: %s", violation)
		}
	})
	return ctx, c
}

// describe says what a person would look at first when a test failed.
func describe(ctx context.Context, t *testing.T, c *scenario.Cluster) {
	t.Helper()
	events, err := c.Client.CoreV1().Events(c.Namespace).List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, event := range events.Items {
			t.Logf("event %s %s/%s: %s: %s", event.LastTimestamp.Format(time.TimeOnly), event.InvolvedObject.Kind, event.InvolvedObject.Name, event.Reason, event.Message)
		}
	}
	exports, err := c.Exports.List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, export := range exports.Items {
			t.Logf("export %s: %s on %q: %s", export.Name, export.Status.Phase, export.Status.Node, export.Status.Message)
		}
	}
	if state, err := laboratory.Storage().State(ctx); err == nil {
		t.Logf("storage: %+v", state)
	}
}

// createClass makes a class for this test; it goes with the test.
func createClass(ctx context.Context, t *testing.T, c *scenario.Cluster, class scenario.Class) string {
	t.Helper()
	if class.Name == "" {
		class.Name = c.Namespace
	}
	must(t, c.CreateClass(ctx, class))
	t.Cleanup(func() { must(t, c.DeleteClass(context.Background(), class.Name)) })
	return class.Name
}

// controllerNode is the node that the CSI controller, of which there is one, runs on.
func controllerNode(ctx context.Context, t *testing.T, c *scenario.Cluster) string {
	t.Helper()
	controllers := must1(c.Client.CoreV1().Pods(lab.Release).List(ctx, metav1.ListOptions{
		// Those that a shutdown of their node ended stay, Failed.
		LabelSelector: "app.kubernetes.io/component=csi-controller", FieldSelector: "status.phase!=Failed",
	}))(t)
	if len(controllers.Items) != 1 {
		t.Fatalf("%d controllers run, want 1", len(controllers.Items))
	}
	return controllers.Items[0].Spec.NodeName
}

// must ends the test if err is not nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must1 returns value, or ends the test if err is not nil:
// must1(call())(t).
func must1[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
