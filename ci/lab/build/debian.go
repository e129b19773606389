package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Debian describes a Debian root tree.
type Debian struct {
	// Name is the folder in the cache, for instance root-ganesha.
	Name string
	// Suite is Debian's release, for instance bookworm.
	Suite string
	// Packages are installed beside Debian's minimal set, without those that are
	// only recommended. Of alternatives and virtual packages debootstrap takes
	// none or the first: name the one that is meant.
	Packages []string
	// Require maps packages to what their version has to begin with.
	Require map[string]string
	// Script is run by the tree's own /bin/sh when everything is installed,
	// without network; optional.
	Script string
	// Expect is the time of a first build, for the progress line.
	Expect string
}

// debianRecipe is part of every tree's key: it changes with what this file does.
const debianRecipe = "1"

// Get returns the folder that holds the tree, built with debootstrap if it is
// not in the cache. Needs root and Debian's archive, whose address is the one
// that this machine uses itself. Nobody may change the tree: others use it too.
func (d Debian) Get(ctx context.Context, cache *Cache) (string, error) {
	dir, err := cache.Get(ctx, Thing{Name: d.Name, Key: d.key(), Expect: d.Expect}, func(ctx context.Context, dir string) error {
		return d.install(ctx, filepath.Join(dir, "tree"))
	})
	return filepath.Join(dir, "tree"), err
}

func (d Debian) key() string {
	packages := slices.Sorted(slices.Values(d.Packages))
	var required []string
	for name, version := range d.Require {
		required = append(required, name+"="+version)
	}
	slices.Sort(required)
	return Key(debianRecipe, d.Suite, strings.Join(packages, ","), strings.Join(required, ","), d.Script)
}

func (d Debian) install(ctx context.Context, tree string) error {
	if os.Geteuid() != 0 {
		return errors.New("make a Debian root tree: only root can")
	}
	script, err := debootstrapScript(d.Suite)
	if err != nil {
		return err
	}
	mirror, err := debianMirror()
	if err != nil {
		return err
	}
	arguments := []string{"--variant=minbase", "--include=" + strings.Join(d.Packages, ","), d.Suite, tree, mirror, script}
	if text, err := isolated(ctx, "debootstrap", arguments...); err != nil {
		return fmt.Errorf("install %s with debootstrap: %w\n%s", d.Suite, err, debootstrapReason(tree, text))
	}
	versions, err := installed(ctx, tree)
	if err != nil {
		return err
	}
	if err := checkVersions(d.Suite, versions, d.Require); err != nil {
		return err
	}
	if d.Script != "" {
		if text, err := isolated(ctx, "chroot", tree, "/bin/sh", "-eu", "-c", d.Script); err != nil {
			return fmt.Errorf("run the script of %s in its tree: %w\n%s", d.Name, err, lastLines(text, 10))
		}
	}
	return trim(tree)
}

// isolated runs a program in a mount namespace of its own, so that what it
// mounts, and leaves mounted when it is killed, is never seen outside.
// debootstrap mounts /proc in the tree: without this, removing an unfinished
// tree would reach into the machine's own /proc.
func isolated(ctx context.Context, name string, arguments ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%w: install the Debian package %s", err, filepath.Base(name))
	}
	command := exec.CommandContext(ctx, path, arguments...)
	command.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	return command.CombinedOutput()
}

// debootstrapScript returns debootstrap's recipe for a suite. A suite that is
// younger than the machine's debootstrap is installed like unstable.
func debootstrapScript(suite string) (string, error) {
	const scripts = "/usr/share/debootstrap/scripts"
	for _, name := range []string{suite, "sid"} {
		path := filepath.Join(scripts, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find debootstrap's script for %s: install the Debian package debootstrap", suite)
}

// debootstrapReason returns the end of debootstrap's log, which says more than
// its output, and is gone with the tree.
func debootstrapReason(tree string, output []byte) string {
	log, err := os.ReadFile(filepath.Join(tree, "debootstrap", "debootstrap.log"))
	if err != nil {
		return lastLines(output, 10)
	}
	return lastLines(output, 3) + "\n" + lastLines(log, 15)
}

// installed returns the versions of the packages in the tree that are
// completely installed.
func installed(ctx context.Context, tree string) (map[string]string, error) {
	command := exec.CommandContext(ctx, "dpkg-query", "--admindir="+filepath.Join(tree, "var/lib/dpkg"), "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n")
	text, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("list the installed packages: %w", err)
	}
	return parseInstalled(string(text)), nil
}

func parseInstalled(text string) map[string]string {
	versions := map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "installed" {
			versions[fields[1]] = fields[2]
		}
	}
	return versions
}

// checkVersions refuses a tree without the versions that the rest was proven
// with: Debian's testing suite moves.
func checkVersions(suite string, versions, require map[string]string) error {
	for name, want := range require {
		got, present := versions[name]
		if !present {
			return fmt.Errorf("install %s: the package is not installed in %s", name, suite)
		}
		if got != want && !strings.HasPrefix(got, want+"-") && !strings.HasPrefix(got, want+"+") && !strings.HasPrefix(got, want+".") {
			return fmt.Errorf("install %s %s: Debian %s has version %s now", name, want, suite, got)
		}
	}
	return nil
}

// superfluous is removed from a tree: what only people read, what apt can fetch
// again, and everything that names the archive it came from. Licences stay.
var superfluous = []string{
	"debootstrap",
	"etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/machine-id",
	"etc/resolv.conf", "etc/hostname",
	"usr/share/doc/*/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*", "usr/share/lintian",
	"var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/lib/apt/lists/*", "var/lib/dpkg/*-old", "var/log/*.log", "var/log/apt",
	"dev/*", "proc/*", "sys/*", "run/*", "tmp/*",
}

// trim makes an installed tree small and neutral.
func trim(tree string) error {
	for _, pattern := range superfluous {
		matches, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil {
			return fmt.Errorf("trim the tree: %w", err)
		}
		for _, match := range matches {
			if filepath.Base(match) == "copyright" {
				continue
			}
			if err := os.RemoveAll(match); err != nil {
				return fmt.Errorf("trim the tree: %w", err)
			}
		}
	}
	// mount(8) and linstor-csi read /etc/mtab; a plain file would be a lie.
	mtab := filepath.Join(tree, "etc", "mtab")
	if err := os.RemoveAll(mtab); err != nil {
		return fmt.Errorf("link /etc/mtab to the kernel's list: %w", err)
	}
	if err := os.Symlink("/proc/self/mounts", mtab); err != nil {
		return fmt.Errorf("link /etc/mtab to the kernel's list: %w", err)
	}
	return nil
}
