package reconnector

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Informers know all NFSExports and where each is served. They implement Services.
type Informers struct {
	exports cache.SharedIndexInformer
	lister  exports.Lister
	slices  cache.SharedIndexInformer
}

// NewInformers returns informers of all NFSExports, and of their EndpointSlices in
// the namespace.
func NewInformers(namespace string, client kubernetes.Interface, exportClient exports.Interface) (*Informers, error) {
	i := &Informers{}
	const noResync = time.Duration(0)
	i.exports, i.lister = exports.NewInformer(exportClient, noResync)
	i.slices = informers.NewSharedInformerFactoryWithOptions(client, noResync, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = labels.Set{discoveryv1.LabelManagedBy: names.EndpointSliceManager}.String()
		})).Discovery().V1().EndpointSlices().Informer()
	// What is not needed is not kept: every node holds all exports.
	err := i.exports.SetTransform(func(object any) (any, error) {
		if export, ok := object.(*v1alpha1.NFSExport); ok {
			return &v1alpha1.NFSExport{
				ObjectMeta: metav1.ObjectMeta{Name: export.Name, UID: export.UID, ResourceVersion: export.ResourceVersion},
				Spec:       v1alpha1.NFSExportSpec{Service: export.Spec.Service},
			}, nil
		}
		return object, nil
	})
	if err != nil {
		return nil, fmt.Errorf("prepare caches: %w", err)
	}
	return i, nil
}

// Start fills the caches and keeps them current until ctx ends. It returns when
// they are filled, or ctx ends.
func (i *Informers) Start(ctx context.Context) error {
	go i.exports.RunWithContext(ctx)
	go i.slices.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), i.exports.HasSynced, i.slices.HasSynced) {
		return fmt.Errorf("fill caches: %w", context.Cause(ctx))
	}
	return nil
}

// Notify calls observe with the endpoint of each export, and whenever it may have
// changed, and forget when an export is gone.
func (i *Informers) Notify(observe func(export string, endpoint netip.AddrPort), forget func(export string)) error {
	seen := func(object any) {
		if slice, ok := object.(*discoveryv1.EndpointSlice); ok && slice.Annotations[names.AwaitedAnnotation] == "" {
			observe(slice.Name, endpointOf(slice))
		}
	}
	_, slicesErr := i.slices.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    seen,
		UpdateFunc: func(_, object any) { seen(object) },
		DeleteFunc: func(object any) { observe(deletedName(object), netip.AddrPort{}) },
	})
	_, exportsErr := i.exports.AddEventHandler(cache.ResourceEventHandlerFuncs{
		DeleteFunc: func(object any) { forget(deletedName(object)) },
	})
	if err := errors.Join(slicesErr, exportsErr); err != nil {
		return fmt.Errorf("watch caches: %w", err)
	}
	return nil
}

func deletedName(object any) string {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	if accessor, ok := object.(metav1.Object); ok {
		return accessor.GetName()
	}
	return ""
}

// endpointOf returns the only address and port of the slice, which its supervisor
// removes when it does not serve; invalid if there is none.
func endpointOf(slice *discoveryv1.EndpointSlice) netip.AddrPort {
	if len(slice.Endpoints) == 0 || len(slice.Endpoints[0].Addresses) == 0 || len(slice.Ports) == 0 {
		return netip.AddrPort{}
	}
	return addressPort(slice.Endpoints[0].Addresses[0], ptr.Deref(slice.Ports[0].Port, 0))
}

// Service implements Services.
func (i *Informers) Service(name string) netip.AddrPort {
	export, err := i.lister.Get(name)
	if err != nil || export.Spec.Service == nil {
		return netip.AddrPort{}
	}
	return addressPort(export.Spec.Service.ClusterIP, export.Spec.Service.Port)
}

// addressPort is invalid if one of both is.
func addressPort(address string, port int32) netip.AddrPort {
	parsed, err := netip.ParseAddr(address)
	if err != nil || port < 1 || port > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(parsed.Unmap(), uint16(port))
}
