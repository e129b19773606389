package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/linbit/linstor-rwx/ci/lab"
)

// collectTime bounds how long evidence is collected: a laboratory that is broken
// answers slowly.
const collectTime = time.Minute

// collect keeps what explains a run, in a folder of its own below b.Evidence: what
// the clients said, the export, and the logs of all pods of the release since the
// run began. It returns what it could not get, after it has got the rest.
func (i *incident) collect(ctx context.Context) error {
	if i.Evidence == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), collectTime)
	defer cancel()
	folder := filepath.Join(i.Evidence, fmt.Sprintf("%s-%s", i.scenario.Name, i.started.UTC().Format("20060102T150405")))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make the folder for evidence: %w", err)
	}
	i.say("%s: evidence is kept in %s", i.scenario.Name, folder)
	return errors.Join(i.collectClients(ctx, folder), i.collectNodes(ctx, folder), i.collectExport(ctx, folder), i.collectLogs(ctx, folder))
}

// nodeQuestions are answered by a node: what its kernel said, which connections
// it has and where they lead, and what its clients wait for.
const nodeQuestions = `dmesg | tail -n 100; echo; ss -tano; echo; grep -e ':2049' -e 'dport=2049' /proc/net/nf_conntrack; echo
for process in $(pgrep -f '^workload use '); do for task in /proc/$process/task/*; do echo "$task"; cat "$task/stack"; done; done; true`

func (i *incident) collectNodes(ctx context.Context, folder string) error {
	var failures []error
	for _, node := range i.lab.Nodes() {
		if !node.Running() {
			continue
		}
		said, err := node.Shell(ctx, nodeQuestions)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, "node-"+node.Name+".txt"), []byte(said), 0o644)
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// lastWords is what kernels and servers said of NFS in the end, which a log of a
// test keeps when all evidence is gone.
func (i *incident) lastWords(ctx context.Context) error {
	const question = `dmesg | grep -iE 'nfs|rpc|i/o error|ext4-fs error|xfs .*error' | tail -n 6
cat /var/log/pods/*ganesha*/ganesha/*.log 2>/dev/null | grep -vE 'DBUS|STARTUP' | tail -n 12 | cut -c 1-400`
	var said []error
	for _, node := range i.lab.Nodes() {
		if !node.Running() {
			continue
		}
		if words, err := node.Shell(ctx, question); err == nil && strings.TrimSpace(words) != "" {
			said = append(said, fmt.Errorf("node %s last said:\n%s", node.Name, words))
		}
	}
	return errors.Join(said...)
}

func (i *incident) collectClients(ctx context.Context, folder string) error {
	var failures []error
	for _, client := range i.survivors() {
		content, err := client.node.ReadFile(ctx, client.recordPath())
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, "client-"+client.node.Name+".jsonl"), content, 0o644)
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

func (i *incident) collectExport(ctx context.Context, folder string) error {
	export, err := i.cluster.Exports.Get(ctx, i.Volume, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the export: %w", err)
	}
	content, err := yaml.Marshal(export)
	if err != nil {
		return fmt.Errorf("render the export: %w", err)
	}
	return os.WriteFile(filepath.Join(folder, "export.yaml"), content, 0o644)
}

func (i *incident) collectLogs(ctx context.Context, folder string) error {
	pods, err := i.cluster.Client.CoreV1().Pods(lab.Release).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the pods of the release: %w", err)
	}
	var failures []error
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			name := fmt.Sprintf("%s-%s-%s", pod.Spec.NodeName, pod.Name, status.Name)
			failures = append(failures, i.collectLog(ctx, pod, status.Name, false, filepath.Join(folder, name+".log")))
			if status.RestartCount > 0 {
				failures = append(failures, i.collectLog(ctx, pod, status.Name, true, filepath.Join(folder, name+"-before-restart.log")))
			}
		}
	}
	return errors.Join(failures...)
}

func (i *incident) collectLog(ctx context.Context, pod corev1.Pod, container string, previous bool, path string) error {
	since := metav1.NewTime(i.started)
	stream, err := i.cluster.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name,
		&corev1.PodLogOptions{Container: container, Previous: previous, SinceTime: &since, Timestamps: true}).Stream(ctx)
	if err != nil {
		return fmt.Errorf("get the log of %s in %s: %w", container, pod.Name, err)
	}
	defer stream.Close()
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make a file for evidence: %w", err)
	}
	_, err = io.Copy(file, stream)
	return errors.Join(err, file.Close())
}
