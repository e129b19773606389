package lab

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Leaks lists what exports left behind, one readable line each: objects of
// Kubernetes and LINSTOR, mounts, devices and processes on nodes. It is meant
// for the end of a test that has deleted all its claims; what is still being
// torn down is reported too.
func (l *Lab) Leaks(ctx context.Context) ([]string, error) {
	leaks, err := l.objectLeaks(ctx)
	if err != nil {
		return nil, err
	}
	for _, node := range l.Nodes() {
		if !node.Running() {
			continue
		}
		found, err := node.leaks(ctx)
		if err != nil {
			return nil, err
		}
		leaks = append(leaks, found...)
	}
	if l.hasStorage() {
		found, err := l.storageLeaks(ctx)
		if err != nil {
			return nil, err
		}
		leaks = append(leaks, found...)
	}
	return leaks, nil
}

func (l *Lab) objectLeaks(ctx context.Context) ([]string, error) {
	clients, err := kubernetes.NewForConfig(l.RESTConfig())
	if err != nil {
		return nil, err
	}
	exportClient, err := exports.New(l.RESTConfig())
	if err != nil {
		return nil, err
	}
	var leaks []string
	all, err := exportClient.List(ctx, metav1.ListOptions{})
	// Without the chart there is no such kind, and nothing to leak.
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("list exports: %w", err)
	}
	if err == nil {
		for _, export := range all.Items {
			leaks = append(leaks, "NFSExport "+export.Name)
		}
	}
	ours := metav1.ListOptions{LabelSelector: names.ExportLabel}
	services, err := clients.CoreV1().Services("").List(ctx, ours)
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	for _, service := range services.Items {
		leaks = append(leaks, fmt.Sprintf("Service %s/%s", service.Namespace, service.Name))
	}
	slices, err := clients.DiscoveryV1().EndpointSlices("").List(ctx, ours)
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices: %w", err)
	}
	for _, slice := range slices.Items {
		leaks = append(leaks, fmt.Sprintf("EndpointSlice %s/%s", slice.Namespace, slice.Name))
	}
	return leaks, nil
}

// leaks looks at the node itself.
func (n *Node) leaks(ctx context.Context) ([]string, error) {
	var leaks []string
	mounts, err := n.ReadFile(ctx, "/proc/mounts")
	if err != nil {
		return nil, fmt.Errorf("node %s: read mounts: %w", n.Name, err)
	}
	for _, line := range leakedMounts(string(mounts)) {
		leaks = append(leaks, fmt.Sprintf("node %s: mount %s", n.Name, line))
	}
	processes, err := n.Exec(ctx, "ps", "-eo", "pid=,args=")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(processes) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasSuffix(fields[1], "ganesha.nfsd") {
			leaks = append(leaks, fmt.Sprintf("node %s: process %s", n.Name, strings.TrimSpace(line)))
		}
	}
	devices, err := n.Shell(ctx, `for d in /sys/block/nbd*/pid /sys/block/drbd*; do [ -e "$d" ] && echo "$d"; done; true`)
	if err != nil {
		return nil, err
	}
	for _, device := range strings.Fields(devices) {
		leaks = append(leaks, fmt.Sprintf("node %s: device %s", n.Name, device))
	}
	return leaks, nil
}

// leakedMounts returns the mounts that belong to exports: what the supervisor
// mounts, and the NFS mounts of pods.
func leakedMounts(mounts string) []string {
	var leaked []string
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		if strings.HasPrefix(fields[1], exportMounts) || strings.HasPrefix(fields[2], "nfs") && fields[2] != "nfsd" {
			leaked = append(leaked, strings.Join(fields[:3], " "))
		}
	}
	return leaked
}

// exportMounts is where the supervisor mounts the volumes of its exports.
const exportMounts = "/var/lib/linstor-rwx/exports/"
