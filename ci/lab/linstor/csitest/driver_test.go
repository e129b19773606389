// Package csitest runs the unmodified LINSTOR CSI driver against the LINSTOR
// stand-in: what the driver asks and gets must be what it asks and gets of the
// real server.
package csitest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/linbit/linstor-rwx/ci/lab/build"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/linstortest"
)

// BinaryVariable names a linstor-csi to use in place of the built one.
const BinaryVariable = "LINSTOR_CSI_BINARY"

var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(BinaryVariable); path != "" {
		return path, nil
	}
	cache, err := build.OpenCache(os.Stderr)
	if err != nil {
		return "", err
	}
	tool, err := build.FindTool("linstor-csi")
	if err != nil {
		return "", err
	}
	return tool.Get(context.Background(), cache)
})

// driver is a running linstor-csi with the LINSTOR it talks to.
type driver struct {
	*linstortest.Cluster
	csi.ControllerClient
	node  csi.NodeClient
	t     *testing.T
	asked int // requests before the current CSI call
}

// start runs linstor-csi with short caches, or with its default ones.
func start(t *testing.T, defaultCaches bool) *driver {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatalf("get linstor-csi: %v", err)
	}
	cluster := linstortest.Start(t, 0)
	dir, err := os.MkdirTemp("", "csi") //nolint:usetesting // a socket's path must be shorter than TempDir's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	args := []string{"--csi-endpoint=" + endpoint, "--node=n2", "--linstor-endpoint=" + cluster.URL, "--property-namespace=Aux/topology", "--label-by-storage-pool=false"}
	if !defaultCaches {
		args = append(args, "--resource-cache-timeout=1ms", "--node-cache-timeout=1ms")
	}
	command := exec.Command(program, args...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatalf("start linstor-csi: %v", err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("linstor-csi said:\n%s", text)
		}
	})
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	d := &driver{Cluster: cluster, ControllerClient: csi.NewControllerClient(connection), node: csi.NewNodeClient(connection), t: t}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := csi.NewIdentityClient(connection).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("probe linstor-csi: %v", err)
	}
	return d
}

func (d *driver) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// mark begins a new list of requests; requests returns it, one "METHOD path"
// for each, without the driver's list parameters.
func (d *driver) mark() {
	if all := d.Requests(0); len(all) > 0 {
		d.asked = all[len(all)-1].Number
	}
}

var ballast = regexp.MustCompile(`\?cached=true&limit=0&offset=0$`)

func (d *driver) requests() []string {
	var out []string
	for _, r := range d.Requests(d.asked) {
		out = append(out, r.Method+" "+strings.TrimPrefix(ballast.ReplaceAllString(r.URI, ""), "/v1/"))
	}
	return out
}

// asks compares the requests since mark. Two spellings are one: list calls
// that the driver's cache makes depend on time, so they are left out.
func (d *driver) asks(want ...string) {
	d.t.Helper()
	var got []string
	for _, r := range d.requests() {
		switch r {
		case "GET nodes", "GET view/resources", "GET view/snapshots", "GET view/storage-pools":
		default:
			got = append(got, r)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		d.t.Errorf("requests:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

const gib = 1 << 30

func capability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	}
}

var (
	rwo = capability(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	rwx = capability(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
)

func createRequest(name string, size int64) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*csi.VolumeCapability{rwo},
		Parameters: map[string]string{
			"linstor.csi.linbit.com/autoPlace": "2", "linstor.csi.linbit.com/storagePool": "pool",
			"linstor.csi.linbit.com/resourceGroup": "my-rg",
			"csi.storage.k8s.io/pvc/name":          "data", "csi.storage.k8s.io/pvc/namespace": "ns",
		},
	}
}

func (d *driver) context(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(d.t.Context(), limit)
	d.t.Cleanup(cancel)
	return ctx
}

// create makes a volume of 1 GiB.
func (d *driver) create(name string) *csi.Volume {
	d.t.Helper()
	answer, err := d.CreateVolume(d.context(30*time.Second), createRequest(name, gib))
	d.ok(err)
	return answer.GetVolume()
}

// definition returns the dump of a resource definition, nil if it is not there.
func (d *driver) definition(name string) *control.Definition {
	for _, rd := range d.State().Definitions {
		if rd.Name == name {
			return &rd
		}
	}
	return nil
}
