// Command nfs-reconnector brings the NFS clients of its node back at once when
// the server of an export has moved. See sidecars/reconnector/README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/sidecars/reconnector"
)

func main() {
	klog.InitFlags(nil)
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig `file`; default: the pod's service account")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, *kubeconfig); err != nil && ctx.Err() == nil {
		klog.ErrorS(err, "nfs-reconnector failed")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
	klog.Flush()
}

// run wires the reconnector and works until ctx ends.
func run(ctx context.Context, kubeconfig string) error {
	settings, err := reconnector.SettingsFromEnvironment()
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("configure API client: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("create API client: %w", err)
	}
	exportClient, err := exports.New(config)
	if err != nil {
		return err
	}
	kernel, err := reconnector.OpenKernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	if err := kernel.Check(); err != nil {
		klog.FromContext(ctx).Error(err, "Connections to former servers cannot be ended completely, clients come back late")
	}
	interfaces, err := reconnector.OpenInterfaces()
	if err != nil {
		return err
	}
	defer interfaces.Close()
	informers, err := reconnector.NewInformers(settings.PodNamespace, client, exportClient)
	if err != nil {
		return err
	}

	metrics := reconnector.NewMetrics()
	agent := reconnector.NewAgent(kernel, kernel, kernel, informers, metrics)
	publisher := reconnector.NewPublisher(settings, interfaces,
		client.CoreV1().ConfigMaps(settings.PodNamespace), client.CoreV1().Nodes(), metrics)
	go func() {
		if err := metrics.Serve(ctx, settings.HTTPEndpoint); err != nil {
			klog.FromContext(ctx).Error(err, "Metrics are not served")
		}
	}()
	go publisher.Run(ctx)
	if err := informers.Start(ctx); err != nil {
		return err
	}
	if err := informers.Notify(agent.Observe, agent.Forget); err != nil {
		return err
	}
	agent.Run(ctx)
	return nil
}
