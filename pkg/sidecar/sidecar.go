// Package sidecar is the wiring that rwx-provisioner and rwx-resizer have in
// common with the upstream sidecars they replace: client configuration, the HTTP
// endpoint and leader election, by the same flags.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/kubernetes-csi/csi-lib-utils/leaderelection"
	"github.com/kubernetes-csi/csi-lib-utils/standardflags"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Version is set by the linker (-X github.com/linbit/linstor-rwx/pkg/sidecar.Version=...).
var Version = "unknown"

// ClientConfig builds the client configuration from --master, --kubeconfig,
// KUBECONFIG or the pod's service account, with the rates of the common flags.
func ClientConfig(master string) (*rest.Config, error) {
	kubeconfig := standardflags.Configuration.KubeConfig
	if fromEnvironment := os.Getenv("KUBECONFIG"); fromEnvironment != "" {
		kubeconfig = fromEnvironment
	}
	config, err := buildConfig(master, kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("build client configuration: %w", err)
	}
	config.QPS = float32(standardflags.Configuration.KubeAPIQPS)
	config.Burst = standardflags.Configuration.KubeAPIBurst
	return config, nil
}

func buildConfig(master, kubeconfig string) (*rest.Config, error) {
	if master == "" && kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags(master, kubeconfig)
}

// KubeClient returns a client of the built-in types, which speaks protobuf.
func KubeClient(config *rest.Config) (*kubernetes.Clientset, error) {
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(protobuf)
	if err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	return client, nil
}

// Address returns where to serve metrics and health, empty for nowhere.
func Address() (string, error) {
	metrics, http := standardflags.Configuration.MetricsAddress, standardflags.Configuration.HttpEndpoint
	if metrics != "" && http != "" {
		return "", errors.New("only one of --metrics-address and --http-endpoint can be set")
	}
	return metrics + http, nil
}

// AddProfiles adds Go's profiles to mux.
func AddProfiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// Serve serves mux in the background, whether or not this process leads. The
// process ends if it cannot: a sidecar that looks dead to its probes must not go
// on leading.
func Serve(address string, mux *http.ServeMux) {
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		klog.InfoS("Serving metrics and health", "address", address)
		err := server.ListenAndServe()
		klog.ErrorS(err, "HTTP server stopped", "address", address)
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}()
}

// Lead calls run when this process leads, or at once without --leader-election,
// and returns when run does. With releaseOnExit (the feature gate
// ReleaseLeaderElectionOnExit) a SIGTERM ends run's context and the lease is given
// back; without, as upstream, a SIGTERM ends the process and the lease runs out.
func Lead(ctx context.Context, config *rest.Config, lease string, mux *http.ServeMux, releaseOnExit bool, run func(ctx context.Context)) {
	work := run
	if releaseOnExit {
		signalled, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		ended, end := context.WithCancel(ctx)
		defer end()
		ctx = ended
		work = func(context.Context) {
			defer end() // only now: the lease must outlast the work
			run(signalled)
		}
	}
	leaderelection.RunWithLeaderElection(ctx, config, standardflags.Configuration, work, lease, mux, releaseOnExit)
}
