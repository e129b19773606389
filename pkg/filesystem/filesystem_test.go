package filesystem

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	utilexec "k8s.io/utils/exec"
)

// These tests work on real loop devices and need root: a fake could not show
// what the programs and the kernel do.

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	output, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, output)
	}
	return strings.TrimSpace(string(output))
}

// newDevice returns a blank loop device of this size, and the file behind it.
func newDevice(t *testing.T, size string) (device, file string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root, for loop devices")
	}
	file = filepath.Join(t.TempDir(), "image")
	run(t, "truncate", "--size="+size, file)
	return attach(t, file), file
}

func attach(t *testing.T, file string, options ...string) string {
	t.Helper()
	device := run(t, "losetup", append(append([]string{"--find", "--show"}, options...), file)...)
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	return device
}

// newTarget returns a mount point that is unmounted at the end of the test.
func newTarget(t *testing.T, m *Manager) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "mounts", "target")
	t.Cleanup(func() {
		if err := m.Unmount(context.Background(), target, false); err != nil {
			t.Error(err)
		}
	})
	return target
}

func newManager() *Manager { return New(utilexec.New()) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var types = map[string]string{Ext4: "64M", XFS: "320M"}

func TestBlankDeviceIsFormattedOnce(t *testing.T) {
	for fsType, size := range types {
		t.Run(fsType, func(t *testing.T) {
			m, ctx := newManager(), t.Context()
			device, _ := newDevice(t, size)
			identity, err := m.Identify(ctx, device)
			ok(t, err)
			if !identity.Blank() {
				t.Fatalf("a blank device is %+v", identity)
			}
			ok(t, m.FormatBlank(ctx, device, fsType, "a-label-that-is-too-long"))
			made, err := m.Identify(ctx, device)
			ok(t, err)
			if made.FSType != fsType || made.UUID == "" {
				t.Fatalf("got %+v", made)
			}
			if err := m.FormatBlank(ctx, device, fsType, "again"); !errors.Is(err, ErrNotBlank) {
				t.Fatalf("the second time: %v", err)
			}
			if again, err := m.Identify(ctx, device); err != nil || again != made {
				t.Errorf("got %+v, %v; it was %+v", again, err, made)
			}
		})
	}
}

func TestFormatRefusesWhateverIsNotBlank(t *testing.T) {
	write := func(t *testing.T, file, text string, offset int64) {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		ok(t, err)
		_, err = f.WriteAt([]byte(text), offset)
		ok(t, err)
		ok(t, f.Close())
	}
	for name, prepare := range map[string]func(t *testing.T, device, file string){
		"ext4": func(t *testing.T, device, _ string) { run(t, "mkfs.ext4", "-q", device) },
		"ext4 without its start": func(t *testing.T, device, file string) {
			run(t, "mkfs.ext4", "-q", device)
			write(t, file, strings.Repeat("\000", 4096), 0)
		},
		"swap": func(t *testing.T, device, _ string) { run(t, "mkswap", device) },
		"partition table": func(t *testing.T, device, file string) {
			write(t, file, "\x80\x00\x01\x01\x83\xfe\xff\xff\x00\x08\x00\x00\x00\x00\x01\x00", 446)
			write(t, file, "\x55\xaa", 510)
		},
		"data without signature": func(t *testing.T, _, file string) { write(t, file, "somebody's data", 4096) },
		"data at the end":        func(t *testing.T, _, file string) { write(t, file, "x", 8<<20-1) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager()
			device, file := newDevice(t, "8M")
			prepare(t, device, file)
			run(t, "blockdev", "--flushbufs", device)
			before := run(t, "cksum", file)
			if err := m.FormatBlank(t.Context(), device, Ext4, "new"); !errors.Is(err, ErrNotBlank) {
				t.Errorf("got %v", err)
			}
			run(t, "sync", file)
			if after := run(t, "cksum", file); after != before {
				t.Error("the device was changed")
			}
		})
	}
}

func TestReadErrorIsNotBlank(t *testing.T) {
	m := newManager()
	device, file := newDevice(t, "64M")
	// Beyond the end of its file a loop device gives I/O errors.
	run(t, "truncate", "--size=32M", file)
	if identity, err := m.Identify(t.Context(), device); err == nil || errors.Is(err, ErrNotBlank) {
		t.Errorf("got %+v, %v", identity, err)
	}
	if err := m.FormatBlank(t.Context(), device, Ext4, "new"); err == nil {
		t.Error("it was formatted")
	}
	for _, missing := range []string{filepath.Join(t.TempDir(), "missing"), "/dev/null"} {
		if identity, err := m.Identify(t.Context(), missing); err == nil {
			t.Errorf("%s: got %+v", missing, identity)
		}
	}
}

func TestOnlyServableTypesAreTouched(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, _ := newDevice(t, "16M")
	for name, err := range map[string]error{
		"format": m.FormatBlank(ctx, device, "vfat", ""),
		"check":  m.Check(ctx, device, "vfat"),
		"mount":  m.Mount(ctx, device, t.TempDir(), "vfat", nil),
		"grow":   m.Grow(ctx, device, "", ""),
	} {
		if err == nil {
			t.Errorf("%s was done", name)
		}
	}
}

func TestCheckRepairsExt4(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, _ := newDevice(t, "64M")
	ok(t, m.FormatBlank(ctx, device, Ext4, "x"))
	// What a crash leaves: the filesystem was not unmounted, its counts are wrong.
	run(t, "debugfs", "-w", "-R", "set_super_value free_blocks_count 1", device)
	run(t, "debugfs", "-w", "-R", "set_super_value state 0", device)
	ok(t, m.Check(ctx, device, Ext4))
	run(t, "e2fsck", "-f", "-n", device)
	ok(t, m.Check(ctx, device, Ext4))
}

// A container that copied the mount keeps the filesystem mounted, out of sight: that
// must not keep it from being served again.
func TestFilesystemThatSomebodyElseHasMountedIsNotChecked(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, _ := newDevice(t, "64M")
	ok(t, m.FormatBlank(ctx, device, Ext4, "x"))
	ok(t, m.Mount(ctx, device, newTarget(t, m), Ext4, nil))
	ok(t, m.Check(ctx, device, Ext4))
}

func TestCheckLeavesHeavyDamageToTheAdministrator(t *testing.T) {
	m, ctx := newManager(), t.Context()
	device, _ := newDevice(t, "64M")
	ok(t, m.FormatBlank(ctx, device, Ext4, "x"))
	run(t, "debugfs", "-w", "-R", "clri <2>", device) // the root directory is gone
	run(t, "debugfs", "-w", "-R", "set_super_value state 2", device)
	if err := m.Check(ctx, device, Ext4); !errors.Is(err, ErrNeedsRepair) {
		t.Errorf("got %v", err)
	}
	// Damage is told from a program that could not work.
	if err := m.Check(ctx, filepath.Join(t.TempDir(), "missing"), Ext4); err == nil || errors.Is(err, ErrNeedsRepair) {
		t.Errorf("got %v", err)
	}
}

func TestAHangingProgramDoesNotHangTheCaller(t *testing.T) {
	m := newManager()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := m.run(ctx, "sleep", "60"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
