package provisioner

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// newService returns the Service of an export. It has no selector: the supervisor
// that serves writes the EndpointSlice. It has an IPv4 address because linstor-csi
// drops the brackets of IPv6 ones.
func (p *Provisioner) newService(name string) *corev1.Service {
	family := corev1.IPFamilyPolicySingleStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: p.Settings.Namespace,
			Labels: map[string]string{names.ExportLabel: name, names.ManagedByLabel: names.ManagedByValue},
		},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeClusterIP,
			IPFamilyPolicy: &family,
			IPFamilies:     []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{
				Name: names.NFSPortName, Protocol: corev1.ProtocolTCP, Port: names.NFSPort,
				TargetPort: intstr.FromInt32(names.NFSPort), // not read without a selector
			}},
		},
	}
}

// tryService asks the API server whether it would make the Service, so that a
// cluster without IPv4 services, or a full quota, is found before the volume is made.
func (p *Provisioner) tryService(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := p.Client.CoreV1().Services(p.Settings.Namespace).Create(ctx, p.newService(r.name), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if !apierrors.IsAlreadyExists(err) {
		return p.explainService(r.name, err)
	}
	service, err := p.Client.CoreV1().Services(p.Settings.Namespace).Get(ctx, r.name, metav1.GetOptions{})
	if err == nil && !isOurs(service) {
		return strangersService(service)
	}
	return nil
}

// explainService makes a sentence of a refusal by the API server.
func (p *Provisioner) explainService(name string, err error) error {
	if err == nil {
		return nil
	}
	var refusal apierrors.APIStatus
	if apierrors.IsInvalid(err) && errors.As(err, &refusal) && refusal.Status().Details != nil {
		for _, cause := range refusal.Status().Details.Causes {
			if strings.HasPrefix(cause.Field, "spec.ipFamilies") { // not clusterIPs: an allocation may fail for a moment
				return errors.New("the cluster has no IPv4 addresses for Services, and linstor-csi cannot mount from an IPv6 address: give the API server an IPv4 --service-cluster-ip-range")
			}
		}
	}
	return fmt.Errorf("create service %s/%s: %w", p.Settings.Namespace, name, err)
}

// ensureService makes the Service of an export and records its address, which never
// changes from then on: running pods have mounted it.
func (p *Provisioner) ensureService(ctx context.Context, export *v1alpha1.NFSExport) (*v1alpha1.NFSExport, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	want := p.newService(export.Name)
	want.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "NFSExport", Name: export.Name, UID: export.UID,
	}}
	if recorded := export.Spec.Service; recorded != nil {
		want.Namespace = recorded.Namespace
		want.Spec.ClusterIP = recorded.ClusterIP
		want.Spec.ClusterIPs = []string{recorded.ClusterIP}
	}
	services := p.Client.CoreV1().Services(want.Namespace)

	// Not create first: for a Service with a given address the API server says that
	// the address is taken, before it sees that it is taken by this Service.
	service, err := services.Get(ctx, export.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		service, err = services.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && !ownedBy(service, export):
		return nil, p.clearService(ctx, service)
	}
	if err != nil {
		return nil, p.explainService(export.Name, err)
	}
	address, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil || !address.Is4() {
		return nil, fmt.Errorf("service %s/%s has the address %q, an IPv4 address is needed", service.Namespace, service.Name, service.Spec.ClusterIP)
	}

	if recorded := export.Spec.Service; recorded != nil {
		if recorded.ClusterIP != service.Spec.ClusterIP {
			return nil, fmt.Errorf("service %s/%s has the address %s, but clients mount from %s: delete the service", service.Namespace, service.Name, service.Spec.ClusterIP, recorded.ClusterIP)
		}
		return export, nil
	}
	export = export.DeepCopy()
	export.Spec.Service = &v1alpha1.ServiceReference{Namespace: service.Namespace, Name: service.Name, ClusterIP: service.Spec.ClusterIP, Port: names.NFSPort}
	updated, err := p.Exports.Update(ctx, export, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("record service in NFSExport %s: %w", export.Name, err)
	}
	return updated, nil
}

func ownedBy(service *corev1.Service, export *v1alpha1.NFSExport) bool {
	return service.Labels[names.ExportLabel] == export.Name && slices.ContainsFunc(service.OwnerReferences, func(owner metav1.OwnerReference) bool {
		return owner.UID == export.UID
	})
}

func isOurs(service *corev1.Service) bool {
	return service.Labels[names.ManagedByLabel] == names.ManagedByValue && service.Labels[names.ExportLabel] == service.Name
}

func strangersService(service *corev1.Service) error {
	return fmt.Errorf("service %s/%s exists and is not from linstor-rwx: rename it", service.Namespace, service.Name)
}

// clearService deals with a Service that has our name and another owner: one of an
// earlier try, which Kubernetes' garbage collector has not removed yet, is removed;
// a stranger's is left alone. Either way this try cannot go on.
func (p *Provisioner) clearService(ctx context.Context, service *corev1.Service) error {
	if !isOurs(service) {
		return strangersService(service)
	}
	err := p.Client.CoreV1().Services(service.Namespace).Delete(ctx, service.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &service.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete service %s/%s of an earlier try: %w", service.Namespace, service.Name, err)
	}
	return fmt.Errorf("service %s/%s of an earlier try had to be removed: starting again", service.Namespace, service.Name)
}
