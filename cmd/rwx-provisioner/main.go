// rwx-provisioner is csi-provisioner plus ReadWriteMany volumes. It takes the same
// flags and replaces the csi-provisioner container of the LINSTOR CSI controller.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/kubernetes-csi/csi-lib-utils/metrics"
	"github.com/kubernetes-csi/csi-lib-utils/rpc"
	"github.com/kubernetes-csi/csi-lib-utils/standardflags"
	ctrl "github.com/kubernetes-csi/external-provisioner/v6/pkg/controller"
	"github.com/kubernetes-csi/external-provisioner/v6/pkg/features"
	snapclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/util/uuid"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/linstor"
	"github.com/linbit/linstor-rwx/pkg/sidecar"
)

func main() {
	options, err := parse()
	if err == nil && standardflags.Configuration.ShowVersion {
		fmt.Println(os.Args[0], sidecar.Version)
		return
	}
	if err == nil {
		klog.InfoS("Version", "version", sidecar.Version)
		err = run(context.Background(), options)
	}
	if err != nil {
		klog.ErrorS(err, "Provisioner stopped")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
}

func run(ctx context.Context, o *options) error {
	p, err := connect(ctx, o)
	if err != nil {
		return err
	}
	controllers, err := p.controllers(ctx)
	if err != nil {
		return err
	}
	if err := p.serve(); err != nil {
		return err
	}
	// The lease is upstream's, so that in a rolling swap of csi-provisioner for this
	// program never two of them lead.
	sidecar.Lead(ctx, p.config, strings.ReplaceAll(p.driverName, "/", "-"), p.mux,
		utilfeature.DefaultFeatureGate.Enabled(features.ReleaseLeaderElectionOnExit), controllers.run)
	return nil
}

// process holds what is wired once and every controller needs.
type process struct {
	options      *options
	config       *rest.Config
	client       *kubernetes.Clientset
	snapshots    snapclient.Interface
	exports      exports.Interface
	linstor      *linstor.Client
	driver       *grpc.ClientConn
	driverName   string
	plugin       rpc.PluginCapabilitySet
	capabilities rpc.ControllerCapabilitySet
	identity     string
	csiMetrics   metrics.CSIMetricsManager
	mux          *http.ServeMux
}

// connect reaches the API server and the CSI driver and learns what they can do.
// It waits for the driver. It does not wait for LINSTOR, whose absence is to be an
// event at the claims that need it, not a crash loop.
func connect(ctx context.Context, o *options) (*process, error) {
	p := &process{options: o, mux: http.NewServeMux(),
		csiMetrics: metrics.NewCSIMetricsManagerWithOptions("", metrics.WithProcessStartTime(false), metrics.WithSubsystem(metrics.SubsystemSidecar))}

	var err error
	if p.config, err = sidecar.ClientConfig(o.master); err != nil {
		return nil, err
	}
	if p.client, err = sidecar.KubeClient(p.config); err != nil {
		return nil, err
	}
	if p.snapshots, err = snapclient.NewForConfig(p.config); err != nil {
		return nil, fmt.Errorf("create snapshot client: %w", err)
	}
	if p.exports, err = exports.New(p.config); err != nil {
		return nil, err
	}
	if p.linstor, err = linstor.New(o.settings.LinstorParallel); err != nil {
		return nil, err
	}
	disableUnservedFeatures(p.client)

	if p.driver, err = ctrl.Connect(ctx, standardflags.Configuration.CSIAddress, p.csiMetrics); err != nil {
		return nil, fmt.Errorf("connect to CSI driver: %w", err)
	}
	if err = ctrl.Probe(ctx, p.driver, o.timeout); err != nil {
		return nil, fmt.Errorf("probe CSI driver: %w", err)
	}
	if p.driverName, err = ctrl.GetDriverName(p.driver, o.timeout); err != nil {
		return nil, fmt.Errorf("get CSI driver name: %w", err)
	}
	p.csiMetrics.SetDriverName(p.driverName)
	if p.plugin, p.capabilities, err = ctrl.GetDriverCapabilities(p.driver, o.timeout); err != nil {
		return nil, fmt.Errorf("get CSI driver capabilities: %w", err)
	}
	p.identity = string(uuid.NewUUID()) + "-" + p.driverName
	return p, nil
}

// disableUnservedFeatures turns off what the API server does not serve, unless the
// user has asked for it.
func disableUnservedFeatures(client kubernetes.Interface) {
	gate := utilfeature.DefaultMutableFeatureGate
	if gate.ExplicitlySet(features.VolumeAttributesClass) {
		return
	}
	if served, err := features.IsVolumeAttributesClassV1Enabled(client.Discovery()); err == nil && !served {
		if err := gate.Set(string(features.VolumeAttributesClass) + "=false"); err != nil {
			klog.ErrorS(err, "Cannot disable feature", "feature", features.VolumeAttributesClass)
		}
	}
}
