// Package kernel provides what the nodes boot: user-mode-linux and the modules
// that fit it.
package kernel

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// UseSeccomp chooses between two kernels. With it the nodes boot the newer one
// of the tree below, which runs a guest's processes by means of seccomp: system
// calls, page faults and new processes cost a third of what they cost with
// ptrace. Without it they boot the machine's own package user-mode-linux.
const UseSeccomp = true

// tree holds the newer kernel, and the C library without which it does not
// start. The compiler and the source are there for modules.sh.
var tree = build.Debian{
	Name:  "root-uml",
	Suite: "forky",
	Packages: []string{
		"user-mode-linux", "linux-source-7.2",
		"gcc", "libc6-dev", "make", "flex", "bison", "bc", "xz-utils", "mount",
	},
	Require: map[string]string{"user-mode-linux": "7.2um1"},
	Script:  modulesScript,
	Expect:  "about three minutes",
}

//go:embed modules.sh
var modulesScript string

// Where Debian's package puts things, on this machine and in a tree.
const (
	program   = "linux.uml"
	modules   = "/usr/lib/uml/modules"
	libraries = "/usr/lib/x86_64-linux-gnu"
)

// Kernel is a kernel on this machine.
type Kernel struct {
	// Command boots a guest when the guest's own arguments are appended.
	Command []string
	// Modules is the folder of the modules; its name is the kernel's version.
	Modules string
}

// Get returns the nodes' kernel, built if it is not in the cache.
func Get(ctx context.Context, cache *build.Cache) (Kernel, error) {
	if !UseSeccomp {
		folder, err := newest(modules)
		return Kernel{Command: []string{program}, Modules: folder}, err
	}
	root, err := tree.Get(ctx, cache)
	if err != nil {
		return Kernel{}, fmt.Errorf("make the tree of the nodes' kernel: %w", err)
	}
	folder, err := newest(filepath.Join(root, modules))
	return Kernel{Command: command(root), Modules: folder}, err
}

// command boots the tree's kernel with the tree's libraries. They are mounted
// over the machine's, which only the guest's processes see. The loader cannot be
// called with the program as its argument instead: the kernel then takes the
// address space behind the loader for the one behind itself. A change of the
// root directory would hide the laboratory's files.
func command(root string) []string {
	const script = `mount --bind "$1" ` + libraries + ` && shift && exec "$@"`
	return []string{
		"unshare", "--mount", "--propagation", "private",
		"sh", "-c", script, "sh", filepath.Join(root, libraries),
		filepath.Join(root, "usr/bin", program), "seccomp=auto",
	}
}

func newest(folder string) (string, error) {
	matches, err := filepath.Glob(folder + "/*")
	if err != nil || len(matches) == 0 {
		return "", errors.New("find kernel modules: install the Debian package user-mode-linux")
	}
	slices.Sort(matches)
	return matches[len(matches)-1], nil
}
