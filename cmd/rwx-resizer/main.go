// rwx-resizer is csi-resizer that waits for the filesystem of exported volumes. It
// takes the same flags and replaces the csi-resizer container of the LINSTOR CSI
// controller.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kubernetes-csi/csi-lib-utils/metrics"
	"github.com/kubernetes-csi/csi-lib-utils/standardflags"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/controller"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/csi"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/features"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/modifier"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/modifycontroller"
	csiresizer "github.com/kubernetes-csi/external-resizer/v2/pkg/resizer"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/util"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	utilflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo/leaderelection" // registers leader election metrics in the default legacy registry
	_ "k8s.io/component-base/metrics/prometheus/workqueue"               // registers work queue metrics in the default legacy registry
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/linstor"
	"github.com/linbit/linstor-rwx/pkg/sidecar"
	"github.com/linbit/linstor-rwx/sidecars/resizer"
)

// options are the flags of csi-resizer v2.2.0.
type options struct {
	master                 string
	resyncPeriod           time.Duration
	workers                int
	extraModifyMetadata    bool
	timeout                time.Duration
	retryIntervalStart     time.Duration
	retryIntervalMax       time.Duration
	handleVolumeInUseError bool
}

func (o *options) addTo(f *flag.FlagSet) {
	f.StringVar(&o.master, "master", "", "Master URL to build a client config from. Either this or kubeconfig needs to be set if the resizer is being run out of cluster.")
	f.DurationVar(&o.resyncPeriod, "resync-period", 10*time.Minute, "Resync period for cache.")
	f.IntVar(&o.workers, "workers", 10, "Concurrency to process multiple resize requests.")
	f.BoolVar(&o.extraModifyMetadata, "extra-modify-metadata", false, "If set, add pv/pvc metadata to plugin modify requests as parameters.")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "Timeout of calls to the CSI driver, and of one wait for the filesystem of an exported volume.")
	f.DurationVar(&o.retryIntervalStart, "retry-interval-start", time.Second, "Initial retry interval of failed volume resize. It exponentially increases with each failure, up to retry-interval-max.")
	f.DurationVar(&o.retryIntervalMax, "retry-interval-max", 5*time.Minute, "Maximum retry interval of failed volume resize.")
	f.BoolVar(&o.handleVolumeInUseError, "handle-volume-inuse-error", true, "Flag to turn on/off capability to handle volume in use error in resizer controller.")
}

func main() {
	o, err := parse()
	if err == nil && standardflags.Configuration.ShowVersion {
		fmt.Println(os.Args[0], sidecar.Version)
		return
	}
	if err == nil {
		klog.InfoS("Version", "version", sidecar.Version)
		err = run(context.Background(), o)
	}
	if err != nil {
		klog.ErrorS(err, "Resizer stopped")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
}

// parse reads the flags by Go's flag package, as upstream: -timeout is good too.
func parse() (*options, error) {
	o := &options{}
	o.addTo(flag.CommandLine)
	var gates map[string]bool
	flag.Var(utilflag.NewMapStringBool(&gates), "feature-gates", "A set of key=value pairs that describe feature gates for alpha/experimental features. "+
		"Options are:\n"+strings.Join(utilfeature.DefaultFeatureGate.KnownFeatures(), "\n"))
	logGate, logging := featuregate.NewFeatureGate(), logsapi.NewLoggingConfiguration()
	if err := logsapi.AddFeatureGates(logGate); err != nil {
		return nil, fmt.Errorf("register logging features: %w", err)
	}
	logsapi.AddGoFlags(logging, flag.CommandLine)
	logs.InitLogs()
	standardflags.RegisterCommonFlags(flag.CommandLine)
	standardflags.AddAutomaxprocs(klog.Infof)
	flag.Parse()
	if err := logsapi.ValidateAndApply(logging, logGate); err != nil {
		return nil, fmt.Errorf("apply logging configuration: %w", err)
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(gates); err != nil {
		return nil, fmt.Errorf("set feature gates: %w", err)
	}
	return o, nil
}

// process holds what is wired once.
type process struct {
	config     *rest.Config
	client     *kubernetes.Clientset
	driver     csi.Client
	driverName string
	metrics    metrics.CSIMetricsManager
}

func run(ctx context.Context, o *options) error {
	p, err := connect(ctx, o)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(p.client, o.resyncPeriod)
	resize, err := p.resizeController(o, factory)
	if err != nil {
		return err
	}
	modify, err := p.modifyController(o, factory)
	if err != nil {
		return err
	}
	if resize == nil && modify == nil {
		return errors.New("the CSI driver supports neither resize nor modify")
	}

	mux := http.NewServeMux()
	address, err := sidecar.Address()
	if err != nil {
		return err
	}
	if address != "" {
		p.metrics.RegisterToServer(mux, standardflags.Configuration.MetricsPath)
		p.metrics.SetDriverName(p.driverName)
		sidecar.Serve(address, mux)
	}

	// The lease is upstream's: external-resizer-linstor-csi-linbit-com.
	release := utilfeature.DefaultFeatureGate.Enabled(features.ReleaseLeaderElectionOnExit)
	sidecar.Lead(ctx, p.config, "external-resizer-"+util.SanitizeName(p.driverName), mux, release, func(ctx context.Context) {
		factory.Start(ctx.Done())
		// The controllers count their workers in the group only if the feature gate
		// says so, and panic without a group then.
		var workers *sync.WaitGroup
		if release {
			workers = &sync.WaitGroup{}
		}
		var running sync.WaitGroup
		if resize != nil {
			running.Go(func() { resize.Run(o.workers, ctx, workers) })
		}
		if modify != nil {
			running.Go(func() { modify.Run(o.workers, ctx, workers) })
		}
		<-ctx.Done()
		running.Wait()
		if workers != nil {
			workers.Wait()
		}
	})
	return nil
}

// connect reaches the API server and the CSI driver, and waits for the latter.
func connect(ctx context.Context, o *options) (*process, error) {
	p := &process{metrics: metrics.NewCSIMetricsManager("")}
	var err error
	if p.config, err = sidecar.ClientConfig(o.master); err != nil {
		return nil, err
	}
	if p.client, err = sidecar.KubeClient(p.config); err != nil {
		return nil, err
	}
	disableUnservedFeatures(p.client)
	if p.driver, err = csi.New(ctx, standardflags.Configuration.CSIAddress, o.timeout, p.metrics); err != nil {
		return nil, fmt.Errorf("connect to CSI driver: %w", err)
	}
	named, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if p.driverName, err = p.driver.GetDriverName(named); err != nil {
		return nil, fmt.Errorf("get CSI driver name: %w", err)
	}
	p.metrics.WithAdditionalRegistry(legacyregistry.DefaultGatherer)
	return p, nil
}

func (p *process) resizeController(o *options, factory informers.SharedInformerFactory) (controller.ResizeController, error) {
	inner, err := csiresizer.NewResizerFromClient(p.driver, o.timeout, p.client, p.driverName)
	if errors.Is(err, csiresizer.ResizeNotSupportErr) {
		klog.InfoS("The CSI driver does not support resize")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("create CSI resizer: %w", err)
	}
	client, err := exports.New(p.config)
	if err != nil {
		return nil, err
	}
	linstorClient, err := linstor.New(o.workers)
	if err != nil {
		return nil, err
	}
	wrapped := resizer.Wrap(inner, client, linstorClient, o.timeout)
	return controller.NewResizeController(wrapped.Name(), wrapped, p.client, o.resyncPeriod, factory,
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](o.retryIntervalStart, o.retryIntervalMax),
		o.handleVolumeInUseError, o.retryIntervalMax), nil
}

// modifyController is upstream's for VolumeAttributesClasses; linstor-csi does not
// support them so far.
func (p *process) modifyController(o *options, factory informers.SharedInformerFactory) (modifycontroller.ModifyController, error) {
	inner, err := modifier.NewModifierFromClient(p.driver, o.timeout, p.client, factory, o.extraModifyMetadata, p.driverName)
	if errors.Is(err, modifier.ModifyNotSupportErr) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("create CSI modifier: %w", err)
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.VolumeAttributesClass) {
		return nil, nil
	}
	return modifycontroller.NewModifyController(inner.Name(), inner, p.client, o.resyncPeriod, o.retryIntervalMax, o.extraModifyMetadata, factory,
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](o.retryIntervalStart, o.retryIntervalMax)), nil
}

// disableUnservedFeatures turns off what the API server does not serve, unless the
// user has asked for it.
func disableUnservedFeatures(client kubernetes.Interface) {
	gate := utilfeature.DefaultMutableFeatureGate
	if gate.ExplicitlySet(features.VolumeAttributesClass) {
		return
	}
	if served, err := features.IsVolumeAttributesClassV1Enabled(client.Discovery()); err == nil && !served {
		if err := gate.OverrideDefault(features.VolumeAttributesClass, false); err != nil {
			klog.ErrorS(err, "Cannot disable feature", "feature", features.VolumeAttributesClass)
		}
	}
}
