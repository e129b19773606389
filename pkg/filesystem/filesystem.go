// Package filesystem makes, checks, mounts, grows and unmounts filesystems. Its
// first rule is that data is never destroyed: a filesystem is made only on a
// device that is proven to be blank, and everything that is not certain is an
// error.
package filesystem

import (
	"context"
	"errors"

	mount "k8s.io/mount-utils"
	"k8s.io/utils/exec"
)

// The filesystems that can be served.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// RecoveryOptions are the mount options of the recovery volume. ganesha does not
// fsync its records of clients; with dirsync a record is on the disk when the
// call that made it returns.
var RecoveryOptions = []string{"dirsync", "noatime"}

// ErrNotBlank is returned by FormatBlank for a device that carries anything.
var ErrNotBlank = errors.New("the device is not blank")

// ErrReadOnly is returned by Mount when the kernel or mount(8) gave a read-only
// mount, as they do when DRBD does not let the device be opened for writing.
var ErrReadOnly = errors.New("mounted read-only")

// Identity is what a device carries.
type Identity struct {
	// FSType is the type of the filesystem; "" only if the device is blank.
	FSType string
	// UUID is the UUID of the filesystem.
	UUID string
}

// Blank says that the device carries nothing.
func (i Identity) Blank() bool { return i.FSType == "" }

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

// Manager does the work of this package through the system's programs.
type Manager struct {
	mounter mount.Interface
	exec    exec.Interface
}

// New returns a Manager that runs programs by exec.
func New(exec exec.Interface) *Manager {
	return &Manager{mounter: mount.New(""), exec: exec}
}

// Identify says what the device carries. The answer "blank" is given only if
// blkid finds no signature and the first and the last MiB read as zeros.
// Anything that is not a filesystem and not blank is an error.
func (m *Manager) Identify(ctx context.Context, device string) (Identity, error) {
	return Identity{}, errors.New("not implemented")
}

// FormatBlank makes a filesystem of fsType with this label. It refuses with
// ErrNotBlank unless Identify says that the device is blank.
func (m *Manager) FormatBlank(ctx context.Context, device, fsType, label string) error {
	return errors.New("not implemented")
}

// Check repairs what can be repaired without losing data, before a mount. The
// device must not be mounted.
func (m *Manager) Check(ctx context.Context, device, fsType string) error {
	return errors.New("not implemented")
}

// Mount mounts the device read-write and makes sure of it. A mount of the same
// device at target is left as it is; of another device is an error; a read-only
// one is ErrReadOnly (and is undone if this call made it).
func (m *Manager) Mount(ctx context.Context, device, target, fsType string, options []string) error {
	return errors.New("not implemented")
}

// Unmount unmounts target; a target that is not mounted or does not exist is no
// error. With lazy, a filesystem that is busy is detached from the tree: then it
// lives on until its last user is gone, and its device stays open.
func (m *Manager) Unmount(ctx context.Context, target string, lazy bool) error {
	return errors.New("not implemented")
}

// MountedDevice returns "major:minor" of what is mounted at target, or "".
func (m *Manager) MountedDevice(target string) (string, error) {
	return "", errors.New("not implemented")
}

// List returns the mounts at or below prefix.
func (m *Manager) List(prefix string) ([]Mount, error) {
	return nil, errors.New("not implemented")
}

// Grow grows the filesystem to the size of its device, online. Nothing to grow
// is no error.
func (m *Manager) Grow(ctx context.Context, device, target, fsType string) error {
	return errors.New("not implemented")
}

// SizeBytes returns the size of the filesystem mounted at target as df shows it.
func (m *Manager) SizeBytes(target string) (int64, error) {
	return 0, errors.New("not implemented")
}

// DeviceBytes returns the size of the device.
func (m *Manager) DeviceBytes(device string) (int64, error) {
	return 0, errors.New("not implemented")
}
