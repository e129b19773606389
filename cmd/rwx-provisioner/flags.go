package main

import (
	goflag "flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/kubernetes-csi/csi-lib-utils/standardflags"
	_ "github.com/kubernetes-csi/external-provisioner/v6/pkg/features" // registers the feature gates
	flag "github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/sidecars/provisioner"
)

// options are the flags of csi-provisioner v6.3.0 but those for drivers that run
// on every node (--node-deployment...), and our own settings.
type options struct {
	master string

	volumeNamePrefix     string
	volumeNameUUIDLength int
	defaultFSType        string
	extraCreateMetadata  bool

	timeout                     time.Duration
	retryIntervalStart          time.Duration
	retryIntervalMax            time.Duration
	workerThreads               uint
	cloningProtectionThreads    uint
	snapshotOrphanSweepInterval time.Duration

	strictTopology              bool
	immediateTopology           bool
	controllerPublishReadOnly   bool
	preventVolumeModeConversion bool

	enableCapacity           bool
	capacityImmediateBinding bool
	capacityPollInterval     time.Duration
	capacityOwnerrefLevel    int
	capacityThreads          uint
	kubeAPICapacityQPS       float32
	kubeAPICapacityBurst     int

	enableProfile bool

	settings provisioner.Settings
}

func (o *options) addTo(f *flag.FlagSet) {
	f.StringVar(&o.master, "master", "", "Master URL to build a client config from. Either this or kubeconfig needs to be set if the provisioner is being run out of cluster.")
	f.StringVar(&o.volumeNamePrefix, "volume-name-prefix", "pvc", "Prefix to apply to the name of a created volume.")
	f.IntVar(&o.volumeNameUUIDLength, "volume-name-uuid-length", -1, "Truncates generated UUID of a created volume to this length. Default is not to truncate.")
	f.StringVar(&o.defaultFSType, "default-fstype", "", "The filesystem type of volumes whose StorageClass names none.")
	f.BoolVar(&o.extraCreateMetadata, "extra-create-metadata", false, "Add pv/pvc metadata to plugin create requests as parameters.")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "Timeout for waiting for volume operation (creation, deletion, capacity queries).")
	f.DurationVar(&o.retryIntervalStart, "retry-interval-start", time.Second, "Initial retry interval of failed provisioning or deletion. It doubles with each failure, up to retry-interval-max.")
	f.DurationVar(&o.retryIntervalMax, "retry-interval-max", 5*time.Minute, "Maximum retry interval of failed provisioning or deletion.")
	f.UintVar(&o.workerThreads, "worker-threads", 100, "Number of provisioner worker threads, in other words number of simultaneous CSI calls.")
	f.UintVar(&o.cloningProtectionThreads, "cloning-protection-threads", 1, "Number of simultaneously running threads, handling cloning finalizer removal.")
	f.DurationVar(&o.snapshotOrphanSweepInterval, "snapshot-orphan-sweep-interval", 5*time.Minute, "How often to check for orphaned snapshot source-protection finalizers. 0 disables it.")
	f.BoolVar(&o.strictTopology, "strict-topology", false, "Late binding: pass only the selected node's topology to CreateVolume, not the aggregated topologies of the cluster.")
	f.BoolVar(&o.immediateTopology, "immediate-topology", true, "Immediate binding: pass the aggregated topologies of all nodes that have the driver, or none.")
	f.BoolVar(&o.controllerPublishReadOnly, "controller-publish-readonly", false, "Mark a PV as readonly at controller publish if the claim's access mode is ROX.")
	f.BoolVar(&o.preventVolumeModeConversion, "prevent-volume-mode-conversion", true, "Prevents an unauthorised user from modifying the volume mode when creating a claim from a VolumeSnapshot.")
	f.BoolVar(&o.enableCapacity, "enable-capacity", false, "Produce CSIStorageCapacity objects with capacity information from the driver's GetCapacity call.")
	f.BoolVar(&o.capacityImmediateBinding, "capacity-for-immediate-binding", false, "Produce capacity information for storage classes with immediate binding too.")
	f.DurationVar(&o.capacityPollInterval, "capacity-poll-interval", time.Minute, "How long to wait before checking for storage capacity changes.")
	f.IntVar(&o.capacityOwnerrefLevel, "capacity-ownerref-level", 1, "Number of objects from the pod of POD_NAME and NAMESPACE to the owner of CSIStorageCapacity objects: -1 for no owner, 0 for the pod, 2 for a Deployment.")
	f.UintVar(&o.capacityThreads, "capacity-threads", 1, "Number of simultaneously running threads, handling CSIStorageCapacity objects.")
	f.Float32Var(&o.kubeAPICapacityQPS, "kube-api-capacity-qps", 1, "QPS to use for storage capacity updates.")
	f.IntVar(&o.kubeAPICapacityBurst, "kube-api-capacity-burst", 5, "Burst to use for storage capacity updates.")
	f.BoolVar(&o.enableProfile, "enable-pprof", false, "Enable pprof profiling on the address of --http-endpoint, path /debug/pprof/.")
}

// parse reads flags and environment. Without --version the own settings must be
// complete.
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
	logsapi.AddFlags(logging, flag.CommandLine)
	logs.InitLogs()
	standardflags.RegisterCommonFlags(goflag.CommandLine)
	standardflags.AddAutomaxprocs(klog.Infof)
	flag.CommandLine.AddGoFlagSet(goflag.CommandLine)
	flag.CommandLine.Usage = func() {
		fmt.Fprintf(os.Stderr, "Usage of %s:\n%s\n", os.Args[0], flag.CommandLine.FlagUsages())
		_ = envconfig.Usage("rwx", &o.settings)
	}
	flag.Parse()

	if err := logsapi.ValidateAndApply(logging, logGate); err != nil {
		return nil, fmt.Errorf("apply logging configuration: %w", err)
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(gates); err != nil {
		return nil, fmt.Errorf("set feature gates: %w", err)
	}
	if standardflags.Configuration.ShowVersion {
		return o, nil
	}
	if err := envconfig.Process("rwx", &o.settings); err != nil {
		return nil, fmt.Errorf("read settings from the environment: %w", err)
	}
	return o, o.settings.Complete(os.Getenv)
}
