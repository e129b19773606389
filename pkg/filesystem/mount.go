package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	mount "k8s.io/mount-utils"
)

// ErrReadOnly is returned by Mount when the filesystem is mounted, or can be
// mounted, only read-only: DRBD does not let the device be opened for writing,
// or the filesystem became read-only after an error.
var ErrReadOnly = errors.New("mounted read-only")

// Mount is one mount as the kernel reports it (proc_pid_mountinfo(5)).
type Mount struct {
	// Source is the device as it was named when it was mounted.
	Source string
	// Device is "major:minor".
	Device string
	Target string
	FSType string
	// ReadOnly: the mount or the filesystem below it is read-only. ext4 becomes
	// so after an I/O error.
	ReadOnly bool
	// Options are the options of the mount and of the filesystem.
	Options []string
}

// mountInfo is the kernel's list of the mounts of this mount namespace.
const mountInfo = "/proc/self/mountinfo"

// Mount mounts the device read-write and makes sure of it. It makes the
// directory target if necessary. A mount of the same device at target is left as
// it is; of another device is an error; a read-only one is ErrReadOnly (and is
// undone if this call made it).
func (m *Manager) Mount(ctx context.Context, device, target, fsType string, options []string) error {
	if err := m.mount(ctx, device, target, fsType, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", device, target, err)
	}
	return nil
}

func (m *Manager) mount(ctx context.Context, device, target, fsType string, options []string) error {
	if err := checkType(fsType); err != nil {
		return err
	}
	number, err := deviceNumber(device)
	if err != nil {
		return err
	}
	mounted, err := m.mountAt(target)
	if err != nil {
		return err
	}
	if mounted != nil {
		return mounted.mustBe(number)
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	if fsType == XFS {
		// A restored snapshot has the UUID of its source, which may be mounted on
		// this node too.
		options = append(slices.Clone(options), "nouuid")
	}
	// --rw keeps mount(8) from falling back to read-only by itself.
	args := []string{"--rw", "-t", fsType}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	r, err := m.run(ctx, "mount", append(args, device, target)...)
	if err != nil {
		return err
	}
	if r.code != 0 {
		if strings.Contains(r.output, "read-only") || strings.Contains(r.output, "write-protected") {
			return fmt.Errorf("%w: %w", ErrReadOnly, r.failure("mount"))
		}
		return r.failure("mount")
	}
	mounted, err = m.mountAt(target)
	if err != nil {
		return err
	}
	if mounted == nil {
		return errors.New("mount succeeded, but nothing is mounted")
	}
	if err := mounted.mustBe(number); err != nil {
		return errors.Join(err, m.runOK(ctx, "umount", target))
	}
	return nil
}

// mustBe checks that this is a mount of the device, read-write.
func (m *Mount) mustBe(number string) error {
	if m.Device != number {
		return fmt.Errorf("another device is mounted there: %s (%s), not %s", m.Source, m.Device, number)
	}
	if m.ReadOnly {
		return fmt.Errorf("%w: options %s", ErrReadOnly, strings.Join(m.Options, ","))
	}
	return nil
}

// politeTimeout is how long Unmount with lazy waits for an ordinary unmount.
const politeTimeout = 5 * time.Second

// Unmount unmounts target; a target that is not mounted or does not exist is no
// error. With lazy, a filesystem that is busy or hangs is detached from the
// tree: then it lives on until its last user is gone, and its device stays open.
func (m *Manager) Unmount(ctx context.Context, target string, lazy bool) error {
	if err := m.unmount(ctx, target, lazy); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

func (m *Manager) unmount(ctx context.Context, target string, lazy bool) error {
	// Mounts can lie on top of each other.
	for {
		mounted, err := m.mountAt(target)
		if err != nil || mounted == nil {
			return err
		}
		if err := m.unmountOnce(ctx, mounted.Target, lazy); err != nil {
			return err
		}
	}
}

func (m *Manager) unmountOnce(ctx context.Context, target string, lazy bool) error {
	if !lazy {
		return m.runOK(ctx, "umount", target)
	}
	// The polite try must leave time for the other.
	patience := politeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	polite, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if m.runOK(polite, "umount", target) == nil {
		return nil
	}
	return m.runOK(ctx, "umount", "--lazy", target)
}

// MountedDevice returns "major:minor" of what is mounted at target, or "".
func (m *Manager) MountedDevice(target string) (string, error) {
	mounted, err := m.mountAt(target)
	if err != nil || mounted == nil {
		return "", err
	}
	return mounted.Device, nil
}

// List returns the mounts at or below prefix, in the order in which they were
// made.
func (m *Manager) List(prefix string) ([]Mount, error) {
	prefix, err := resolve(prefix)
	if err != nil {
		return nil, fmt.Errorf("list the mounts below %s: %w", prefix, err)
	}
	infos, err := mount.ParseMountInfo(mountInfo)
	if err != nil {
		return nil, fmt.Errorf("list the mounts below %s: %w", prefix, err)
	}
	var mounts []Mount
	for _, info := range infos {
		target := unescape.Replace(info.MountPoint)
		if target != prefix && !strings.HasPrefix(target, strings.TrimSuffix(prefix, "/")+"/") {
			continue
		}
		options := slices.Concat(info.MountOptions, info.SuperOptions)
		mounts = append(mounts, Mount{
			Source:   info.Source,
			Device:   fmt.Sprintf("%d:%d", info.Major, info.Minor),
			Target:   target,
			FSType:   info.FsType,
			ReadOnly: slices.ContainsFunc(options, meansReadOnly),
			Options:  options,
		})
	}
	return mounts, nil
}

// meansReadOnly says whether nothing can be written under this option. Newer
// kernels keep "rw" in front of ext4's own words for a filesystem that an error
// has stopped.
func meansReadOnly(option string) bool {
	return option == "ro" || option == "emergency_ro" || option == "shutdown"
}

// unescape decodes what the kernel encodes in a path (proc_pid_mountinfo(5)).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountAt returns the topmost mount at target, or nil.
func (m *Manager) mountAt(target string) (*Mount, error) {
	path, err := resolve(target)
	if err != nil {
		return nil, err
	}
	mounts, err := m.List(path)
	if err != nil {
		return nil, err
	}
	for _, mounted := range slices.Backward(mounts) {
		if mounted.Target == path {
			return &mounted, nil
		}
	}
	return nil, nil
}

// resolve returns the path under which the kernel lists a mount point. Only the
// directory above it is looked at: the mount point itself may belong to a
// filesystem that hangs or fails.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return path, err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return path, nil
	}
	if err != nil {
		return path, err
	}
	return filepath.Join(parent, filepath.Base(path)), nil
}
