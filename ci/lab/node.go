package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/linbit/linstor-rwx/ci/lab/cluster"
	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// Network says which connections of a node a fault concerns. The laboratory's
// own network, by which commands reach a node, is never cut.
type Network int

// The networks of a node.
const (
	KubernetesNetwork Network = 1 << iota
	DRBDNetwork
	BothNetworks = KubernetesNetwork | DRBDNetwork
)

// Node is a node of the laboratory.
type Node struct {
	cluster.Node

	lab   *Lab
	guest *guest.Client
}

// Node returns the node of that name.
func (l *Lab) Node(name string) (*Node, error) {
	node, err := l.cluster.Node(name)
	if err != nil {
		return nil, err
	}
	return &Node{Node: node, lab: l, guest: l.cluster.Guest(node)}, nil
}

// Nodes returns all nodes.
func (l *Lab) Nodes() []*Node {
	var nodes []*Node
	for _, node := range l.cluster.Config().Nodes {
		nodes = append(nodes, &Node{Node: node, lab: l, guest: l.cluster.Guest(node)})
	}
	return nodes
}

// Exec runs a command on the node, as root, and returns its standard output. A
// code other than 0 is a *guest.ExitError.
func (n *Node) Exec(ctx context.Context, args ...string) (string, error) {
	out, err := n.guest.Exec(ctx, args...)
	if err != nil {
		return out, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return out, nil
}

// Shell runs a line of shell on the node, like Exec.
func (n *Node) Shell(ctx context.Context, line string) (string, error) {
	return n.Exec(ctx, "/bin/sh", "-c", line)
}

// Stream runs a command on the node and copies its output while it comes.
func (n *Node) Stream(ctx context.Context, command guest.Command, stdout, stderr io.Writer) (int, error) {
	return n.guest.Stream(ctx, command, stdout, stderr)
}

// ReadFile returns the content of a file of the node.
func (n *Node) ReadFile(ctx context.Context, path string) ([]byte, error) {
	return n.guest.ReadFile(ctx, path)
}

// WriteFile replaces a file of the node.
func (n *Node) WriteFile(ctx context.Context, path string, mode uint32, content io.Reader) error {
	return n.guest.WriteFile(ctx, path, mode, content)
}

// Running says whether the node is switched on.
func (n *Node) Running() bool { return n.lab.cluster.Running(n.Name) }

// WaitReady returns when Kubernetes calls the node Ready.
func (n *Node) WaitReady(ctx context.Context) error { return n.lab.cluster.WaitReady(ctx, n.Name) }

// PowerOff cuts the node's power: nothing is synced, nobody is told. The DRBD
// stand-in learns it right after, and then behaves as peers that have to notice.
func (n *Node) PowerOff(ctx context.Context) error {
	if err := n.lab.cluster.PowerOff(n.Name); err != nil {
		return err
	}
	return n.tellStorage(ctx, (*control.Client).PowerOff)
}

// PowerOn boots the node with its old disk. It does not wait: see WaitReady.
func (n *Node) PowerOn(ctx context.Context) error {
	if err := n.tellStorage(ctx, (*control.Client).PowerOn); err != nil {
		return err
	}
	return n.lab.cluster.PowerOn(n.Name)
}

// ShutDown shuts the node down in good order: kubelet ends its pods, the disk is
// synced, and it powers off. It returns when the node is off.
func (n *Node) ShutDown(ctx context.Context) error {
	if err := n.lab.cluster.ShutDown(ctx, n.Name); err != nil {
		return err
	}
	return n.tellStorage(ctx, (*control.Client).PowerOff)
}

// Freeze stops the whole node with its DRBD, as if its machine hung.
func (n *Node) Freeze(ctx context.Context) error {
	if err := n.lab.cluster.Freeze(n.Name); err != nil {
		return err
	}
	return n.tellStorage(ctx, (*control.Client).Pause)
}

// Thaw ends a Freeze.
func (n *Node) Thaw(ctx context.Context) error {
	if err := n.tellStorage(ctx, (*control.Client).Unpause); err != nil {
		return err
	}
	return n.lab.cluster.Thaw(n.Name)
}

func (n *Node) tellStorage(ctx context.Context, tell func(*control.Client, context.Context, string) error) error {
	if !n.lab.hasStorage() {
		return nil
	}
	return tell(n.lab.Storage(), ctx, n.Name)
}

// CutNetwork cuts the node off from all others. Cutting twice is no error.
func (n *Node) CutNetwork(ctx context.Context, network Network) error {
	return n.connect(ctx, network, false)
}

// Heal undoes every cut of this node.
func (n *Node) Heal(ctx context.Context) error { return n.connect(ctx, BothNetworks, true) }

func (n *Node) connect(ctx context.Context, network Network, connected bool) error {
	var failures []error
	if network&KubernetesNetwork != 0 {
		failures = append(failures, n.lab.cluster.Connect(n.Name, connected))
	}
	if network&DRBDNetwork != 0 && n.lab.hasStorage() {
		failures = append(failures, n.lab.connectDRBD(ctx, n.Name, connected))
	}
	return errors.Join(failures...)
}

// KillProcess sends SIGKILL to every process on the node whose command line
// matches the regular expression. None is an error: a fault that did not happen
// proves nothing.
func (n *Node) KillProcess(ctx context.Context, pattern string) error {
	return n.signal(ctx, "KILL", pattern)
}

// Pause stops every process whose command line matches, Resume lets them go on.
func (n *Node) Pause(ctx context.Context, pattern string) error {
	return n.signal(ctx, "STOP", pattern)
}

// Resume ends a Pause.
func (n *Node) Resume(ctx context.Context, pattern string) error {
	return n.signal(ctx, "CONT", pattern)
}

func (n *Node) signal(ctx context.Context, signal, pattern string) error {
	if _, err := n.Exec(ctx, "pkill", "-"+signal, "-f", "--", pattern); err != nil {
		return fmt.Errorf("send %s to %q: %w", signal, pattern, err)
	}
	return nil
}

// Processes returns the process ids whose command line matches the regular
// expression.
func (n *Node) Processes(ctx context.Context, pattern string) ([]string, error) {
	out, err := n.Exec(ctx, "pgrep", "-f", "--", pattern)
	var exit *guest.ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return nil, nil
	}
	return strings.Fields(out), err
}
