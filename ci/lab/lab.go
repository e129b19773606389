// Package lab is the laboratory: a Kubernetes cluster on one machine whose
// nodes have a real kernel, with stand-ins for LINSTOR and DRBD, and the means
// to break any part of it. Tests and the lab command use it; docs/laboratory.md
// says what is real in it.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"k8s.io/client-go/rest"

	"github.com/linbit/linstor-rwx/ci/lab/cluster"
)

// DirectoryVariable names the environment variable that says where the running
// laboratory keeps its files.
const DirectoryVariable = "LINSTOR_RWX_LAB"

const (
	defaultName      = "linstor-rwx-lab"
	defaultDirectory = "/var/tmp/linstor-rwx-lab"
)

// Where the stand-ins listen, and where programs on nodes reach them.
const (
	// LINSTORAddress is the LINSTOR controller's REST API.
	LINSTORAddress = cluster.HostAddress + ":3370"
	// ControlAddress is the stand-ins' own API: faults and questions.
	ControlAddress = cluster.ControlAddress + ":3371"
	// nbdAddress is where nodes get their block devices from.
	nbdAddress = cluster.ControlAddress + ":10809"
	// nodeStoragePort is where the DRBD stand-in's node side listens.
	nodeStoragePort = "7001"
)

// Options says what laboratory to bring up. The zero value is the usual one.
type Options struct {
	// Name tells laboratories on one machine apart; it names the network
	// namespace. Default "linstor-rwx-lab".
	Name string
	// Directory holds the files of the run. Default $LINSTOR_RWX_LAB, else
	// /var/tmp/linstor-rwx-lab.
	Directory string
	// Nodes, by default three storage nodes n1 to n3 and one other, n4.
	Nodes []cluster.Node
	// Kube replaces the Kubernetes binary that would be built.
	Kube string
	// Images replaces the product's images and those it needs, for work on the
	// laboratory itself: tar files, the first of which is the pause image
	// PauseImage.
	Images     []string
	PauseImage string
	// NoStorage leaves the stand-ins for LINSTOR and DRBD out.
	NoStorage bool
	// Progress receives one line per step. Default: nothing is said.
	Progress io.Writer
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = defaultName
	}
	if o.Directory == "" {
		o.Directory = Directory()
	}
	if len(o.Nodes) == 0 {
		o.Nodes = DefaultNodes()
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	return o
}

// Directory returns where the laboratory of this environment keeps its files.
func Directory() string {
	if directory := os.Getenv(DirectoryVariable); directory != "" {
		return directory
	}
	return defaultDirectory
}

const (
	storageMemoryMiB  = 1536
	consumerMemoryMiB = 1024
)

// DefaultNodes returns three storage nodes and one node that only consumes.
func DefaultNodes() []cluster.Node {
	return []cluster.Node{StorageNode("n1"), StorageNode("n2"), StorageNode("n3"), ConsumerNode("n4")}
}

// StorageNode describes a node that can hold replicas.
func StorageNode(name string) cluster.Node {
	return cluster.Node{Name: name, Storage: true, MemoryMiB: storageMemoryMiB}
}

// ConsumerNode describes a node that holds no replicas.
func ConsumerNode(name string) cluster.Node {
	return cluster.Node{Name: name, MemoryMiB: consumerMemoryMiB}
}

// Lab is a running laboratory.
type Lab struct {
	cluster *cluster.Cluster
}

// Up builds what is missing in the cache, removes what an earlier run left and
// brings the laboratory up. It returns when all nodes are Ready.
func Up(ctx context.Context, options Options) (*Lab, error) {
	options = options.withDefaults()
	if os.Geteuid() != 0 {
		return nil, errors.New("bring the laboratory up: it needs root, for network namespaces and disk images")
	}
	progress := newProgress(options.Progress)
	parts, err := prepare(ctx, options, progress)
	if err != nil {
		return nil, fmt.Errorf("prepare the laboratory: %w", err)
	}
	progress.say("everything is built, starting")
	config := parts.config(options)
	config.Progress = progress.say
	c, err := cluster.Up(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("bring the laboratory up: %w", err)
	}
	return &Lab{cluster: c}, nil
}

// Attach returns the laboratory that runs in this environment.
func Attach() (*Lab, error) {
	c, err := cluster.Attach(Directory())
	if err != nil {
		return nil, fmt.Errorf("attach to the laboratory: %w; bring it up first", err)
	}
	return &Lab{cluster: c}, nil
}

// Down ends the laboratory in options.Directory and removes everything it made
// outside of the build cache. It is no error if there is none.
func Down(options Options) error {
	options = options.withDefaults()
	if err := cluster.Down(options.Name, options.Directory); err != nil {
		return fmt.Errorf("take the laboratory down: %w", err)
	}
	return nil
}

// RESTConfig returns the administrator's access to the API server. It works
// everywhere on this machine.
func (l *Lab) RESTConfig() *rest.Config { return l.cluster.RESTConfig() }

// Kubeconfig returns a file with the administrator's access, for programs that
// run inside the laboratory's network namespace.
func (l *Lab) Kubeconfig() string { return l.cluster.AdminKubeconfig() }

// Cluster returns the cluster below: processes, logs, addresses.
func (l *Lab) Cluster() *cluster.Cluster { return l.cluster }

// progress writes lines with the seconds since the start.
type progress struct {
	started time.Time
	out     io.Writer
}

func newProgress(out io.Writer) *progress { return &progress{started: time.Now(), out: out} }

func (p *progress) say(format string, arguments ...any) {
	fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.started).Seconds(), fmt.Sprintf(format, arguments...))
}

// Write makes a progress the writer of the build cache's lines.
func (p *progress) Write(line []byte) (int, error) {
	p.say("%s", trimNewline(line))
	return len(line), nil
}

func trimNewline(line []byte) []byte {
	for len(line) > 0 && line[len(line)-1] == '\n' {
		line = line[:len(line)-1]
	}
	return line
}
