package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

// openers tells who has the device open: a mounted filesystem (found by its
// exclusive claim, so a lazily unmounted one counts until it is gone), else the
// processes with a descriptor. The claim is looked at first because it costs
// one system call, and the guests are slow at them.
func openers(d drbd.Device) ([]drbd.Opener, error) {
	claimed, err := isClaimed(d)
	if err != nil {
		return nil, err
	}
	if claimed {
		return []drbd.Opener{{Name: "mount", PID: 1}}, nil
	}
	var list []drbd.Opener
	for _, process := range names("/proc") {
		pid, err := strconv.Atoi(process)
		if err != nil || pid == os.Getpid() {
			continue
		}
		directory := "/proc/" + process + "/fd/"
		for _, descriptor := range names(directory) {
			// Only the link is read: following it could hang on a dead mount.
			target, err := os.Readlink(directory + descriptor)
			if err == nil && isDevice(d, target) {
				list = append(list, describe(pid, descriptor))
			}
		}
	}
	return list, nil
}

// names lists a directory; one that cannot be read (the process has ended)
// has none.
func names(directory string) []string {
	f, err := os.Open(directory)
	if err != nil {
		return nil
	}
	defer f.Close()
	list, _ := f.Readdirnames(-1)
	return list
}

// isDevice tells whether an open file's name is one of the device's.
func isDevice(d drbd.Device, target string) bool {
	name := filepath.Base(target)
	return strings.Contains(target, "dev/") && (name == filepath.Base(path(d)) || name == fmt.Sprintf("nbd%d", index(d)))
}

// isClaimed probes with an exclusive open, which a mounted filesystem refuses.
func isClaimed(d drbd.Device) (bool, error) {
	fd, err := unix.Open(path(d), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return true, nil
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("probe %s: %w", path(d), err)
	}
	return false, unix.Close(fd)
}

// describe names the process of a descriptor.
func describe(pid int, descriptor string) drbd.Opener {
	opener := drbd.Opener{Name: "unknown", PID: pid}
	process := fmt.Sprintf("/proc/%d/", pid)
	if name, err := os.ReadFile(process + "comm"); err == nil {
		opener.Name = strings.TrimSpace(string(name))
	}
	info, err := os.ReadFile(process + "fdinfo/" + descriptor)
	if err != nil {
		return opener
	}
	for _, line := range strings.Split(string(info), "\n") {
		if octal, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, _ := strconv.ParseInt(strings.TrimSpace(octal), 8, 64)
			opener.ReadOnly = flags&unix.O_ACCMODE == unix.O_RDONLY
		}
	}
	return opener
}
