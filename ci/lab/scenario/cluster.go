package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/linbit/linstor-rwx/pkg/exports"
)

// WorkloadImage holds the program that consumer pods run, see
// ci/lab/cmd/workload.
const WorkloadImage = "linstor-rwx/workload:lab"

// Workload is the program in that image.
const Workload = "/bin/workload"

// poll is how often a condition is looked at. Short, because scenarios measure.
const poll = 100 * time.Millisecond

// Cluster is a cluster as its users see it, in one namespace.
type Cluster struct {
	Client    kubernetes.Interface
	Exports   *exports.Client
	Namespace string

	config *rest.Config
}

// Connect returns the cluster of $KUBECONFIG. It makes the namespace if that
// does not exist. The process must be in the cluster's network: the connections
// of Exec take no other way (client-go's executors ignore a configured dialer).
func Connect(ctx context.Context, namespace string) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv(clientcmd.RecommendedConfigPathEnvVar))
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 200, 400 // tests poll
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	exportClient, err := exports.New(config)
	if err != nil {
		return nil, err
	}
	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("create namespace %s: %w", namespace, err)
	}
	return &Cluster{Client: client, Exports: exportClient, Namespace: namespace, config: config}, nil
}

// WaitFor calls done until it returns true. It returns the last error of done,
// or what it waited for, when ctx ends.
func WaitFor(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	var last error
	for {
		ok, err := done(ctx)
		if ok && err == nil {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), last))
		case <-time.After(poll):
		}
	}
}

// Exec runs a command in the first container of a pod and returns its standard
// output; the error holds what it said last.
func (c *Cluster) Exec(ctx context.Context, pod string, command ...string) (string, error) {
	request := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.Namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
	if err != nil {
		return "", fmt.Errorf("connect to pod %s: %w", pod, err)
	}
	var stdout, stderr bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil {
		return stdout.String(), fmt.Errorf("run %q in pod %s: %w: %s", strings.Join(command, " "), pod, err, lastLine(stdout.String()+stderr.String()))
	}
	return stdout.String(), nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// Events returns the events about an object of the namespace, a volume or an
// export, oldest first.
func (c *Cluster) Events(ctx context.Context, kind, name string) ([]corev1.Event, error) {
	// Events about objects without a namespace are in "default".
	namespace := c.Namespace
	if kind == "PersistentVolume" || kind == "NFSExport" {
		namespace = metav1.NamespaceDefault
	}
	list, err := c.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fmt.Sprintf("involvedObject.kind=%s,involvedObject.name=%s", kind, name)})
	if err != nil {
		return nil, fmt.Errorf("list events of %s %s: %w", kind, name, err)
	}
	return list.Items, nil
}

// WaitEvent waits for an event about an object whose message holds text.
func (c *Cluster) WaitEvent(ctx context.Context, kind, name, text string) (corev1.Event, error) {
	var found corev1.Event
	var seen []string
	err := WaitFor(ctx, fmt.Sprintf("event %q on %s %s", text, kind, name), func(ctx context.Context) (bool, error) {
		events, err := c.Events(ctx, kind, name)
		if err != nil {
			return false, err
		}
		seen = seen[:0]
		for _, event := range events {
			if strings.Contains(event.Message, text) {
				found = event
				return true, nil
			}
			seen = append(seen, event.Reason+": "+event.Message)
		}
		return false, nil
	})
	if err != nil {
		err = fmt.Errorf("%w; its events are %q", err, seen)
	}
	return found, err
}
