package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/filesystem"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

// DRBD is what the supervisor uses of pkg/drbd.
type DRBD interface {
	Status(ctx context.Context, name string) (drbd.Resource, error)
	Primary(ctx context.Context, name string) error
	Secondary(ctx context.Context, name string) error
	ForceSecondary(ctx context.Context, name string) error
}

// Filesystem is what the supervisor uses of pkg/filesystem.
type Filesystem interface {
	Identify(ctx context.Context, device string) (filesystem.Identity, error)
	FormatBlank(ctx context.Context, device, fsType, label string) error
	Check(ctx context.Context, device, fsType string) error
	Mount(ctx context.Context, device, target, fsType string, options []string) error
	Unmount(ctx context.Context, target string, lazy bool) error
	List(prefix string) ([]filesystem.Mount, error)
	Grow(ctx context.Context, device, target, fsType string) error
	SizeBytes(target string) (int64, error)
}

// Launcher is what the supervisor uses of ganesha.Launcher.
type Launcher interface {
	Start(ctx context.Context, process ganesha.Process) error
	Stop(ctx context.Context, name string, kill bool) error
	List(ctx context.Context) ([]ganesha.ProcessState, error)
}

// Recovery is the content of a recovery volume; root is its mount.
type Recovery interface {
	Records(root string) (ganesha.Recorded, error)
	GraceState(root string) (ganesha.Grace, error)
	WipeForeign(root string) error
	RemoveOrphans(root string) error
	DropProbeRecords(root string) (int, error)
	DropClients(root string, drop func(client string) bool) (int, error)
	KnownClients(root string) (map[string]ganesha.KnownClient, error)
	RememberClients(root string, clients map[string]ganesha.KnownClient) error
	ReadIdentity(root string) (ganesha.Identity, error)
	WriteIdentity(root string, identity ganesha.Identity) error
}

// Host is the rest of the node: small things that need no program.
type Host interface {
	// DeviceExists says whether the device's node is in /dev.
	DeviceExists(path string) bool
	// PortFree says whether nobody in the pod listens at the port.
	PortFree(port int) bool
	// Locked says whether a process, of whichever pod, holds the lock; EnsureLock
	// makes its file.
	Locked(path string) bool
	EnsureLock(path string) error
	// RootIsEmpty says whether the filesystem holds nothing that a user made.
	RootIsEmpty(root string) (bool, error)
	// ApplyRoot sets owner and mode of a directory.
	ApplyRoot(root string, uid, gid int, mode fs.FileMode) error
	// Marked and Mark read and set a durable mark on a mounted volume.
	Marked(root, mark string) (bool, error)
	Mark(root, mark string) error
}

// Prober proves that the server at address serves path.
type Prober func(ctx context.Context, address, path string) error

// Speaker says to the server at address, as the client of this owner, that it
// has nothing to reclaim.
type Speaker func(ctx context.Context, address, owner string) error

// GaneshaRecovery is Recovery by pkg/ganesha.
type GaneshaRecovery struct{}

// Records is ganesha.Records.
func (GaneshaRecovery) Records(root string) (ganesha.Recorded, error) { return ganesha.Records(root) }

// GraceState is ganesha.GraceState.
func (GaneshaRecovery) GraceState(root string) (ganesha.Grace, error) {
	return ganesha.GraceState(root)
}

// WipeForeign is ganesha.WipeForeign.
func (GaneshaRecovery) WipeForeign(root string) error { return ganesha.WipeForeign(root) }

// RemoveOrphans is ganesha.RemoveOrphans.
func (GaneshaRecovery) RemoveOrphans(root string) error { return ganesha.RemoveOrphans(root) }

// DropProbeRecords is ganesha.DropProbeRecords.
func (GaneshaRecovery) DropProbeRecords(root string) (int, error) {
	return ganesha.DropProbeRecords(root)
}

// DropClients is ganesha.DropClients.
func (GaneshaRecovery) DropClients(root string, drop func(client string) bool) (int, error) {
	return ganesha.DropClients(root, drop)
}

// KnownClients is ganesha.KnownClients.
func (GaneshaRecovery) KnownClients(root string) (map[string]ganesha.KnownClient, error) {
	return ganesha.KnownClients(root)
}

// RememberClients is ganesha.RememberClients.
func (GaneshaRecovery) RememberClients(root string, clients map[string]ganesha.KnownClient) error {
	return ganesha.RememberClients(root, clients)
}

// ReadIdentity is ganesha.ReadIdentity.
func (GaneshaRecovery) ReadIdentity(root string) (ganesha.Identity, error) {
	return ganesha.ReadIdentity(root)
}

// WriteIdentity is ganesha.WriteIdentity.
func (GaneshaRecovery) WriteIdentity(root string, identity ganesha.Identity) error {
	return ganesha.WriteIdentity(root, identity)
}

// LocalHost is Host on the machine the supervisor runs on.
type LocalHost struct{}

// DeviceExists implements Host.
func (LocalHost) DeviceExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeDevice != 0
}

// PortFree implements Host. ganesha listens on all addresses, so does this.
func (LocalHost) PortFree(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = listener.Close()
	return true
}

// Locked implements Host.
func (LocalHost) Locked(path string) bool {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	return errors.Is(unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// EnsureLock implements Host.
func (LocalHost) EnsureLock(path string) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		var file *os.File
		if file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("make lock %s: %w", path, err)
	}
	return nil
}

// RootIsEmpty implements Host.
func (LocalHost) RootIsEmpty(root string) (bool, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return false, fmt.Errorf("read root directory %s: %w", root, err)
	}
	for _, entry := range entries {
		if entry.Name() != "lost+found" {
			return false, nil
		}
	}
	return true, nil
}

// ApplyRoot implements Host.
func (LocalHost) ApplyRoot(root string, uid, gid int, mode fs.FileMode) error {
	if err := os.Chown(root, uid, gid); err != nil {
		return fmt.Errorf("set owner of root directory: %w", err)
	}
	// After chown, which clears set-user-ID and set-group-ID.
	if err := os.Chmod(root, mode); err != nil {
		return fmt.Errorf("set mode of root directory: %w", err)
	}
	return syncDirectory(root)
}

// Marked implements Host.
func (LocalHost) Marked(root, mark string) (bool, error) {
	_, err := os.Stat(filepath.Join(root, mark))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read mark %s: %w", mark, err)
	}
	return true, nil
}

// Mark implements Host.
func (LocalHost) Mark(root, mark string) error {
	file, err := os.OpenFile(filepath.Join(root, mark), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("set mark %s: %w", mark, err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("set mark %s: %w", mark, err)
	}
	return syncDirectory(root)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", path, err)
	}
	if err := errors.Join(directory.Sync(), directory.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

// writeFile replaces a file in one step, so that a reader or a crash never sees
// half of it.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
