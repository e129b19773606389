package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// formatted returns a device with a new filesystem.
func formatted(t *testing.T, m *Manager, fsType string) (device, file string) {
	t.Helper()
	device, file = newDevice(t, types[fsType])
	ok(t, m.FormatBlank(t.Context(), device, fsType, "test"))
	return device, file
}

func TestMountIsIdempotentAndVerified(t *testing.T) {
	for fsType := range types {
		t.Run(fsType, func(t *testing.T) {
			m, ctx := newManager(), t.Context()
			device, _ := formatted(t, m, fsType)
			target := newTarget(t, m)
			for range 2 {
				ok(t, m.Mount(ctx, device, target, fsType, []string{"noatime"}))
			}
			mounts, err := m.List(filepath.Dir(target))
			ok(t, err)
			if len(mounts) != 1 {
				t.Fatalf("got %+v", mounts)
			}
			number, err := deviceNumber(device)
			ok(t, err)
			got := mounts[0]
			if got.Device != number || got.Target != target || got.FSType != fsType || got.ReadOnly || got.Source != device || !slices.Contains(got.Options, "noatime") {
				t.Errorf("got %+v", got)
			}
			if mounted, err := m.MountedDevice(target); err != nil || mounted != number {
				t.Errorf("got %q, %v", mounted, err)
			}
			other, _ := formatted(t, m, fsType)
			if err := m.Mount(ctx, other, target, fsType, nil); err == nil || errors.Is(err, ErrReadOnly) {
				t.Errorf("another device: %v", err)
			}
			for range 2 {
				ok(t, m.Unmount(ctx, target, false))
			}
			if mounted, err := m.MountedDevice(target); err != nil || mounted != "" {
				t.Errorf("got %q, %v", mounted, err)
			}
		})
	}
}

func TestUnmountOfNothingIsNoError(t *testing.T) {
	m := newManager()
	for _, lazy := range []bool{false, true} {
		ok(t, m.Unmount(t.Context(), filepath.Join(t.TempDir(), "not", "there"), lazy))
	}
}

// DRBD lets a device be opened only for reading while a peer is Primary, and
// mount(8) then makes a read-only mount and reports success.
func TestReadOnlyFallbackIsDetected(t *testing.T) {
	for fsType := range types {
		t.Run(fsType, func(t *testing.T) {
			m, ctx := newManager(), t.Context()
			_, file := formatted(t, m, fsType)
			device := attach(t, file, "--read-only")
			target := newTarget(t, m)
			// The fallback is real: without our care it happens.
			ok(t, os.MkdirAll(target, 0o755))
			run(t, "mount", "-t", fsType, device, target)
			if err := m.Mount(ctx, device, target, fsType, nil); !errors.Is(err, ErrReadOnly) {
				t.Errorf("on top of the fallback: %v", err)
			}
			ok(t, m.Unmount(ctx, target, false))

			if err := m.Mount(ctx, device, target, fsType, nil); !errors.Is(err, ErrReadOnly) {
				t.Errorf("got %v", err)
			}
			if err := m.Mount(ctx, device, target, fsType, []string{"ro"}); !errors.Is(err, ErrReadOnly) {
				t.Errorf("asked for: %v", err)
			}
			if mounted, err := m.MountedDevice(target); err != nil || mounted != "" {
				t.Errorf("it is still mounted: %q, %v", mounted, err)
			}
		})
	}
}

func TestAFilesystemThatFailedIsReadOnly(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, _ := formatted(t, m, Ext4)
	target := newTarget(t, m)
	ok(t, m.Mount(ctx, device, target, Ext4, nil))
	ok(t, unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	mounts, err := m.List(target)
	ok(t, err)
	if len(mounts) != 1 || !mounts[0].ReadOnly {
		t.Errorf("got %+v", mounts)
	}
	// Newer kernels report an error of ext4 in words of their own.
	for _, option := range []string{"ro", "emergency_ro", "shutdown"} {
		if !meansReadOnly(option) {
			t.Errorf("%s passes", option)
		}
	}
	if meansReadOnly("rw") || meansReadOnly("errors=remount-ro") {
		t.Error("a sound filesystem is taken for a failed one")
	}
}

// A restored snapshot of an XFS volume can be served on the node of its source.
func TestRestoredXFSMountsBesideItsSource(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, file := formatted(t, m, XFS)
	target := newTarget(t, m)
	ok(t, m.Mount(ctx, device, target, XFS, nil))
	ok(t, os.WriteFile(filepath.Join(target, "content"), []byte("x"), 0o600))
	run(t, "sync", "-f", target)
	copied := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "--sparse=always", file, copied)
	restored, restoredTarget := attach(t, copied), newTarget(t, m)
	// Its log is dirty, as a snapshot's is: the mount replays it.
	ok(t, m.Check(ctx, restored, XFS))
	ok(t, m.Mount(ctx, restored, restoredTarget, XFS, nil))
	if _, err := os.Stat(filepath.Join(restoredTarget, "content")); err != nil {
		t.Error(err)
	}
}

func TestBusyFilesystemIsDetachedOnlyWhenAsked(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, _ := formatted(t, m, Ext4)
	target := newTarget(t, m)
	ok(t, m.Mount(ctx, device, target, Ext4, nil))
	file, err := os.Create(filepath.Join(target, "open"))
	ok(t, err)
	defer func() { _ = file.Close() }()
	if err := m.Unmount(ctx, target, false); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("got %v", err)
	}
	ok(t, m.Unmount(ctx, target, true))
	if mounted, err := m.MountedDevice(target); err != nil || mounted != "" {
		t.Errorf("got %q, %v", mounted, err)
	}
	if _, err := file.WriteString("still there"); err != nil {
		t.Errorf("the user of the file lost it: %v", err)
	}
}

func TestMountsOnTopOfEachOtherAreAllUnmounted(t *testing.T) {
	m, ctx := newManager(), t.Context()
	target := newTarget(t, m)
	for range 2 {
		device, _ := formatted(t, m, Ext4)
		ok(t, os.MkdirAll(target, 0o755))
		run(t, "mount", device, target)
	}
	ok(t, m.Unmount(ctx, target, false))
	if mounts, err := m.List(target); err != nil || len(mounts) != 0 {
		t.Errorf("got %+v, %v", mounts, err)
	}
}

func TestRecordsSurviveACrashOnTheRecoveryVolume(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, file := formatted(t, m, Ext4)
	target := newTarget(t, m)
	ok(t, m.Mount(ctx, device, target, Ext4, RecoveryOptions))
	// As ganesha files a client: a directory, without any fsync.
	ok(t, os.Mkdir(filepath.Join(target, "client"), 0o700))
	// What a power failure leaves is what is on the device now.
	copied := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "--sparse=always", file, copied)
	crashed, crashedTarget := attach(t, copied), newTarget(t, m)
	ok(t, m.Check(ctx, crashed, Ext4))
	ok(t, m.Mount(ctx, crashed, crashedTarget, Ext4, RecoveryOptions))
	if _, err := os.Stat(filepath.Join(crashedTarget, "client")); err != nil {
		t.Error(err)
	}
}

func TestGrow(t *testing.T) {
	for fsType := range types {
		t.Run(fsType, func(t *testing.T) {
			m, ctx := newManager(), t.Context()
			device, file := formatted(t, m, fsType)
			target := newTarget(t, m)
			ok(t, m.Mount(ctx, device, target, fsType, nil))
			before, err := m.SizeBytes(target)
			ok(t, err)
			run(t, "truncate", "--size=+256M", file)
			run(t, "losetup", "--set-capacity", device)
			info, err := os.Stat(file)
			ok(t, err)
			if size, err := m.DeviceBytes(device); err != nil || size != info.Size() {
				t.Fatalf("got %d, %v; the file has %d", size, err, info.Size())
			}

			switch {
			case fsType == XFS || hasCapability(t, unix.CAP_SYS_RESOURCE):
				ok(t, m.Grow(ctx, device, target, fsType))
			default:
				// The kernel demands CAP_SYS_RESOURCE to grow a mounted ext4. Without
				// it the failure must be reported; growing online is proven where the
				// capability is there, and by the laboratory's nodes.
				if err := m.Grow(ctx, device, target, fsType); err == nil {
					t.Error("the failure was not reported")
				}
				ok(t, m.Unmount(ctx, target, false))
				ok(t, m.Grow(ctx, device, "", fsType))
				ok(t, m.Mount(ctx, device, target, fsType, nil))
			}
			after, err := m.SizeBytes(target)
			ok(t, err)
			if grown := after - before; grown < 232<<20 || grown > 256<<20 {
				t.Errorf("it grew from %d to %d", before, after)
			}
			if fsType == XFS || hasCapability(t, unix.CAP_SYS_RESOURCE) {
				ok(t, m.Grow(ctx, device, target, fsType)) // nothing to do
			}
		})
	}
}

// xfs_growfs takes any path below a filesystem: it must not grow the node's.
func TestGrowRefusesAnotherFilesystem(t *testing.T) {
	m, ctx := newManager(), t.Context()
	for fsType := range types {
		device, _ := formatted(t, m, fsType)
		target := newTarget(t, m)
		ok(t, os.MkdirAll(target, 0o755))
		if err := m.Grow(ctx, device, target, fsType); err == nil {
			t.Errorf("%s: nothing is mounted", fsType)
		}
	}
	device, _ := newDevice(t, "320M")
	if err := m.Grow(ctx, device, "", XFS); err == nil {
		t.Error("xfs cannot be grown while it is not mounted")
	}
}

func hasCapability(t *testing.T, capability int) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	ok(t, unix.Capget(&header, &data[0]))
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

func TestUnmountEndsWithItsContext(t *testing.T) {
	m := newManager()
	device, _ := formatted(t, m, Ext4)
	target := newTarget(t, m)
	ok(t, m.Mount(t.Context(), device, target, Ext4, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Unmount(ctx, target, false); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
