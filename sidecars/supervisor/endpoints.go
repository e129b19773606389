package supervisor

import (
	"context"
	"fmt"
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// pointsTo says whether the slice sends clients to this node.
func pointsTo(slice *discoveryv1.EndpointSlice, node string) bool {
	if slice == nil {
		return false
	}
	for _, endpoint := range slice.Endpoints {
		if ptr.Deref(endpoint.NodeName, "") == node {
			return true
		}
	}
	return false
}

// endpointSlice is where the export's Service shall point. Its only endpoint is
// always ready: the supervisor removes it when it is not.
func endpointSlice(s Settings, export *v1alpha1.NFSExport, server Server) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if address, err := netip.ParseAddr(server.PodIP); err == nil && address.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:      export.Name,
			Namespace: s.PodNamespace,
			Labels: map[string]string{
				discoveryv1.LabelServiceName: export.Spec.Service.Name,
				discoveryv1.LabelManagedBy:   names.EndpointSliceManager,
				names.ManagedByLabel:         names.ManagedByValue,
				names.ExportLabel:            export.Name,
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: v1alpha1.Kind.Kind, Name: export.Name, UID: export.UID,
			}},
		},
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{server.PodIP},
			NodeName:   ptr.To(s.NodeName),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
			TargetRef:  nil, // a pod here would make others believe that its readiness counts
		}},
		Ports: []discoveryv1.EndpointPort{{
			Name: ptr.To(names.NFSPortName), Protocol: ptr.To(protocolTCP), Port: ptr.To(int32(server.Port)),
		}},
	}
}

// ensureEndpoint makes the Service of the export point to this server. Whoever
// is Primary may overwrite what an earlier server left. awaited says that the
// server does not answer yet.
func (a *Agent) ensureEndpoint(ctx context.Context, export *v1alpha1.NFSExport, server Server, awaited bool) error {
	desired := endpointSlice(a.settings, export, server)
	if awaited {
		desired.Annotations = map[string]string{names.AwaitedAnnotation: "true"}
	}
	cached := a.cache.EndpointSlice(export.Name)
	if sameEndpoint(cached, desired) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	// Mostly the cache is right, and clients wait for every question less.
	err := a.writeSlice(ctx, cached, desired)
	if err == nil || (!apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err)) {
		return err
	}
	current, err := a.slices.Get(ctx, export.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		current, err = nil, nil // the last server has just removed it
	}
	if err != nil {
		return fmt.Errorf("read EndpointSlice %s: %w", export.Name, err)
	}
	if sameEndpoint(current, desired) {
		return nil
	}
	return a.writeSlice(ctx, current, desired)
}

// writeSlice replaces current, which is nil if there is none.
func (a *Agent) writeSlice(ctx context.Context, current, desired *discoveryv1.EndpointSlice) error {
	if current != nil && current.AddressType != desired.AddressType { // immutable
		if err := a.deleteSlice(ctx, current); err != nil {
			return err
		}
		current = nil
	}
	if current == nil {
		if _, err := a.slices.Create(ctx, desired, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create EndpointSlice %s: %w", desired.Name, err)
		}
		return nil
	}
	desired = desired.DeepCopy()
	desired.ResourceVersion = current.ResourceVersion
	if _, err := a.slices.Update(ctx, desired, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update EndpointSlice %s: %w", desired.Name, err)
	}
	return nil
}

func sameEndpoint(current, desired *discoveryv1.EndpointSlice) bool {
	return current != nil && current.AddressType == desired.AddressType &&
		equality.Semantic.DeepEqual(current.Endpoints, desired.Endpoints) &&
		equality.Semantic.DeepEqual(current.Ports, desired.Ports) &&
		equality.Semantic.DeepEqual(current.Labels, desired.Labels) &&
		current.Annotations[names.AwaitedAnnotation] == desired.Annotations[names.AwaitedAnnotation] &&
		equality.Semantic.DeepEqual(current.OwnerReferences, desired.OwnerReferences)
}

// removeEndpoint stops sending clients here. An endpoint on another node is that
// node's business.
func (a *Agent) removeEndpoint(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	slice, err := a.slices.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read EndpointSlice %s: %w", name, err)
	}
	if !pointsTo(slice, a.settings.NodeName) {
		return nil
	}
	return a.deleteSlice(ctx, slice)
}

func (a *Agent) deleteSlice(ctx context.Context, slice *discoveryv1.EndpointSlice) error {
	// The preconditions keep us from removing what a new server wrote meanwhile.
	err := a.slices.Delete(ctx, slice.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &slice.UID, ResourceVersion: &slice.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete EndpointSlice %s: %w", slice.Name, err)
	}
	return nil
}
