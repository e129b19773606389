// Package cluster makes a Kubernetes cluster on one machine: etcd and the
// control plane as processes, and nodes that are user-mode-linux guests, all in
// one network namespace of its own.
//
// It knows nothing of volumes. What the guests' disk holds besides a node's
// programs, and what else runs beside the control plane, is said by its user,
// package lab.
package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
)

// The laboratory's networks. They exist in its own network namespace only, so
// two laboratories with different names do not meet.
const (
	// HostAddress is the host's end of the Kubernetes and DRBD network.
	HostAddress = "10.89.0.1"
	// ControlAddress is the host's end of the laboratory's own network. Fault
	// injection never cuts it: commands and the NBD data path go through it.
	ControlAddress = "10.88.0.1"
	// ServiceNetwork and PodNetwork are Kubernetes' ranges. Every node has the
	// /24 of PodNetwork with its own number.
	ServiceNetwork = "10.96.0.0/16"
	PodNetwork     = "10.244.0.0/16"
	// firstServiceAddress is the ClusterIP of the API server itself.
	firstServiceAddress = "10.96.0.1"
	// APIServerPort is where the API server listens, on HostAddress.
	APIServerPort = 6443

	kubernetesBridge = "br0"
	controlBridge    = "br1"
	prefixLength     = 24
	// firstNodeHost is added to a node's number to get the last byte of its
	// addresses.
	firstNodeHost = 10
	// MaximumNode is the largest number of a node.
	MaximumNode = 9
)

// StorageLabel marks storage nodes; its value is "true".
const StorageLabel = "linstor-rwx.lab/storage"

// Node describes one node. Its name is "n" and a number from 1 to MaximumNode,
// from which all its addresses follow.
type Node struct {
	Name string `json:"name"`
	// Storage nodes carry StorageLabel.
	Storage bool `json:"storage"`
	// MemoryMiB is the guest's memory. The host gives it page by page and never
	// gets it back.
	MemoryMiB int `json:"memoryMiB"`
}

var nodeName = regexp.MustCompile(`^n[1-9]$`)

// Validate refuses nodes that have no addresses.
func (n Node) Validate() error {
	if !nodeName.MatchString(n.Name) {
		return fmt.Errorf("node name %q is not n1 to n%d", n.Name, MaximumNode)
	}
	if n.MemoryMiB < 256 {
		return fmt.Errorf("node %s: %d MiB of memory are not enough", n.Name, n.MemoryMiB)
	}
	return nil
}

// Number returns the number in the node's name.
func (n Node) Number() int {
	number, err := strconv.Atoi(n.Name[1:])
	if err != nil {
		panic(err) // Validate has seen the name
	}
	return number
}

// Address returns the node's address in the Kubernetes and DRBD network.
func (n Node) Address() string { return neighbour(HostAddress, n.Number()) }

// ControlAddress returns the node's address in the laboratory's own network.
func (n Node) ControlAddress() string { return neighbour(ControlAddress, n.Number()) }

// PodNetwork returns the range of the node's pods.
func (n Node) PodNetwork() string { return podNetwork(n.Number()) }

// kubernetesTap and controlTap are the host's ends of the guest's interfaces.
func (n Node) kubernetesTap() string { return n.Name + "-k8s" }
func (n Node) controlTap() string    { return n.Name + "-lab" }

func neighbour(host string, number int) string {
	bytes := netip.MustParseAddr(host).As4()
	bytes[3] = byte(firstNodeHost + number)
	return netip.AddrFrom4(bytes).String()
}

func podNetwork(number int) string {
	bytes := netip.MustParsePrefix(PodNetwork).Addr().As4()
	bytes[2] = byte(number)
	return netip.PrefixFrom(netip.AddrFrom4(bytes), 24).String()
}

// Config is what a cluster is made of.
type Config struct {
	// Name names the network namespace.
	Name string
	// Directory holds everything that belongs to this run; Down removes it.
	Directory string
	// Nodes that exist; all of them are started by Up.
	Nodes []Node
	// Kube is the binary that holds every Kubernetes component.
	Kube string
	// Base is the nodes' disk image; guests see it through copy-on-write files
	// and it must not change while they exist.
	Base string
	// Kernel is the command that boots a guest when the guest's arguments are
	// appended. Base holds its modules. Default: the machine's linux.uml.
	Kernel []string
	// Shim is the library that corrects user-mode-linux's habits.
	Shim string
	// PauseImage is the image of every pod's sandbox; Base holds it.
	PauseImage string
	// Processes run beside the control plane; they start before the nodes.
	Processes []Process
	// StorageProgram, if not empty, is the command line that runs on every
	// node before kubelet; the node's name and addresses replace {name},
	// {address} and {control}.
	StorageProgram []string
	// Progress is called with one line per step that took noticeable time.
	Progress func(format string, arguments ...any) `json:"-"`
}

func (c *Config) validate() error {
	if c.Name == "" || c.Directory == "" {
		return errors.New("a cluster needs a name and a directory")
	}
	seen := map[string]bool{}
	for _, n := range c.Nodes {
		if err := n.Validate(); err != nil {
			return err
		}
		if seen[n.Name] {
			return fmt.Errorf("node %s is given twice", n.Name)
		}
		seen[n.Name] = true
	}
	return nil
}

func (c *Config) path(elements ...string) string {
	return filepath.Join(append([]string{c.Directory}, elements...)...)
}
