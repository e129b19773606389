package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
)

// runInit sets the guest up, starts the serving child and reaps for ever. It
// returns only to let the kernel panic, which ends the guest.
func runInit() error {
	if err := mountKernelFilesystems(); err != nil {
		return err
	}
	if err := unpackFiles(guest.FilesDevice, "/"); err != nil {
		return err
	}
	spec, err := readSpec()
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set host name %s: %w", spec.Hostname, err)
	}
	loadModules(spec.Modules)
	if err := configureNetwork(spec); err != nil {
		return err
	}
	applySettings(spec.Settings)
	if err := prepareForKubelet(); err != nil {
		return err
	}
	say("guest %s is set up", spec.Hostname)

	child := exec.Command("/proc/self/exe", "serve")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Start(); err != nil {
		return fmt.Errorf("start the serving child: %w", err)
	}
	// Orphans of containerd's shims become children of PID 1. The serving
	// child waits for its own programs, so the two never compete.
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for children: %w", err)
		}
		if pid == child.Process.Pid {
			say("the serving child ended")
			return powerOff()
		}
	}
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func mountKernelFilesystems() error {
	mounts := []mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"devtmpfs", "/dev", "devtmpfs", 0, ""},
		{"devpts", "/dev/pts", "devpts", 0, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", 0, "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "nsdelegate"},
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("remount the root writable: %w", err)
	}
	for _, m := range mounts {
		// Some exist only on a filesystem that was mounted just before.
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
		// The kernel mounts /dev by itself before it starts PID 1.
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for _, directory := range []string{"/run/lock", "/run/dbus"} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// unpackFiles puts the node's files into place. They are read at every boot, so
// a node that was switched off comes back with what the host says now.
func unpackFiles(device, root string) error {
	f, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("open the node's files: %w", err)
	}
	defer f.Close()
	reader := tar.NewReader(f)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the node's files: %w", err)
		}
		path := filepath.Join(root, header.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return fmt.Errorf("read the node's file %s: %w", header.Name, err)
		}
		if err := os.WriteFile(path, content, os.FileMode(header.Mode)); err != nil {
			return err
		}
	}
}

func readSpec() (guest.Spec, error) {
	var spec guest.Spec
	content, err := os.ReadFile(guest.SpecPath)
	if err != nil {
		return spec, fmt.Errorf("read the guest's description: %w", err)
	}
	if err := json.Unmarshal(content, &spec); err != nil {
		return spec, fmt.Errorf("read the guest's description: %w", err)
	}
	return spec, nil
}

// loadModules loads all modules without parameters with one modprobe: starting
// a process is slow here.
func loadModules(modules []guest.Module) {
	plain := []string{"-qa"}
	for _, m := range modules {
		if len(m.Parameters) == 0 {
			plain = append(plain, m.Name)
			continue
		}
		if out, err := exec.Command("modprobe", append([]string{m.Name}, m.Parameters...)...).CombinedOutput(); err != nil {
			say("module %s: %v %s", m.Name, err, out)
		}
	}
	if out, err := exec.Command("modprobe", plain...).CombinedOutput(); err != nil && len(out) > 0 {
		say("modules: %v %s", err, out)
	}
}

func configureNetwork(spec guest.Spec) error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	for _, i := range spec.Interfaces {
		link, err := netlink.LinkByName(i.Name)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", i.Name, err)
		}
		address, err := netlink.ParseAddr(i.Address)
		if err != nil {
			return fmt.Errorf("parse address of %s: %w", i.Name, err)
		}
		if err := netlink.AddrReplace(link, address); err != nil {
			return fmt.Errorf("address interface %s: %w", i.Name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring interface %s up: %w", i.Name, err)
		}
	}
	if err := netlink.RouteReplace(&netlink.Route{Gw: net.ParseIP(spec.Gateway)}); err != nil {
		return fmt.Errorf("set the default route: %w", err)
	}
	for _, r := range spec.Routes {
		_, to, err := net.ParseCIDR(r.To)
		if err != nil {
			return fmt.Errorf("parse route: %w", err)
		}
		if err := netlink.RouteReplace(&netlink.Route{Dst: to, Gw: net.ParseIP(r.Via)}); err != nil {
			return fmt.Errorf("set the route to %s: %w", r.To, err)
		}
	}
	return nil
}

func applySettings(settings []guest.Setting) {
	for _, s := range settings {
		if err := os.WriteFile(s.Path, []byte(s.Value), 0o644); err != nil {
			say("setting %s: %v", s.Path, err)
		}
	}
}

// prepareForKubelet does what a distribution's init would have done and kubelet
// relies on.
func prepareForKubelet() error {
	// kubelet's cadvisor refuses a /proc/cpuinfo without "cpu MHz", which
	// user-mode-linux does not report.
	const cpuinfo = "/run/cpuinfo"
	real, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return fmt.Errorf("read cpuinfo: %w", err)
	}
	if !strings.Contains(string(real), "cpu MHz") {
		text := strings.TrimRight(string(real), "\n") + "\ncpu MHz\t\t: 2000.000\n\n"
		if err := os.WriteFile(cpuinfo, []byte(text), 0o444); err != nil {
			return err
		}
		if err := unix.Mount(cpuinfo, "/proc/cpuinfo", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount cpuinfo: %w", err)
		}
	}
	// Without this a mount made in a container never reaches the node, and the
	// node's never reaches a container.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	for _, directory := range []string{guest.LogDirectory, "/var/lib/kubelet", "/etc/cni/net.d"} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// powerOff ends the guest. It refuses to end any other machine.
func powerOff() error {
	if _, err := os.Stat(guest.SpecPath); err != nil {
		return fmt.Errorf("power off: this is no guest of the laboratory: %w", err)
	}
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

var started = time.Now()

// say writes to the console, which the host keeps in the node's console.log.
func say(format string, arguments ...any) {
	fmt.Printf("[agent %.2fs] %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, arguments...))
}
