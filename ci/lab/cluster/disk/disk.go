// Package disk makes the disk image that all nodes start from: a Debian root
// tree with container runtime, kernel modules, Kubernetes, the laboratory's own
// programs and all container images.
//
// It is made in two steps that are cached one by one, because the first takes
// half a minute and rarely changes, and the second changes with every edit of
// the product.
package disk

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// size of the image. It is sparse, on the host and in the copy-on-write files.
const size = 6 << 30

// superfluousModules are directories of modules that no node needs.
var superfluousModules = []string{
	"drivers/iio", "drivers/scsi", "drivers/mtd", "drivers/target", "drivers/staging",
	"drivers/usb", "drivers/hwmon", "drivers/media",
	"fs/ocfs2", "fs/f2fs", "fs/gfs2", "fs/nilfs2", "fs/ubifs", "fs/ceph", "fs/cifs",
}

// nodeTree is the root tree of every node.
var nodeTree = build.Debian{
	Name:  "root-node",
	Suite: "bookworm",
	Packages: []string{
		"containerd", "runc", "containernetworking-plugins",
		"iptables", "conntrack", "iproute2", "kmod", "procps", "psmisc", "mount", "util-linux", "netbase",
		"nfs-common", "e2fsprogs", "xfsprogs", "nbd-client", "strace", "curl", "dbus-daemon",
	},
	// The kernels of user-mode-linux have nf_tables without any address family.
	Script: `update-alternatives --set iptables /usr/sbin/iptables-legacy
update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy`,
	Expect: "about a minute",
}

//go:embed bake.sh
var bakeScript string

// Content is what a step adds to the image.
type Content struct {
	// Files to copy, executable: path in the guest to path on the host. A path
	// on the host must change with the file's content.
	Files map[string]string
	// Links to make: path in the guest to what it points to.
	Links map[string]string
	// Images to import, tar files, in this order. A path must change with the
	// file's content.
	Images []string
}

func (c Content) key() []string {
	var parts []string
	for _, target := range slices.Sorted(maps.Keys(c.Files)) {
		parts = append(parts, target, c.Files[target])
	}
	for _, path := range slices.Sorted(maps.Keys(c.Links)) {
		parts = append(parts, "link", path, c.Links[path])
	}
	return append(append(parts, "images"), c.Images...)
}

// Base returns the image of the first step: the root tree, kernel modules and
// what rarely changes. The folder modules is named after the kernel's version;
// its path must change with its content.
func Base(ctx context.Context, cache *build.Cache, modules string, content Content) (string, error) {
	tree, err := nodeTree.Get(ctx, cache)
	if err != nil {
		return "", fmt.Errorf("make the nodes' root tree: %w", err)
	}
	thing := build.Thing{
		Name:   "node-base",
		Key:    build.Key(append([]string{bakeScript, fmt.Sprint(size), tree, modules}, content.key()...)...),
		Expect: "about half a minute",
	}
	dir, err := cache.Get(ctx, thing, func(ctx context.Context, dir string) error {
		image := filepath.Join(dir, "disk.ext4")
		if err := makeFilesystem(ctx, image, tree); err != nil {
			return err
		}
		if err := installModules(ctx, dir, image, modules); err != nil {
			return err
		}
		return bake(ctx, dir, image, content)
	})
	return filepath.Join(dir, "disk.ext4"), err
}

// Final returns the image of the second step: a copy of base with what changes
// often.
func Final(ctx context.Context, cache *build.Cache, base string, content Content) (string, error) {
	thing := build.Thing{
		Name: "node-disk",
		Key:  build.Key(append([]string{bakeScript, base}, content.key()...)...),
	}
	dir, err := cache.Get(ctx, thing, func(ctx context.Context, dir string) error {
		image := filepath.Join(dir, "disk.ext4")
		if err := run(ctx, "cp", "--reflink=auto", "--sparse=always", base, image); err != nil {
			return fmt.Errorf("copy the base image: %w", err)
		}
		return bake(ctx, dir, image, content)
	})
	return filepath.Join(dir, "disk.ext4"), err
}

func makeFilesystem(ctx context.Context, image, tree string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// Checksums cost the guest time; initialised tables cost it nothing later.
	err = run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^metadata_csum",
		"-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", tree, image)
	if err != nil {
		return fmt.Errorf("make the image's filesystem: %w", err)
	}
	return nil
}

// installModules copies the modules below a temporary root, so that depmod can
// be run there, and then into the image.
func installModules(ctx context.Context, dir, image, modules string) error {
	version := filepath.Base(modules)
	root := filepath.Join(dir, "modules")
	target := filepath.Join(root, "lib", "modules", version)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := run(ctx, "cp", "-a", modules, target); err != nil {
		return fmt.Errorf("copy the kernel modules: %w", err)
	}
	for _, name := range superfluousModules {
		if err := os.RemoveAll(filepath.Join(target, "kernel", name)); err != nil {
			return err
		}
	}
	if err := run(ctx, "depmod", "-b", root, version); err != nil {
		return fmt.Errorf("index the kernel modules: %w", err)
	}
	files := map[string]string{}
	err := filepath.WalkDir(target, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files["/usr"+strings.TrimPrefix(path, root)] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	return bake(ctx, dir, image, Content{Files: files})
}

// bake changes an image. Whatever happens, no mount, loop device or process is
// left: they end with the namespaces of the script.
func bake(ctx context.Context, dir, image string, content Content) error {
	var list bytes.Buffer
	for _, target := range slices.Sorted(maps.Keys(content.Files)) {
		fmt.Fprintf(&list, "copy %s %s\n", content.Files[target], target)
	}
	for _, path := range slices.Sorted(maps.Keys(content.Links)) {
		fmt.Fprintf(&list, "link %s %s\n", content.Links[path], path)
	}
	copies := filepath.Join(dir, "copies")
	if err := os.WriteFile(copies, list.Bytes(), 0o644); err != nil {
		return err
	}
	defer os.Remove(copies)
	arguments := append([]string{"-c", bakeScript, "bake.sh", image, copies}, content.Images...)
	command := exec.CommandContext(ctx, "/bin/sh", arguments...)
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("fill the disk image: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func run(ctx context.Context, name string, arguments ...string) error {
	if out, err := exec.CommandContext(ctx, name, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
