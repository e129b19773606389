// Command ganesha-supervisor decides on its node which exports are served, and
// serves them. See sidecars/supervisor/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/exec"

	corev1 "k8s.io/api/core/v1"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/filesystem"
	"github.com/linbit/linstor-rwx/pkg/firewall"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/sidecars/supervisor"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

func main() {
	klog.InitFlags(nil)
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig `file`; default: the pod's service account")
	flag.Parse()

	told, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(told, *kubeconfig); err != nil && told.Err() == nil {
		klog.ErrorS(err, "ganesha-supervisor failed")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
	klog.Flush()
}

// run wires the supervisor and works until it is told to end. If that is because
// the whole pod ends, it hands over what it serves; a supervisor that ends alone
// leaves everything to the next one.
func run(told context.Context, kubeconfig string) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	settings, err := supervisor.SettingsFromEnvironment()
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("configure API client: %w", err)
	}
	// 100 exports may have to be started at once.
	config.QPS, config.Burst = 50, 200
	client, exportClient, err := clients(config)
	if err != nil {
		return err
	}

	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	defer broadcaster.Shutdown()

	informers, err := supervisor.NewInformers(settings, client, exportClient)
	if err != nil {
		return err
	}
	programs := exec.New()
	resources := drbd.New(programs)
	launcher := ganesha.NewLauncher(settings.LauncherSocket())
	metrics := supervisor.NewMetrics()
	rules, err := newFirewall(ctx, settings, programs)
	if err != nil {
		return err
	}
	agent := supervisor.NewAgent(settings, supervisor.Dependencies{
		DRBD:     resources,
		Files:    filesystem.New(programs),
		Launcher: launcher,
		Recovery: supervisor.GaneshaRecovery{},
		Host:     supervisor.LocalHost{},
		Probe:    ganesha.Probe,
		Speak:    ganesha.SpeakFor,
		Firewall: rules,
		NodeLock: supervisor.NewFileLock(settings.MountRoot),
		Cache:    informers,
		Exports:  exportClient,
		Slices:   client.DiscoveryV1().EndpointSlices(settings.PodNamespace),
		Nodes:    client.CoreV1().Nodes(),
		Recorder: broadcaster.NewRecorder(exports.Scheme, corev1.EventSource{Component: "ganesha-supervisor", Host: settings.NodeName}),
		Metrics:  metrics,
		Now:      time.Now,
	})

	ready := func() error {
		if !informers.Synced() {
			return errors.New("the caches are not filled yet")
		}
		if _, err := launcher.List(ctx); err != nil {
			return err
		}
		return agent.Ready()
	}
	go func() {
		if err := metrics.Serve(ctx, settings.HTTPEndpoint, ready); err != nil {
			klog.FromContext(ctx).Error(err, "Metrics are not served")
		}
	}()
	ended := context.AfterFunc(told, stop) // nothing to hand over yet
	if err := informers.Start(ctx); err != nil {
		return err
	}
	if err := informers.Notify(agent.Trigger, agent.TriggerAll, func() { agent.RefreshAccess(ctx) }); err != nil {
		return err
	}
	if settings.Heartbeat {
		beat, err := heartbeat.New(settings.HeartbeatSettings(), informers, agent.State, agent.Watched, agent.TriggerPeer)
		if err != nil {
			return err
		}
		agent.Hear(beat)
		go beat.Run(ctx)
	}
	if !ended() {
		return nil
	}
	go agent.WatchDRBD(ctx, resources)
	go agent.WatchProcesses(ctx, launcher)
	go func() {
		<-told.Done()
		leave(ctx, settings, agent, launcher)
		stop()
	}()
	agent.Run(ctx)
	return nil
}

// leave hands over what is served here if the launcher was told to end as well:
// then it is the pod that ends, and not this container alone.
func leave(ctx context.Context, settings supervisor.Settings, agent *supervisor.Agent, launcher *ganesha.Launcher) {
	if !launcher.Leaving(ctx, togetherTime) {
		klog.FromContext(ctx).Info("Supervisor ends, the servers go on without it")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settings.DrainTimeout)
	defer cancel()
	agent.Drain(ctx)
	launcher.Release(ctx)
}

// togetherTime is how far apart the containers of a pod are told to end.
const togetherTime = 2 * time.Second

// newFirewall returns nil if the pod's network namespace is to be left alone.
func newFirewall(ctx context.Context, settings supervisor.Settings, programs exec.Interface) (supervisor.Firewall, error) {
	if !settings.SourceNAT {
		return nil, nil
	}
	rules, err := firewall.New(ctx, programs)
	if err != nil {
		return nil, fmt.Errorf("prepare the rules of the pod's network: %w", err)
	}
	klog.FromContext(ctx).Info("Rules of the pod's network are kept", "by", rules.Name())
	return rules, nil
}

func clients(config *rest.Config) (kubernetes.Interface, exports.Interface, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("create API client: %w", err)
	}
	exportClient, err := exports.New(config)
	if err != nil {
		return nil, nil, err
	}
	return client, exportClient, nil
}
