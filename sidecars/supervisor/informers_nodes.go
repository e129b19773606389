package supervisor

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/names"
)

// keepOfNode drops what is not needed of a Node: they are many, and large.
func keepOfNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	kept := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, DeletionTimestamp: node.DeletionTimestamp,
			Labels: map[string]string{corev1.LabelHostname: node.Labels[corev1.LabelHostname]}},
		Spec: corev1.NodeSpec{Unschedulable: node.Spec.Unschedulable, Taints: node.Spec.Taints, PodCIDRs: node.Spec.PodCIDRs},
	}
	kept.Status.Addresses = node.Status.Addresses
	kept.Status.NodeInfo.BootID = node.Status.NodeInfo.BootID
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			kept.Status.Conditions = []corev1.NodeCondition{{Type: condition.Type, Status: condition.Status}}
		}
	}
	return kept, nil
}

// keepOfPod drops what is not needed of a pod.
func keepOfPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{PodIP: pod.Status.PodIP, Phase: pod.Status.Phase},
	}, nil
}

// hostnames are the names that a node may call itself.
func hostnames(object any) []string {
	node, ok := object.(*corev1.Node)
	if !ok {
		return nil
	}
	found := []string{node.Name, node.Labels[corev1.LabelHostname]}
	for _, address := range node.Status.Addresses {
		switch address.Type {
		case corev1.NodeHostName, corev1.NodeInternalDNS:
			found = append(found, address.Address)
		}
	}
	slices.Sort(found)
	return slices.DeleteFunc(slices.Compact(found), func(name string) bool { return name == "" })
}

func nodeOfPod(object any) []string {
	pod, ok := object.(*corev1.Pod)
	if !ok || pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	return []string{pod.Spec.NodeName}
}

// Node implements Cache.
func (i *Informers) Node(name string) *corev1.Node { return get[*corev1.Node](i.nodes, name) }

// NodeOfHost implements Cache.
func (i *Informers) NodeOfHost(hostname string) *corev1.Node {
	found, err := i.nodes.GetIndexer().ByIndex(byHost, hostname)
	if err != nil || len(found) != 1 {
		return nil
	}
	node, _ := found[0].(*corev1.Node)
	return node
}

// PodAddresses implements heartbeat.Cluster.
func (i *Informers) PodAddresses(node string) []netip.Addr {
	found, err := i.pods.GetIndexer().ByIndex(byNode, node)
	if err != nil {
		return nil
	}
	var addresses []netip.Addr
	for _, object := range found {
		if pod, ok := object.(*corev1.Pod); ok {
			if address, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
				addresses = append(addresses, address.Unmap())
			}
		}
	}
	return addresses
}

// NodeAddresses implements Cache: those that nfs-reconnector reports of each
// node, or, where it does not run, those of its Node and the first two of its pod
// networks, which the bridges and tunnels of common network plugins have.
func (i *Informers) NodeAddresses() []netip.Prefix {
	reported := map[string]bool{}
	var found []netip.Prefix
	add := func(text string) {
		if address, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil {
			address = address.Unmap().WithZone("")
			found = append(found, netip.PrefixFrom(address, address.BitLen()))
		}
	}
	for _, object := range i.addresses.GetStore().List() {
		report, ok := object.(*corev1.ConfigMap)
		if !ok {
			continue
		}
		node := report.Labels[names.NodeAddressesLabel]
		if i.Node(node) == nil {
			continue // its report goes as well
		}
		reported[node] = true
		for _, line := range strings.Fields(report.Data[names.NodeAddressesKey]) {
			add(line)
		}
	}
	for _, object := range i.nodes.GetStore().List() {
		node, ok := object.(*corev1.Node)
		if !ok {
			continue
		}
		for _, address := range node.Status.Addresses {
			if address.Type == corev1.NodeInternalIP || address.Type == corev1.NodeExternalIP {
				add(address.Address)
			}
		}
		if reported[node.Name] {
			continue
		}
		for _, network := range node.Spec.PodCIDRs {
			if prefix, err := netip.ParsePrefix(network); err == nil {
				first := prefix.Masked().Addr()
				add(first.String())
				add(first.Next().String())
			}
		}
	}
	slices.SortFunc(found, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(found)
}
