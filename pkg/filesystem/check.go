package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNeedsRepair is returned by Check for damage that cannot be repaired without
// a decision of the administrator.
var ErrNeedsRepair = errors.New("the filesystem is damaged")

// e2fsck's exit codes are bits (e2fsck(8)).
const (
	e2fsckCorrected   = 1
	e2fsckReboot      = 2
	e2fsckUncorrected = 4
)

// Check repairs what can be repaired without losing data, before a mount. The
// device must not be mounted here. It fails with ErrNeedsRepair if that is not
// enough. A filesystem that is mounted somewhere else on this machine, such as in a
// container that copied the mount, is in use and not checked: e2fsck would refuse
// it, and another mount shares what the kernel has of it.
//
// XFS replays its log at the mount and has nothing to be checked before
// (fsck.xfs(8)); xfs_repair can lose data and is left to the administrator.
func (m *Manager) Check(ctx context.Context, device, fsType string) error {
	err := checkType(fsType)
	if err == nil && fsType == Ext4 && !inUse(device) {
		err = m.checkExt4(ctx, device)
	}
	if err != nil {
		return fmt.Errorf("check the filesystem on %s: %w", device, err)
	}
	return nil
}

// inUse says whether the kernel has a filesystem of the device mounted, wherever
// (open(2), O_EXCL on block devices).
func inUse(device string) bool {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.EBUSY)
}

func (m *Manager) checkExt4(ctx context.Context, device string, options ...string) error {
	r, err := m.run(ctx, "e2fsck", append(options, "-p", device)...)
	if err != nil {
		return err
	}
	switch {
	case r.code&^(e2fsckCorrected|e2fsckReboot) == 0:
		return nil
	case r.code&^(e2fsckCorrected|e2fsckReboot|e2fsckUncorrected) == 0:
		return fmt.Errorf("%w: %w", ErrNeedsRepair, r.failure("e2fsck"))
	default:
		return r.failure("e2fsck")
	}
}

// Grow grows the filesystem to the size of its device. Nothing to grow is no
// error. It is done online at target; an ext4 that is not mounted is grown with
// target "". To grow a mounted ext4 the kernel demands CAP_SYS_RESOURCE.
func (m *Manager) Grow(ctx context.Context, device, target, fsType string) error {
	if err := m.grow(ctx, device, target, fsType); err != nil {
		return fmt.Errorf("grow the filesystem on %s: %w", device, err)
	}
	return nil
}

func (m *Manager) grow(ctx context.Context, device, target, fsType string) error {
	if err := checkType(fsType); err != nil {
		return err
	}
	if target != "" {
		// xfs_growfs takes any path: below a mount point that is not mounted it
		// would grow the filesystem of the node.
		mounted, err := m.mountAt(target)
		if err != nil {
			return err
		}
		if number, err := deviceNumber(device); err != nil {
			return err
		} else if mounted == nil || mounted.Device != number {
			return fmt.Errorf("it is not mounted at %s", target)
		}
	}
	switch {
	case fsType == XFS && target == "":
		return errors.New("xfs can be grown only while it is mounted")
	case fsType == XFS:
		return m.runOK(ctx, "xfs_growfs", "-d", target)
	case target == "":
		// resize2fs demands a full check of a filesystem that is not mounted.
		if err := m.checkExt4(ctx, device, "-f"); err != nil {
			return err
		}
	}
	return m.runOK(ctx, "resize2fs", device)
}

// SizeBytes returns the size of the filesystem mounted at target as df shows it.
func (m *Manager) SizeBytes(target string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(target, &stat); err != nil {
		return 0, fmt.Errorf("read the size of the filesystem at %s: %w", target, err)
	}
	return int64(stat.Blocks) * stat.Frsize, nil
}

// DeviceBytes returns the size of the device, without opening it.
func (m *Manager) DeviceBytes(device string) (int64, error) {
	number, err := deviceNumber(device)
	if err != nil {
		return 0, fmt.Errorf("read the size of device %s: %w", device, err)
	}
	text, err := os.ReadFile(filepath.Join("/sys/dev/block", number, "size"))
	if err != nil {
		return 0, fmt.Errorf("read the size of device %s: %w", device, err)
	}
	// In units of 512 bytes, whatever the sectors of the device are.
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the size of device %s: %w", device, err)
	}
	return sectors * 512, nil
}

// deviceNumber returns "major:minor" of a block device.
func deviceNumber(device string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(device, &stat); err != nil {
		return "", fmt.Errorf("stat %s: %w", device, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", fmt.Errorf("%s is not a block device", device)
	}
	return fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev)), nil
}
