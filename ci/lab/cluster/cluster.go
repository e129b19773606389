package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
)

// configFile keeps the Config of a running cluster, so that other processes can
// attach to it. Its presence means that a cluster was started here.
const configFile = "cluster.json"

// Cluster is a cluster that is being started or that runs.
type Cluster struct {
	config Config
	rest   *rest.Config
}

// Up starts a cluster: network, control plane and all nodes at once. It returns
// when all nodes are Ready. What is left of an earlier run in the same directory
// is removed first. If it fails, what was started is left for inspection, until
// Down or the next Up.
func Up(ctx context.Context, config Config) (*Cluster, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	if err := Down(config.Name, config.Directory); err != nil {
		return nil, fmt.Errorf("remove the earlier run: %w", err)
	}
	c := &Cluster{config: config}
	if err := c.holdBase(); err != nil {
		return nil, err
	}
	if err := c.writeConfig(); err != nil {
		return nil, err
	}
	if err := c.linkComponents(); err != nil {
		return nil, err
	}
	if err := ensureNamespace(config.Name); err != nil {
		return nil, err
	}
	keys, err := newPKI(config.Nodes)
	if err != nil {
		return nil, err
	}
	c.rest = c.restConfig(keys)
	if err := c.startControlPlane(keys); err != nil {
		return nil, fmt.Errorf("start the control plane: %w", err)
	}
	if err := c.startAll(config.Processes); err != nil {
		return nil, err
	}
	for _, node := range config.Nodes {
		if err := c.writeNodeFiles(node, keys); err != nil {
			return nil, fmt.Errorf("write files of %s: %w", node.Name, err)
		}
		if err := c.startGuest(node, false); err != nil {
			return nil, fmt.Errorf("start node %s: %w", node.Name, err)
		}
	}
	if len(config.Nodes) > 0 {
		if err := routeServices(config.Name, config.Nodes[0]); err != nil {
			return nil, err
		}
	}
	if err := c.waitForControlPlane(ctx); err != nil {
		return nil, err
	}
	for _, node := range config.Nodes {
		if err := c.WaitReady(ctx, node.Name); err != nil {
			return nil, err
		}
		c.progress("node %s is Ready", node.Name)
	}
	return c, nil
}

// Attach returns the cluster that another process started in directory.
func Attach(directory string) (*Cluster, error) {
	content, err := os.ReadFile(filepath.Join(directory, configFile))
	if err != nil {
		return nil, fmt.Errorf("find a cluster: %w", err)
	}
	c := &Cluster{}
	if err := json.Unmarshal(content, &c.config); err != nil {
		return nil, fmt.Errorf("read %s: %w", configFile, err)
	}
	if c.rest, err = clientcmd.BuildConfigFromFlags("", c.AdminKubeconfig()); err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
	c.rest.Dial = Dialer(c.config.Name)
	c.rest.Proxy = noProxy
	c.rest.QPS, c.rest.Burst = 200, 400
	return c, nil
}

// Down ends all processes of the cluster in directory and removes its network
// and files, however little of it exists.
func Down(name, directory string) error {
	c := &Cluster{config: Config{Name: name, Directory: directory}}
	if attached, err := Attach(directory); err == nil {
		c = attached
	}
	names, err := c.processes()
	if err != nil {
		return err
	}
	var failures []error
	for _, name := range names {
		failures = append(failures, c.Kill(name))
	}
	failures = append(failures, c.killAll(), removeNamespace(c.config.Name))
	if c.config.Name != name {
		failures = append(failures, removeNamespace(name))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return os.RemoveAll(directory)
}

// Config returns what the cluster was made of.
func (c *Cluster) Config() Config { return c.config }

// RESTConfig returns the administrator's access. It works outside of the
// cluster's network namespace too.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.rest) }

// AdminKubeconfig returns the file with the administrator's access, for programs
// that run inside the network namespace.
func (c *Cluster) AdminKubeconfig() string { return c.kubeconfigPath("admin") }

// Kubectl returns the kubectl of the cluster's version.
func (c *Cluster) Kubectl() string { return c.component("kubectl") }

// Node returns the node of that name.
func (c *Cluster) Node(name string) (Node, error) {
	for _, n := range c.config.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("there is no node %q", name)
}

// Guest returns access to the commands and files of a node.
func (c *Cluster) Guest(node Node) *guest.Client {
	return guest.NewClient(node.ControlAddress(), Dialer(c.config.Name))
}

// WaitReady returns when Kubernetes calls the node Ready, and means the boot that
// runs now: after a short power cut it is called Ready all the time.
func (c *Cluster) WaitReady(ctx context.Context, name string) error {
	clients, err := kubernetes.NewForConfig(c.rest)
	if err != nil {
		return err
	}
	err = poll(ctx, func(ctx context.Context) error {
		if !c.Running(name) {
			return permanent(fmt.Errorf("its guest has ended, see %s", c.LogPath(name)))
		}
		node, err := clients.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		boot, err := c.bootID(ctx, name)
		if err != nil {
			return err
		}
		if node.Status.NodeInfo.BootID != boot {
			return errors.New("its kubelet has not reported since the boot")
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("not Ready")
	})
	if err != nil {
		return fmt.Errorf("wait for node %s: %w", name, err)
	}
	return nil
}

func (c *Cluster) bootID(ctx context.Context, name string) (string, error) {
	node, err := c.Node(name)
	if err != nil {
		return "", err
	}
	id, err := c.Guest(node).ReadFile(ctx, "/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// PowerOff cuts a node's power: nothing is synced, nobody is told. Its disk
// stays.
func (c *Cluster) PowerOff(name string) error {
	if _, err := c.Node(name); err != nil {
		return err
	}
	if err := c.Kill(name); err != nil {
		return err
	}
	return c.routeServices()
}

// PowerOn boots a node that was switched off, with its disk. It does not wait.
func (c *Cluster) PowerOn(name string) error {
	node, err := c.Node(name)
	if err != nil {
		return err
	}
	if err := c.startGuest(node, true); err != nil {
		return err
	}
	return c.routeServices()
}

// routeServices keeps the host's way to Services on a node that runs.
func (c *Cluster) routeServices() error {
	for _, node := range c.config.Nodes {
		if c.Running(node.Name) {
			return routeServices(c.config.Name, node)
		}
	}
	return nil
}

// Connect connects a node to the Kubernetes network or cuts it off.
func (c *Cluster) Connect(name string, connected bool) error {
	node, err := c.Node(name)
	if err != nil {
		return err
	}
	return setKubernetesLink(c.config.Name, node, connected)
}

// Freeze stops a whole node as if its machine hung; Thaw lets it go on.
func (c *Cluster) Freeze(name string) error { return c.Signal(name, syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (c *Cluster) Thaw(name string) error { return c.Signal(name, syscall.SIGCONT) }

// Status describes the cluster's processes and interfaces, one line each.
func (c *Cluster) Status() []string {
	names, err := c.processes()
	if err != nil {
		return []string{err.Error()}
	}
	var lines []string
	for _, name := range names {
		state := "ended"
		if c.Running(name) {
			state = "running"
		}
		lines = append(lines, fmt.Sprintf("%-26s %-8s log %s", name, state, c.LogPath(name)))
	}
	links, err := interfaces(c.config.Name)
	if err != nil {
		links = err.Error()
	}
	return append(lines, "interfaces: "+strings.TrimSpace(links))
}

// holdBase gives the base image a name of its own, so that it outlives the
// clearing of a build cache: a node that is switched on again needs it.
func (c *Cluster) holdBase() error {
	if err := os.MkdirAll(c.config.Directory, 0o755); err != nil {
		return err
	}
	held := c.config.path("base.ext4")
	// On another filesystem the image stays where it is.
	if err := os.Link(c.config.Base, held); err == nil {
		c.config.Base = held
	}
	return nil
}

func (c *Cluster) writeConfig() error {
	content, err := json.MarshalIndent(c.config, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.config.path(configFile), content, 0o644)
}

func (c *Cluster) progress(format string, arguments ...any) {
	if c.config.Progress != nil {
		c.config.Progress(format, arguments...)
	}
}

// StopTimeout is how long an orderly shutdown of a guest may take.
const StopTimeout = 3 * time.Minute

// ShutDown asks a node's logind to power off, as an administrator does, and waits
// until it is off. kubelet ends the node's pods before.
func (c *Cluster) ShutDown(ctx context.Context, name string) error {
	node, err := c.Node(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, StopTimeout)
	defer cancel()
	const manager = "org.freedesktop.login1.Manager"
	if _, err := c.Guest(node).Exec(ctx, "dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.login1", "/org/freedesktop/login1", manager+".PowerOff", "boolean:false"); err != nil {
		return fmt.Errorf("shut down %s: %w", name, err)
	}
	err = poll(ctx, func(context.Context) error {
		if c.Running(name) {
			return errors.New("it still runs")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("shut down %s: %w", name, err)
	}
	if err := c.Kill(name); err != nil {
		return err
	}
	return c.routeServices()
}
