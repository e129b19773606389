package launcher

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Prepare makes what ganesha expects of a machine and a container does not have:
// /etc/mtab (it does not start without), its own directories, and an entry for
// its host name (it waits 5 s for DNS otherwise, with its port already open).
// root is "/" except in tests. It is idempotent.
func Prepare(root, hostname string) error {
	err := errors.Join(
		ensureMtab(filepath.Join(root, "etc/mtab")),
		os.MkdirAll(filepath.Join(root, "run/ganesha"), 0o755),
		os.MkdirAll(filepath.Join(root, "var/lib/nfs/ganesha"), 0o755),
		ensureHost(filepath.Join(root, "etc/hosts"), hostname),
	)
	if err != nil {
		return fmt.Errorf("prepare the container for ganesha: %w", err)
	}
	return nil
}

func ensureMtab(path string) error {
	const mounts = "/proc/self/mounts"
	target, err := os.Readlink(path)
	if err == nil && (target == mounts || target == ".."+mounts) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(mounts, path)
}

func ensureHost(path, hostname string) error {
	hosts, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(hosts)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		for i, name := range fields {
			if i > 0 && name == hostname {
				return nil
			}
		}
	}
	// It is appended in place: kubelet mounts the file, so that it cannot be
	// replaced.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	entry := "127.0.0.1 " + hostname + "\n"
	if len(hosts) > 0 && hosts[len(hosts)-1] != '\n' {
		entry = "\n" + entry
	}
	_, err = file.WriteString(entry)
	return errors.Join(err, file.Close())
}

// Install copies the running program to destination, at once or not at all: a
// container that starts it meanwhile must not see half of it.
func Install(destination string) error {
	if err := install(destination); err != nil {
		return fmt.Errorf("install the launcher at %s: %w", destination, err)
	}
	return nil
}

func install(destination string) error {
	source, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	if err := os.MkdirAll(filepath.Dir(destination), 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(destination), "."+filepath.Base(destination)+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	_, err = io.Copy(temporary, source)
	err = errors.Join(err, temporary.Chmod(0o755), temporary.Sync(), temporary.Close())
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), destination)
}
