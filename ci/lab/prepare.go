package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/linbit/linstor-rwx/ci/lab/build"
	"github.com/linbit/linstor-rwx/ci/lab/cluster"
	"github.com/linbit/linstor-rwx/ci/lab/cluster/disk"
	"github.com/linbit/linstor-rwx/ci/lab/cluster/kernel"
	"github.com/linbit/linstor-rwx/ci/lab/images"
)

// parts is everything that is built before anything is started.
type parts struct {
	kube     string
	kernel   kernel.Kernel
	shim     string
	disk     string
	programs map[string]string
}

// The laboratory's own programs.
const (
	agentProgram = "lab-agent"
	// logindProgram is the stand-in for systemd-logind on a node.
	logindProgram = "lab-logind"
	// storageProgram is the stand-in for LINSTOR and the host's side of the one
	// for DRBD; nodeStorageProgram is its side on a node.
	storageProgram     = "lab-storage"
	nodeStorageProgram = "lab-drbd-node"
)

// kubeLinks are the names by which a node calls the Kubernetes binary.
var kubeLinks = []string{"kubelet", "kube-proxy", "kubectl"}

// prepare builds what is not in the cache.
func prepare(ctx context.Context, options Options, progress *progress) (*parts, error) {
	if err := checkMachine(); err != nil {
		return nil, err
	}
	cache, err := build.OpenCache(progress)
	if err != nil {
		return nil, err
	}
	p := &parts{kube: options.Kube}
	if p.kube == "" {
		tool, err := build.FindTool("kube")
		if err != nil {
			return nil, err
		}
		if p.kube, err = tool.Get(ctx, cache); err != nil {
			return nil, err
		}
	}
	if p.kernel, err = kernel.Get(ctx, cache); err != nil {
		return nil, err
	}
	if p.shim, err = cluster.Shim(ctx, cache); err != nil {
		return nil, err
	}
	programs := []string{agentProgram, logindProgram}
	if !options.NoStorage {
		programs = append(programs, storageProgram, nodeStorageProgram)
	}
	if p.programs, err = build.Programs(ctx, cache, build.Laboratory, programs...); err != nil {
		return nil, err
	}
	base, final, err := diskContents(ctx, cache, options, p)
	if err != nil {
		return nil, err
	}
	baseDisk, err := disk.Base(ctx, cache, p.kernel.Modules, base)
	if err != nil {
		return nil, err
	}
	p.disk, err = disk.Final(ctx, cache, baseDisk, final)
	return p, err
}

// diskContents says what lies on the nodes' disk: what rarely changes, and what
// changes with every edit.
func diskContents(ctx context.Context, cache *build.Cache, options Options, p *parts) (base, final disk.Content, err error) {
	base.Files = map[string]string{"/k8s/kube": p.kube}
	base.Links = map[string]string{}
	for _, name := range kubeLinks {
		base.Links["/k8s/"+name] = "kube"
	}
	final.Files = map[string]string{}
	for _, name := range []string{agentProgram, logindProgram, nodeStorageProgram} {
		if path := p.programs[name]; path != "" {
			final.Files["/k8s/"+name] = path
		}
	}
	if len(options.Images) > 0 {
		final.Images = options.Images
		return base, final, nil
	}
	thirdParty, err := images.ThirdParty(ctx, cache)
	if err != nil {
		return base, final, fmt.Errorf("make the images: %w", err)
	}
	product, err := images.Lab(ctx, cache)
	if err != nil {
		return base, final, fmt.Errorf("make the product's images: %w", err)
	}
	base.Images, final.Images = tars(thirdParty), tars(product)
	return base, final, nil
}

func tars(list []images.Image) []string {
	var paths []string
	for _, image := range list {
		paths = append(paths, image.Tar)
	}
	return paths
}

// config turns the parts into what the cluster is made of.
func (p *parts) config(options Options) cluster.Config {
	config := cluster.Config{
		Name:       options.Name,
		Directory:  options.Directory,
		Nodes:      options.Nodes,
		Kube:       p.kube,
		Base:       p.disk,
		Kernel:     p.kernel.Command,
		Shim:       p.shim,
		PauseImage: options.PauseImage,
	}
	if config.PauseImage == "" {
		config.PauseImage = images.Pause
	}
	if options.NoStorage {
		return config
	}
	var storage, consumers []string
	for _, node := range options.Nodes {
		if node.Storage {
			storage = append(storage, node.Name)
		} else {
			consumers = append(consumers, node.Name)
		}
	}
	config.Processes = []cluster.Process{{
		Name: storageProgram,
		Command: []string{p.programs[storageProgram],
			"--state-dir=" + filepath.Join(options.Directory, "storage"),
			"--linstor-address=" + LINSTORAddress,
			"--control-address=" + ControlAddress,
			"--nbd-address=" + nbdAddress,
			"--nodes=" + strings.Join(storage, ","),
			"--consumers=" + strings.Join(consumers, ","),
		},
	}}
	config.StorageProgram = []string{"/k8s/" + nodeStorageProgram,
		"--node={name}",
		"--control=http://" + ControlAddress,
		"--blocks=" + nbdAddress,
		"--listen={control}:" + nodeStoragePort,
	}
	return config
}

// machineNeeds maps programs that the laboratory calls to Debian's packages.
var machineNeeds = map[string]string{
	"linux.uml":   "user-mode-linux",
	"debootstrap": "debootstrap",
	"containerd":  "containerd",
	"ctr":         "containerd",
	"mkfs.ext4":   "e2fsprogs",
	"depmod":      "kmod",
	"gcc":         "gcc",
	"nsenter":     "util-linux",
}

// checkMachine names everything that is missing at once.
func checkMachine() error {
	missing := map[string]bool{}
	for program, pkg := range machineNeeds {
		if _, err := exec.LookPath(program); err != nil {
			missing[pkg] = true
		}
	}
	var packages []string
	for pkg := range missing {
		packages = append(packages, pkg)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("use this machine: no /dev/net/tun: %w", err)
	}
	if len(packages) > 0 {
		return fmt.Errorf("use this machine: install the Debian packages %s", strings.Join(packages, " "))
	}
	return nil
}
