package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/external-provisioner/v6/pkg/capacity"
	"github.com/kubernetes-csi/external-provisioner/v6/pkg/capacity/topology"
	ctrl "github.com/kubernetes-csi/external-provisioner/v6/pkg/controller"
	"github.com/kubernetes-csi/external-provisioner/v6/pkg/features"
	"github.com/kubernetes-csi/external-provisioner/v6/pkg/owner"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listersv1 "k8s.io/client-go/listers/core/v1"
	storagelistersv1 "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/component-base/metrics/legacyregistry"
	csitrans "k8s.io/csi-translation-lib"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/linbit/linstor-rwx/sidecars/provisioner"
)

// managedBy is upstream's name in the label of CSIStorageCapacity objects, so that
// existing objects are taken over and not doubled.
const managedBy = "external-provisioner"

// controllers are the loops of csi-provisioner, one of them wrapped, and our sweep.
type controllers struct {
	process   *process
	factories []informers.SharedInformerFactory
	provision *controller.ProvisionController
	cloning   *ctrl.CloningProtectionController
	snapshots *ctrl.SnapshotFinalizerController
	topology  topology.Informer
	capacity  *capacity.Controller
	exports   *provisioner.Provisioner
}

func (p *process) controllers(ctx context.Context) (*controllers, error) {
	o := p.options
	c := &controllers{process: p}
	factory := informers.NewSharedInformerFactory(p.client, ctrl.ResyncPeriodOfCsiNodeInformer)
	c.factories = append(c.factories, factory)

	classes := factory.Storage().V1().StorageClasses().Lister()
	claims := factory.Core().V1().PersistentVolumeClaims()
	volumes := factory.Core().V1().PersistentVolumes()
	attachments := factory.Storage().V1().VolumeAttachments().Lister()

	var innerAttachments storagelistersv1.VolumeAttachmentLister
	if p.capabilities[csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME] {
		innerAttachments = attachments
	}
	var csiNodes storagelistersv1.CSINodeLister
	var nodes listersv1.NodeLister
	var nodeStore *ctrl.InMemoryStore
	if ctrl.SupportsTopology(p.plugin) {
		csiNodes = factory.Storage().V1().CSINodes().Lister()
		nodes = factory.Core().V1().Nodes().Lister()
		nodeStore = ctrl.NewInMemoryStore()
	}

	inner := ctrl.NewCSIProvisioner(
		p.client, o.timeout, p.identity, o.volumeNamePrefix, o.volumeNameUUIDLength,
		p.driver, p.snapshots, p.driverName, p.plugin, p.capabilities,
		"", // no in-tree plugin was ever migrated to LINSTOR
		o.strictTopology, o.immediateTopology, csitrans.New(),
		classes, csiNodes, nodes, claims.Lister(), innerAttachments,
		nil, // CrossNamespaceVolumeDataSource, alpha, is not supported
		o.extraCreateMetadata, o.defaultFSType,
		nil, // no deployment on every node
		o.controllerPublishReadOnly, o.preventVolumeModeConversion, nodeStore,
	)
	if o.enableCapacity {
		if err := c.addCapacity(factory); err != nil {
			return nil, err
		}
		inner = capacity.NewProvisionWrapper(inner, c.capacity)
	}

	c.exports = provisioner.Wrap(inner, provisioner.Config{
		Driver: p.driverName, VolumeNamePrefix: o.volumeNamePrefix, VolumeNameUUIDLength: o.volumeNameUUIDLength,
		DefaultFSType: o.defaultFSType, ExtraCreateMetadata: o.extraCreateMetadata, Settings: o.settings,
		Client: p.client, Snapshots: p.snapshots, Exports: p.exports, Linstor: p.linstor,
		Claims: claims.Lister(), Volumes: volumes.Lister(), Attachments: attachments,
	})
	legacyregistry.RawMustRegister(c.exports.Collectors()...)

	limiter := func() workqueue.TypedRateLimiter[string] {
		return workqueue.NewTypedItemExponentialFailureRateLimiter[string](o.retryIntervalStart, o.retryIntervalMax)
	}
	c.provision = controller.NewProvisionController(ctx, p.client, p.driverName, c.exports,
		controller.LeaderElection(false), // done around all controllers, in run
		controller.FailedProvisionThreshold(0),
		controller.FailedDeleteThreshold(0),
		controller.RateLimiter(limiter()),
		controller.Threadiness(int(o.workerThreads)),
		controller.CreateProvisionedPVLimiter(workqueue.DefaultTypedControllerRateLimiter[string]()),
		controller.ClaimsInformer(claims.Informer()),
		controller.VolumesInformer(volumes.Informer()),
		controller.RetryIntervalMax(o.retryIntervalMax),
		controller.AddFinalizer(true),
		controller.MetricsInstance(provisionMetrics()),
	)
	c.cloning = ctrl.NewCloningProtectionController(p.client, claims.Lister(), claims.Informer(),
		workqueue.NewTypedRateLimitingQueueWithConfig(limiter(), workqueue.TypedRateLimitingQueueConfig[string]{Name: "claims"}), p.capabilities)
	if o.snapshotOrphanSweepInterval > 0 {
		if served, err := features.IsVolumeSnapshotV1Available(p.client.Discovery()); err == nil && served {
			c.snapshots = ctrl.NewSnapshotFinalizerController(p.snapshots, claims.Lister(), p.capabilities, o.snapshotOrphanSweepInterval)
		}
	}
	return c, nil
}

// addCapacity makes the controller that publishes CSIStorageCapacity objects.
func (c *controllers) addCapacity(factory informers.SharedInformerFactory) error {
	p, o := c.process, c.process.options
	config := rest.CopyConfig(p.config)
	config.QPS, config.Burst = o.kubeAPICapacityQPS, o.kubeAPICapacityBurst
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("create capacity client: %w", err)
	}
	namespace := os.Getenv("NAMESPACE")
	if namespace == "" {
		return errors.New("need NAMESPACE env variable for CSIStorageCapacity objects")
	}
	var owningObject *metav1.OwnerReference
	if o.capacityOwnerrefLevel >= 0 {
		pod := os.Getenv("POD_NAME")
		if pod == "" {
			return errors.New("need POD_NAME env variable to determine CSIStorageCapacity owner")
		}
		owningObject, err = owner.Lookup(config, namespace, pod, corev1.SchemeGroupVersion.WithKind("Pod"), o.capacityOwnerrefLevel)
		if err != nil {
			return fmt.Errorf("look up owner of pod: %w", err)
		}
	}

	c.topology = topology.NewNodeTopology(p.driverName, client, factory.Core().V1().Nodes(), factory.Storage().V1().CSINodes(),
		workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](o.retryIntervalStart, o.retryIntervalMax),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: "csitopology"}))
	own := informers.NewSharedInformerFactoryWithOptions(client, ctrl.ResyncPeriodOfCsiNodeInformer, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = labels.Set{capacity.DriverNameLabel: p.driverName, capacity.ManagedByLabel: managedBy}.String()
		}))
	c.factories = append(c.factories, own)

	c.capacity = capacity.NewCentralCapacityController(csi.NewControllerClient(p.driver), p.driverName, capacity.NewV1ClientFactory(client),
		workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[capacity.QueueKey](o.retryIntervalStart, o.retryIntervalMax),
			workqueue.TypedRateLimitingQueueConfig[capacity.QueueKey]{Name: "csistoragecapacity"}),
		owningObject, managedBy, namespace, c.topology,
		factory.Storage().V1().StorageClasses(), own.Storage().V1().CSIStorageCapacities(),
		o.capacityPollInterval, o.capacityImmediateBinding, o.timeout)
	legacyregistry.CustomMustRegister(c.capacity)
	return nil
}

// run starts everything; leader election calls it once this process leads. It
// returns when ctx ends.
func (c *controllers) run(ctx context.Context) {
	for _, factory := range c.factories {
		factory.Start(ctx.Done())
	}
	if c.topology != nil {
		go c.topology.RunWorker(ctx)
	}
	for kind, synced := range c.factories[0].WaitForCacheSync(ctx.Done()) {
		if !synced {
			klog.ErrorS(nil, "Cannot sync informer", "kind", kind)
			klog.FlushAndExit(klog.ExitFlushTimeout, 1)
		}
	}

	o := c.process.options
	var running sync.WaitGroup
	if c.capacity != nil {
		running.Go(func() { c.capacity.Run(ctx, int(o.capacityThreads), nil) })
	}
	if c.cloning != nil {
		running.Go(func() { c.cloning.Run(ctx, int(o.cloningProtectionThreads), nil) })
	}
	if c.snapshots != nil {
		running.Go(func() { c.snapshots.Run(ctx, nil) })
	}
	running.Go(func() { c.exports.Sweep(ctx) })
	c.provision.Run(ctx)
	running.Wait()
}
