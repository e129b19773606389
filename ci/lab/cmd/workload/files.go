package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// deaths is how many servers may die while files are created: each may leave one
// that it did not answer for. Whoever knows how many died has to compare.
const deaths = 2

// openLoop creates a new file and removes it, again and again: what a server in
// its grace period holds up.
func openLoop(ctx context.Context, o options, say reporter) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the name of this pod: %w", err)
	}
	existed := 0
	say("opening", fields{"folder": o.arguments[0]})
	return steps(ctx, o, say, func(step int) error {
		path := filepath.Join(o.arguments[0], fmt.Sprintf(".open-%s-%d-%d", host, os.Getpid(), step))
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
		if errors.Is(err, os.ErrExist) && existed < deaths {
			// Nobody else makes files of this name: a server died after it created it
			// and before it noted for whom, and the client asks its successor.
			existed++
			say("existed", fields{"step": step})
			file, err = os.OpenFile(path, os.O_RDWR, 0)
		}
		if err != nil {
			return fmt.Errorf("create a file: %w", err)
		}
		if err := file.Close(); err != nil {
			return fmt.Errorf("close a new file: %w", err)
		}
		// Gone is good, too: a server that died after it removed the file and
		// before it answered does not remember, and the client asks its successor.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove a file: %w", err)
		}
		return nil
	})
}

// walk creates many files in a new folder, lists, stats and reads them, and
// reports how long each took. It leaves them there.
func walk(ctx context.Context, o options, say reporter) error {
	folder, err := os.MkdirTemp(o.arguments[0], "walk-")
	if err != nil {
		return fmt.Errorf("make a folder for many files: %w", err)
	}
	started := time.Now()
	for number := range o.files {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("make many files: %w", err)
		}
		content := fmt.Sprintf("file %d\n", number)
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(number)), []byte(content), 0o666); err != nil {
			return fmt.Errorf("make many files: %w", err)
		}
	}
	say("created", fields{"files": o.files, "seconds": time.Since(started).Seconds(), "folder": folder})

	started = time.Now()
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list many files: %w", err)
	}
	for _, entry := range entries {
		if _, err := entry.Info(); err != nil {
			return fmt.Errorf("stat one of many files: %w", err)
		}
	}
	say("listed", fields{"files": len(entries), "seconds": time.Since(started).Seconds()})

	started = time.Now()
	wrong := 0
	for number := range o.files {
		content, err := os.ReadFile(filepath.Join(folder, fmt.Sprint(number)))
		if err != nil {
			return fmt.Errorf("read one of many files: %w", err)
		}
		if string(content) != fmt.Sprintf("file %d\n", number) {
			wrong++
		}
	}
	say("read", fields{"files": o.files, "wrong": wrong, "seconds": time.Since(started).Seconds()})
	if len(entries) != o.files || wrong > 0 {
		return errBroken
	}
	return nil
}

// folders is how many folders browse spreads its files over.
const folders = 3

// browse lists the same files and asks for their attributes, again and again: a
// server that lost their handles answers ESTALE. It makes them first if they are
// not there.
func browse(ctx context.Context, o options, say reporter) error {
	root := o.arguments[0]
	if err := plant(root, o.files); err != nil {
		return err
	}
	say("browsing", fields{"files": o.files, "folder": root})
	return steps(ctx, o, say, func(int) error { return visit(root, o.files) })
}

func plant(root string, files int) error {
	for number := range files {
		path := filepath.Join(root, fmt.Sprint(number%folders), fmt.Sprint(number))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return fmt.Errorf("make a folder to browse: %w", err)
		}
		if err := os.WriteFile(path, []byte("leaf\n"), 0o666); err != nil {
			return fmt.Errorf("make a file to browse: %w", err)
		}
	}
	return nil
}

// visit looks at every file once. The attributes come from the server, not from
// what the client remembers: otherwise most visits would ask nobody.
func visit(root string, files int) error {
	found := 0
	for folder := range min(folders, files) {
		path := filepath.Join(root, fmt.Sprint(folder))
		entries, err := os.ReadDir(path)
		if err != nil {
			return fmt.Errorf("list a folder: %w", err)
		}
		for _, entry := range entries {
			var attributes unix.Statx_t
			err := unix.Statx(unix.AT_FDCWD, filepath.Join(path, entry.Name()), unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &attributes)
			if err != nil {
				return fmt.Errorf("stat a file: %w", err)
			}
			found++
		}
	}
	if found != files {
		return fmt.Errorf("list the folders: %d of %d files are there", found, files)
	}
	return nil
}
