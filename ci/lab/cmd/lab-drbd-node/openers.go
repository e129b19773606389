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
// exclusive claim, so a lazily unmounted one counts until it is gone), a loop
// device on it (kubelet makes one for a block claim), else the processes with a
// descriptor. The claim is looked at first because it costs one system call,
// and the guests are slow at them.
func openers(d drbd.Device) ([]drbd.Opener, error) {
	claimed, err := isClaimed(d)
	if err != nil {
		return nil, err
	}
	if claimed {
		return []drbd.Opener{{Name: "mount", PID: 1}}, nil
	}
	list, err := loops(d)
	if err != nil || len(list) > 0 {
		return list, err
	}
	for _, process := range names("/proc") {
		pid, err := strconv.Atoi(process)
		if err != nil || pid == os.Getpid() {
			continue
		}
		directory := "/proc/" + process + "/fd/"
		for _, descriptor := range names(directory) {
			target, err := os.Readlink(directory + descriptor)
			if err == nil && isDevice(d, directory+descriptor, target) {
				list = append(list, describe(pid, descriptor))
			}
		}
	}
	return list, nil
}

// loops lists the loop devices on the device, of which no process shows.
func loops(d drbd.Device) ([]drbd.Opener, error) {
	var list []drbd.Opener
	for _, name := range names("/sys/block") {
		if !strings.HasPrefix(name, "loop") {
			continue
		}
		if _, err := os.Stat("/sys/block/" + name + "/loop"); err != nil {
			continue // not bound to anything
		}
		info, err := loopInfo("/dev/" + name)
		if err != nil {
			return nil, fmt.Errorf("ask %s for what it is on: %w", name, err)
		}
		if info != nil && info.Rdevice == deviceNumber(d) {
			list = append(list, drbd.Opener{Name: name, PID: 1, ReadOnly: info.Flags&unix.LO_FLAGS_READ_ONLY != 0})
		}
	}
	return list, nil
}

// loopInfo is nil for a loop device that has gone meanwhile.
func loopInfo(path string) (*unix.LoopInfo64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	return info, err
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

// notBlock are the devices that nearly every process has open.
var notBlock = map[string]bool{
	"/dev/null": true, "/dev/zero": true, "/dev/full": true, "/dev/random": true, "/dev/urandom": true, "/dev/tty": true, "/dev/ptmx": true, "/dev/console": true,
}

// isDevice tells whether an open file is the device, by whatever name: in a
// container it has the one that the claim's user chose. Only in /dev is the
// link followed; elsewhere that could hang on a dead mount.
func isDevice(d drbd.Device, link, target string) bool {
	name := filepath.Base(target)
	if strings.Contains(target, "dev/") && (name == filepath.Base(path(d)) || name == fmt.Sprintf("nbd%d", index(d))) {
		return true
	}
	if !strings.HasPrefix(target, "/dev/") || strings.HasPrefix(target, "/dev/pts/") || notBlock[target] {
		return false
	}
	var stat unix.Stat_t
	return unix.Stat(link, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFBLK && stat.Rdev == deviceNumber(d)
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
