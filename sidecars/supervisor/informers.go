package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	byResource = "resource"
	byVolume   = "volume"
	byHost     = "host"
	byNode     = "node"
)

// Informers is the Cache of the real cluster.
type Informers struct {
	node        string
	namespace   string
	exports     cache.SharedIndexInformer
	attachments cache.SharedIndexInformer
	nodes       cache.SharedIndexInformer
	slices      cache.SharedIndexInformer
	pods        cache.SharedIndexInformer
	addresses   cache.SharedIndexInformer
}

// NewInformers returns informers of what concerns the exports of this node: all
// NFSExports, the VolumeAttachments of the CSI driver's volumes, the Nodes, where
// clients are, with the addresses that nfs-reconnector reports of them, the
// EndpointSlices of the exports, and the pods of the other supervisors.
func NewInformers(settings Settings, client kubernetes.Interface, exportClient exports.Interface) (*Informers, error) {
	i := &Informers{node: settings.NodeName, namespace: settings.PodNamespace}
	i.exports, _ = exports.NewInformer(exportClient, settings.Resync)
	i.attachments = informers.NewSharedInformerFactory(client, 0).Storage().V1().VolumeAttachments().Informer()
	i.nodes = informers.NewSharedInformerFactory(client, 0).Core().V1().Nodes().Informer()
	i.pods = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(settings.PodNamespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = settings.PodSelector
		})).Core().V1().Pods().Informer()
	i.addresses = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(settings.PodNamespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = names.NodeAddressesLabel
		})).Core().V1().ConfigMaps().Informer()
	i.slices = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(settings.PodNamespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = labels.Set{discoveryv1.LabelManagedBy: names.EndpointSliceManager}.String()
		})).Discovery().V1().EndpointSlices().Informer()

	err := errors.Join(
		i.exports.AddIndexers(cache.Indexers{byResource: func(object any) ([]string, error) {
			if export, ok := object.(*v1alpha1.NFSExport); ok {
				return []string{export.Spec.ResourceDefinition.Name}, nil
			}
			return nil, nil
		}}),
		i.attachments.AddIndexers(cache.Indexers{byVolume: func(object any) ([]string, error) {
			return attachedVolumes(object), nil
		}}),
		// What is not needed is not kept: these objects are many, or change often.
		i.nodes.AddIndexers(cache.Indexers{byHost: func(object any) ([]string, error) { return hostnames(object), nil }}),
		i.pods.AddIndexers(cache.Indexers{byNode: func(object any) ([]string, error) { return nodeOfPod(object), nil }}),
		i.nodes.SetTransform(keepOfNode),
		i.pods.SetTransform(keepOfPod),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare caches: %w", err)
	}
	return i, nil
}

// attachedVolumes is the volume of an attachment of ours.
func attachedVolumes(object any) []string {
	attachment, ok := object.(*storagev1.VolumeAttachment)
	if !ok || attachment.Spec.Attacher != names.Driver || attachment.Spec.Source.PersistentVolumeName == nil {
		return nil
	}
	return []string{*attachment.Spec.Source.PersistentVolumeName}
}

// Start fills the caches and keeps them current until ctx ends. It returns when
// they are filled, or ctx ends.
func (i *Informers) Start(ctx context.Context) error {
	for _, informer := range i.all() {
		go informer.RunWithContext(ctx)
	}
	var synced []cache.InformerSynced
	for _, informer := range i.all() {
		synced = append(synced, informer.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("fill caches: %w", context.Cause(ctx))
	}
	return nil
}

func (i *Informers) all() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{i.exports, i.attachments, i.nodes, i.slices, i.pods, i.addresses}
}

// Synced says whether the caches have been filled.
func (i *Informers) Synced() bool {
	for _, informer := range i.all() {
		if !informer.HasSynced() {
			return false
		}
	}
	return true
}

// Notify calls trigger with the name of every export that a change concerns, all
// when it concerns all, and addresses when NodeAddresses may have changed.
func (i *Informers) Notify(trigger func(export string), all, addresses func()) error {
	on := func(informer cache.SharedIndexInformer, changed func(object any)) error {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    changed,
			UpdateFunc: func(_, object any) { changed(object) },
			DeleteFunc: func(object any) {
				if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
					object = tombstone.Obj
				}
				changed(object)
			},
		})
		return err
	}
	named := func(object any) {
		if accessor, ok := object.(metav1.Object); ok {
			trigger(accessor.GetName())
		}
	}
	cordoned, known := i.Cordoned(), i.NodeAddresses()
	readdressed := func(any) {
		if now := i.NodeAddresses(); !slices.Equal(now, known) {
			known = now
			addresses()
		}
	}
	err := errors.Join(
		on(i.exports, named),
		on(i.slices, named),
		on(i.attachments, func(object any) {
			for _, volume := range attachedVolumes(object) {
				if i.Export(volume) != nil {
					trigger(volume)
				}
			}
		}),
		on(i.nodes, func(node any) {
			if now := i.Cordoned(); now != cordoned { // a node's status changes all the time
				cordoned = now
				all()
			}
			readdressed(node)
		}),
		on(i.addresses, readdressed),
	)
	if err != nil {
		return fmt.Errorf("watch caches: %w", err)
	}
	return nil
}

// Export implements Cache.
func (i *Informers) Export(name string) *v1alpha1.NFSExport {
	return get[*v1alpha1.NFSExport](i.exports, name)
}

// EndpointSlice implements Cache.
func (i *Informers) EndpointSlice(name string) *discoveryv1.EndpointSlice {
	return get[*discoveryv1.EndpointSlice](i.slices, i.namespace+"/"+name)
}

// ExportNames implements Cache.
func (i *Informers) ExportNames() []string { return i.exports.GetStore().ListKeys() }

// ExportsOf implements Cache.
func (i *Informers) ExportsOf(resource string) []string {
	keys, err := i.exports.GetIndexer().IndexKeys(byResource, resource)
	if err != nil {
		return nil // only an unknown index can do this
	}
	return keys
}

// Attached implements Cache. An attachment counts from its creation to its end:
// the node that detaches has unmounted by then.
func (i *Informers) Attached(volume string) bool {
	keys, err := i.attachments.GetIndexer().IndexKeys(byVolume, volume)
	return err == nil && len(keys) > 0
}

// Cordoned implements Cache.
func (i *Informers) Cordoned() bool {
	node := get[*corev1.Node](i.nodes, i.node)
	return node != nil && (node.Spec.Unschedulable || node.DeletionTimestamp != nil)
}

func get[T any](informer cache.SharedIndexInformer, key string) T {
	var none T
	object, exists, err := informer.GetStore().GetByKey(key)
	if err != nil || !exists {
		return none
	}
	typed, ok := object.(T)
	if !ok {
		return none
	}
	return typed
}

// watchRetry is the pause before a broken stream is read again.
const watchRetry = time.Second
