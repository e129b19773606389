// Command lab-storage runs the laboratory's storage on the host: the LINSTOR
// stand-in, the DRBD stand-in with its block exports, and the control API for
// fault injection and inspection (package linstor/control has the client).
// Everything but the volumes' data is in memory and lost at exit.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/linbit/linstor-rwx/ci/lab/linstor"
)

type options struct {
	stateDir       string
	linstorAddress string
	controlAddress string
	nbdAddress     string
	nodes          []string
	consumers      []string
	pools          []string
	version        string
	inUseDelay     time.Duration
}

func main() {
	var o options
	pflag.StringVar(&o.stateDir, "state-dir", "", "directory for backing files and logs; volumes and snapshots in it are removed at start")
	pflag.StringVar(&o.linstorAddress, "linstor-address", "127.0.0.1:3370", "address of LINSTOR's REST API")
	pflag.StringVar(&o.controlAddress, "control-address", "127.0.0.1:3371", "address of the control API, also used by the nodes' drbdsetup")
	pflag.StringVar(&o.nbdAddress, "nbd-address", "127.0.0.1:10809", "address of the block exports")
	pflag.StringSliceVar(&o.nodes, "nodes", []string{"n1", "n2", "n3"}, "storage nodes as NAME or NAME=ADDRESS; n1 is 10.89.0.11 and so on")
	pflag.StringSliceVar(&o.consumers, "consumers", nil, "further LINSTOR nodes, without storage pools")
	pflag.StringSliceVar(&o.pools, "pools", []string{"pool:LVM_THIN:20Gi", "thick:LVM:20Gi"}, "storage pools of each storage node as NAME:KIND:SIZE")
	pflag.StringVar(&o.version, "linstor-version", linstor.DefaultVersion, "version that LINSTOR claims and behaves as")
	pflag.DurationVar(&o.inUseDelay, "in-use-delay", linstor.DefaultInUseDelay, "how late LINSTOR knows that a resource is in use")
	pflag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab-storage:", err)
		os.Exit(1)
	}
}

// nodeOptions turns the flags into LINSTOR's nodes.
func (o options) nodeOptions() ([]linstor.NodeOptions, error) {
	var pools []linstor.PoolOptions
	for _, text := range o.pools {
		fields := strings.Split(text, ":")
		if len(fields) != 3 {
			return nil, fmt.Errorf("pool %q is not NAME:KIND:SIZE", text)
		}
		size, err := resource.ParseQuantity(fields[2])
		if err != nil {
			return nil, fmt.Errorf("size of pool %q: %w", text, err)
		}
		pools = append(pools, linstor.PoolOptions{Name: fields[0], Kind: fields[1], TotalKiB: size.Value() >> 10})
	}
	var out []linstor.NodeOptions
	add := func(text string, pools []linstor.PoolOptions) {
		name, address, ok := strings.Cut(text, "=")
		if !ok {
			var number int
			_, _ = fmt.Sscanf(name, "n%d", &number)
			address = net.IPv4(10, 89, 0, byte(10+number)).String()
		}
		out = append(out, linstor.NodeOptions{
			Name: name, Address: address, Pools: pools,
			Props: map[string]string{"Aux/topology/kubernetes.io/hostname": name, "Aux/topology/linbit.com/hostname": name},
		})
	}
	for _, n := range o.nodes {
		add(n, pools)
	}
	for _, n := range o.consumers {
		add(n, nil)
	}
	return out, nil
}

// prepareStateDir removes what an earlier run left: its database is gone, so
// its volumes belong to nobody.
func (o options) prepareStateDir() error {
	if o.stateDir == "" {
		return fmt.Errorf("--state-dir is required")
	}
	for _, dir := range []string{"volumes", "snapshots"} {
		if err := os.RemoveAll(filepath.Join(o.stateDir, dir)); err != nil {
			return fmt.Errorf("empty state directory: %w", err)
		}
	}
	return nil
}
