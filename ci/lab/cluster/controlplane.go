package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const etcdAddress = "http://127.0.0.1:2379"

// The control plane's processes, in the order of their start.
const (
	etcd              = "etcd"
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// component returns the command of a Kubernetes component: the binary chooses by
// the name that it is called by.
func (c *Cluster) component(name string) string { return c.config.path("bin", name) }

func (c *Cluster) linkComponents() error {
	directory := c.config.path("bin")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	for _, name := range []string{etcd, apiServer, controllerManager, scheduler, "kubectl"} {
		if err := os.Symlink(c.config.Kube, filepath.Join(directory, name)); err != nil && !os.IsExist(err) {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}

// startControlPlane starts etcd and the API server, which retries until etcd
// answers. The other two give up after a few seconds without an API server, so
// they are started when it is ready.
func (c *Cluster) startControlPlane(keys *pki) error {
	directory := c.config.path("pki")
	if err := keys.write(directory); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	configs := map[string]Identity{
		"admin": keys.admin, controllerManager: keys.controller, scheduler: keys.scheduler,
	}
	for name, identity := range configs {
		if err := writeKubeconfig(c.kubeconfigPath(name), keys.authority.Certificate, identity); err != nil {
			return fmt.Errorf("write kubeconfig of %s: %w", name, err)
		}
	}
	return c.startAll(c.stores())
}

func (c *Cluster) startAll(processes []Process) error {
	for _, p := range processes {
		if err := c.Start(p); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) kubeconfigPath(name string) string { return c.config.path(name + ".kubeconfig") }

// stores returns the processes that hold the cluster's objects.
func (c *Cluster) stores() []Process {
	key := func(name string) string { return c.config.path("pki", name) }
	return []Process{
		{Name: etcd, Command: []string{c.component(etcd),
			"--data-dir=" + c.config.path("etcd"),
			// The data does not outlive the laboratory.
			"--unsafe-no-fsync",
			"--listen-client-urls=" + etcdAddress,
			"--advertise-client-urls=" + etcdAddress,
			"--listen-peer-urls=http://127.0.0.1:2380",
			"--log-level=warn",
		}},
		{Name: apiServer, Command: []string{c.component(apiServer),
			"--etcd-servers=" + etcdAddress,
			"--bind-address=0.0.0.0",
			"--advertise-address=" + HostAddress,
			fmt.Sprintf("--secure-port=%d", APIServerPort),
			"--tls-cert-file=" + key("apiserver.crt"),
			"--tls-private-key-file=" + key("apiserver.key"),
			"--client-ca-file=" + key("ca.crt"),
			"--kubelet-client-certificate=" + key("kubelet-client.crt"),
			"--kubelet-client-key=" + key("kubelet-client.key"),
			"--kubelet-certificate-authority=" + key("ca.crt"),
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-key-file=" + key("service-account"),
			"--service-account-signing-key-file=" + key("service-account"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-cluster-ip-range=" + ServiceNetwork,
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true",
		}},
	}
}

// controllers returns the processes that act on the cluster's objects.
func (c *Cluster) controllers() []Process {
	key := func(name string) string { return c.config.path("pki", name) }
	return []Process{
		{Name: controllerManager, Command: []string{c.component(controllerManager),
			"--kubeconfig=" + c.kubeconfigPath(controllerManager),
			"--authentication-kubeconfig=" + c.kubeconfigPath(controllerManager),
			"--authorization-kubeconfig=" + c.kubeconfigPath(controllerManager),
			"--bind-address=127.0.0.1",
			"--leader-elect=false",
			"--service-account-private-key-file=" + key("service-account"),
			"--root-ca-file=" + key("ca.crt"),
			"--use-service-account-credentials=true",
			"--cluster-signing-cert-file=" + key("ca.crt"),
			"--cluster-signing-key-file=" + key("ca.key"),
			"--node-monitor-period=1s",
			"--node-monitor-grace-period=20s",
		}},
		{Name: scheduler, Command: []string{c.component(scheduler),
			"--kubeconfig=" + c.kubeconfigPath(scheduler),
			"--authentication-kubeconfig=" + c.kubeconfigPath(scheduler),
			"--authorization-kubeconfig=" + c.kubeconfigPath(scheduler),
			"--bind-address=127.0.0.1",
			"--leader-elect=false",
		}},
	}
}

// waitForControlPlane starts the controllers as soon as the API server is ready
// and returns when pods can be created: the controller manager has made the first
// service account. That the scheduler runs shows when it schedules.
func (c *Cluster) waitForControlPlane(ctx context.Context) error {
	clients, err := kubernetes.NewForConfig(c.rest)
	if err != nil {
		return err
	}
	err = poll(ctx, func(ctx context.Context) error {
		for _, p := range c.stores() {
			if !c.Running(p.Name) {
				return permanent(fmt.Errorf("%s has ended, see %s", p.Name, c.LogPath(p.Name)))
			}
		}
		_, err := clients.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	c.progress("the API server is ready")
	if err := c.startAll(c.controllers()); err != nil {
		return err
	}
	err = poll(ctx, func(ctx context.Context) error {
		_, err := clients.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the controller manager: %w", err)
	}
	c.progress("the controller manager works")
	return nil
}

// restConfig returns the administrator's access to the API server, by
// connections that are made inside the cluster's network namespace.
func (c *Cluster) restConfig(keys *pki) *rest.Config {
	return &rest.Config{
		Host: fmt.Sprintf("https://%s:%d", HostAddress, APIServerPort),
		TLSClientConfig: rest.TLSClientConfig{
			CAData: keys.authority.Certificate, CertData: keys.admin.Certificate, KeyData: keys.admin.Key,
		},
		Dial:  Dialer(c.config.Name),
		QPS:   200,
		Burst: 400,
		// A proxy of the machine knows nothing of the cluster's addresses.
		Proxy: noProxy,
	}
}

const pollInterval = 100 * time.Millisecond

// permanentError ends a poll.
type permanentError struct{ error }

func permanent(err error) error { return permanentError{err} }

// poll calls f until it returns nil or a permanent error or ctx ends; then the
// last error is returned.
func poll(ctx context.Context, f func(ctx context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(attempt)
		cancel()
		if err == nil {
			return nil
		}
		var final permanentError
		if errors.As(err, &final) {
			return final.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pollInterval):
		}
	}
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }
