// Command csi-node-driver-registrar tells kubelet that a CSI driver runs on its
// node. It stands in for the Kubernetes project's program of that name, with the
// flags that manifests use: it serves kubelet's plugin registration API
// (k8s.io/kubelet/pkg/apis/pluginregistration/v1) on a socket that kubelet finds.
//
// It does not do what the real one adds: metrics, a health endpoint, Windows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type options struct {
	csiAddress       string
	kubeletPath      string
	registrationPath string
	timeout          time.Duration
}

func main() {
	klog.InitFlags(nil)
	var o options
	flag.StringVar(&o.csiAddress, "csi-address", "/run/csi/socket", "socket of the CSI driver")
	flag.StringVar(&o.kubeletPath, "kubelet-registration-path", "", "the same socket as kubelet sees it")
	flag.StringVar(&o.registrationPath, "plugin-registration-path", "/registration", "folder that kubelet watches")
	flag.DurationVar(&o.timeout, "timeout", time.Second, "longest wait for one answer of the driver")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		klog.ErrorS(err, "Registration failed")
		os.Exit(1)
	}
}

// run asks the driver for its name, and answers kubelet until ctx ends, or
// kubelet says that it does not want the driver: then the container's restart
// tries again.
func run(ctx context.Context, o options) error {
	if o.kubeletPath == "" {
		return errors.New("--kubelet-registration-path is required")
	}
	name, err := driverName(ctx, o)
	if err != nil {
		return err
	}
	socket := filepath.Join(o.registrationPath, name+"-reg.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for kubelet: %w", err)
	}
	server := grpc.NewServer()
	registrar := &registrar{name: name, endpoint: o.kubeletPath, refused: make(chan error, 1)}
	registration.RegisterRegistrationServer(server, registrar)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	klog.InfoS("Waiting for kubelet", "driver", name, "socket", socket)

	select {
	case <-ctx.Done():
		server.GracefulStop()
		return nil
	case err := <-registrar.refused:
		return err
	case err := <-served:
		return fmt.Errorf("serve kubelet: %w", err)
	}
}

// driverName asks the driver who it is, until it answers.
func driverName(ctx context.Context, o options) (string, error) {
	connection, err := grpc.NewClient("unix://"+o.csiAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", fmt.Errorf("connect to the CSI driver: %w", err)
	}
	defer connection.Close()
	client := csi.NewIdentityClient(connection)
	for {
		attempt, cancel := context.WithTimeout(ctx, o.timeout)
		answer, err := client.GetPluginInfo(attempt, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return answer.GetName(), nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("ask the CSI driver for its name: %w", ctx.Err())
		}
		klog.InfoS("The CSI driver does not answer yet", "reason", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(o.timeout):
		}
	}
}

// registrar answers kubelet's plugin watcher.
type registrar struct {
	registration.UnsafeRegistrationServer
	name     string
	endpoint string
	// refused receives kubelet's reason for not taking the driver.
	refused chan error
}

// GetInfo tells kubelet what the plugin is and where it listens.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              r.name,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus hears from kubelet whether it took the plugin.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if status.PluginRegistered {
		klog.InfoS("Kubelet registered the driver", "driver", r.name)
	} else {
		select {
		case r.refused <- fmt.Errorf("register %s with kubelet: %s", r.name, status.Error):
		default:
		}
	}
	return &registration.RegistrationStatusResponse{}, nil
}
