package linstor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// backingFile is the file with the replicated data of one volume. The uuid
// keeps a deleted definition's data apart from those of its successor.
func (c *Controller) backingFile(rd *resourceDefinition, number int) string {
	return filepath.Join(c.stateDir, "volumes", rd.name+"."+rd.uuid[:8], strconv.Itoa(number)+".img")
}

func (c *Controller) removeFile(rd *resourceDefinition, number int) {
	_ = os.Remove(c.backingFile(rd, number))
}

func (c *Controller) removeFiles(rd *resourceDefinition) {
	_ = os.RemoveAll(filepath.Dir(c.backingFile(rd, 0)))
}

func (c *Controller) snapshotFile(rd *resourceDefinition, snapshot string, number int) string {
	return filepath.Join(c.stateDir, "snapshots", rd.name+"."+rd.uuid[:8], snapshot, strconv.Itoa(number)+".img")
}

// prepareFile makes the backing file with its first content and file system.
// It may run again after a failure; a file that is complete stays untouched.
func prepareFile(ctx context.Context, v volumePlan) error {
	if err := os.MkdirAll(filepath.Dir(v.file), 0o755); err != nil {
		return fmt.Errorf("make volume directory: %w", err)
	}
	_, err := os.Stat(v.file)
	fresh := errors.Is(err, os.ErrNotExist)
	if err != nil && !fresh {
		return fmt.Errorf("look at backing file: %w", err)
	}
	if fresh && v.source != "" {
		if err := copyFile(ctx, v.source, v.file); err != nil {
			return err
		}
	}
	if err := extend(v.file, v.device<<10); err != nil {
		return err
	}
	if v.fsType == "" {
		return nil
	}
	return formatBlank(ctx, v.file, v.fsType, v.mkfs)
}

// extend makes the file at least size bytes long.
func extend(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("open backing file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("look at backing file: %w", err)
	}
	if info.Size() >= size {
		return nil
	}
	if err := file.Truncate(size); err != nil {
		return fmt.Errorf("extend backing file: %w", err)
	}
	return nil
}

// formatBlank runs mkfs as the satellite does (MkfsUtils), unless blkid sees
// something. A type that the satellite does not know is passed over.
func formatBlank(ctx context.Context, path, fsType, params string) error {
	switch err := exec.CommandContext(ctx, "blkid", "-p", path).Run(); exitCode(err) {
	case 0:
		return nil
	case 2:
	default:
		return fmt.Errorf("run blkid on backing file: %w", err)
	}
	var args []string
	switch fsType {
	case "ext4":
		args = append(strings.Fields(params), "-q", "-F", "-E", "nodiscard", path)
	case "xfs":
		args = append(strings.Fields(params), "-q", "-f", "-K", path)
	default:
		return nil
	}
	if out, err := exec.CommandContext(ctx, "mkfs."+fsType, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.%s: %w: %s", fsType, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// copyFile copies sparsely, and as a reflink where the file system can.
func copyFile(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("make directory for copy: %w", err)
	}
	out, err := exec.CommandContext(ctx, "cp", "--reflink=auto", "--sparse=always", from, to+".part").CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy backing file: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Rename(to+".part", to); err != nil {
		return fmt.Errorf("rename copy: %w", err)
	}
	return nil
}

// allocatedKiB is what the file really occupies.
func allocatedKiB(path string) int64 {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0
	}
	return st.Blocks / 2
}
