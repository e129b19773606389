package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// space says how large the filesystem of a folder is, as df shows it: at once and
// each time that changes. "asked" is when the call began that brought the size,
// "before" when the last call began that brought another one.
func space(ctx context.Context, o options, say reporter) error {
	size := int64(-1)
	var asked time.Time
	return steps(ctx, o, say, func(int) error {
		before := asked
		asked = time.Now()
		var filesystem unix.Statfs_t
		if err := unix.Statfs(o.arguments[0], &filesystem); err != nil {
			return fmt.Errorf("ask for the size of the filesystem: %w", err)
		}
		if now := int64(filesystem.Blocks) * filesystem.Frsize; now != size {
			size = now
			say("size", fields{"bytes": size, "asked": timestamp(asked), "before": timestamp(before)})
		}
		return nil
	})
}
