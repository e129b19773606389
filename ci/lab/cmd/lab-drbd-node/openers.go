package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/nbd"
)

// openers lists who has the device open: a mounted filesystem (found by its
// exclusive claim, so a lazily unmounted one counts until it is gone) and the
// processes with a descriptor.
func openers(d drbd.Device) ([]drbd.Opener, error) {
	var list []drbd.Opener
	claimed, err := isClaimed(d)
	if err != nil {
		return nil, err
	}
	if claimed {
		list = append(list, drbd.Opener{Name: "mount", PID: mounter(d)})
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	for _, descriptor := range descriptors {
		// Only the link is read: following it could hang on a dead mount.
		target, err := os.Readlink(descriptor)
		if err != nil || strings.HasPrefix(descriptor, own) || !isDevice(d, target) {
			continue
		}
		list = append(list, describe(descriptor))
	}
	return list, nil
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

// mounter returns a process that sees the mount; 0 when none does (it was
// unmounted lazily).
func mounter(d drbd.Device) int {
	number := []byte(fmt.Sprintf(" %d:%d ", nbd.Major, index(d)))
	tables, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	for _, table := range tables {
		content, err := os.ReadFile(table)
		if err == nil && bytes.Contains(content, number) {
			pid, _ := strconv.Atoi(strings.Split(table, "/")[2])
			return pid
		}
	}
	return 0
}

// describe names the process of a descriptor /proc/<pid>/fd/<n>.
func describe(descriptor string) drbd.Opener {
	parts := strings.Split(descriptor, "/")
	opener := drbd.Opener{Name: "unknown"}
	opener.PID, _ = strconv.Atoi(parts[2])
	if name, err := os.ReadFile("/proc/" + parts[2] + "/comm"); err == nil {
		opener.Name = strings.TrimSpace(string(name))
	}
	info, err := os.ReadFile("/proc/" + parts[2] + "/fdinfo/" + parts[4])
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
