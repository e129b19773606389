// Package build makes what the laboratory needs and the repository does not
// contain: pinned Go programs of others, our own programs, and Debian root
// trees. Everything lands in a cache outside the repository, under a key that
// changes when the result would, so that a second run builds nothing.
//
// It does not know what the results are used for: package images packs them.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// CacheVariable names the environment variable that moves the cache.
const CacheVariable = "LINSTOR_RWX_CACHE"

// Cache is a directory of finished results: <cache>/<thing>/<key>/. A result is
// complete or absent, because it is renamed into place when it is finished.
// Several processes may use one cache at the same time.
type Cache struct {
	dir      string
	progress io.Writer
	output   sync.Mutex
}

// OpenCache opens the cache at $LINSTOR_RWX_CACHE, by default
// ~/.cache/linstor-rwx, and makes the directory. One line for each thing that
// has to be built is written to progress.
func OpenCache(progress io.Writer) (*Cache, error) {
	dir := os.Getenv(CacheVariable)
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("find the home directory for the build cache: %w", err)
		}
		dir = filepath.Join(home, ".cache", "linstor-rwx")
	}
	return NewCache(dir, progress)
}

// NewCache opens the cache at dir.
func NewCache(dir string, progress io.Writer) (*Cache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the build cache: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the build cache: %w", err)
	}
	return &Cache{dir: dir, progress: progress}, nil
}

// Path returns a path in the cache for something that is not kept by key, for
// instance the folder of our own programs.
func (c *Cache) Path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

// Thing names one result.
type Thing struct {
	// Name is the folder: what it is.
	Name string
	// Key is the hash of everything that decides what comes out; see Key.
	Key string
	// Expect says how long the first time takes, for the progress line.
	Expect string
}

// Get returns the folder that holds the thing. If it is absent, fill is called
// with an empty folder to put it into; the folder appears under its final name
// only if fill succeeds. A second process waits for the first one. Of the
// results under other keys one stays, for those who go back and forth between
// two versions of the repository, and those that were in use an hour ago.
func (c *Cache) Get(ctx context.Context, thing Thing, fill func(ctx context.Context, dir string) error) (string, error) {
	folder := filepath.Join(c.dir, thing.Name)
	final := filepath.Join(folder, thing.Key)
	if touch(final) {
		return final, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder of %s: %w", thing.Name, err)
	}
	unlock, err := c.lock(ctx, folder, thing.Name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if touch(final) {
		return final, nil
	}

	work, err := os.MkdirTemp(folder, unfinished)
	if err != nil {
		return "", fmt.Errorf("make a folder to build %s in: %w", thing.Name, err)
	}
	// MkdirTemp makes folders that only the owner may enter; a root tree or a
	// program must be usable by everybody.
	if err := os.Chmod(work, 0o755); err != nil {
		return "", fmt.Errorf("open the folder to build %s in: %w", thing.Name, err)
	}
	defer os.RemoveAll(work)

	started := time.Now()
	c.say("building %s%s", thing.Name, expectation(thing.Expect))
	stop := c.heartbeat(thing.Name, started)
	err = fill(ctx, work)
	stop()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", thing.Name, err)
	}
	if err := os.Rename(work, final); err != nil {
		return "", fmt.Errorf("keep %s: %w", thing.Name, err)
	}
	c.say("built %s in %.1f s", thing.Name, time.Since(started).Seconds())
	return final, prune(folder, thing.Key, time.Now().Add(-inUse))
}

const (
	// unfinished starts the names of folders in which something is being built.
	unfinished = ".unfinished-"
	// inUse is how long after it was asked for a result may still be read by
	// somebody, for instance by a node that imports an image.
	inUse = time.Hour
	// keepOld is how many results under old keys stay in any case.
	keepOld = 1
)

// heartbeat writes a line every half minute, so that nobody takes a long build
// for a hanging one.
func (c *Cache) heartbeat(name string, started time.Time) (stop func()) {
	done := make(chan struct{})
	go func() {
		ticker := time.NewTicker(30 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				c.say("still building %s, %.0f s", name, time.Since(started).Seconds())
			}
		}
	}()
	return func() { close(done) }
}

func expectation(expect string) string {
	if expect == "" {
		return ""
	}
	return " (" + expect + " the first time)"
}

// say writes one progress line.
func (c *Cache) say(format string, arguments ...any) {
	c.output.Lock()
	defer c.output.Unlock()
	fmt.Fprintf(c.progress, format+"\n", arguments...)
}

// touch notes that a result is in use, and tells whether it exists.
func touch(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// lock takes the lock of a folder; it waits for another process that builds
// what is called name there, saying so.
func (c *Cache) lock(ctx context.Context, folder, name string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(folder, ".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock of %s: %w", name, err)
	}
	for said := false; ; {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if !said {
			c.say("waiting for another process that builds %s", name)
			said = true
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("wait for the lock of %s: %w", name, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// prune removes results under other keys than key, but the latest keepOld of
// them and those that were asked for after the given time, and what crashed
// builds left. The caller holds the lock, so nobody is building in this folder.
func prune(folder, key string, after time.Time) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list old results in the cache: %w", err)
	}
	used := map[string]time.Time{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() || entry.Name() == key {
			continue
		}
		used[entry.Name()] = info.ModTime()
		if strings.HasPrefix(entry.Name(), unfinished) {
			used[entry.Name()] = time.Time{}
		}
	}
	latestFirst := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return used[b].Compare(used[a]) })
	for i, name := range latestFirst {
		if used[name].After(after) || (i < keepOld && !used[name].IsZero()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(folder, name)); err != nil {
			return fmt.Errorf("remove an old result from the cache: %w", err)
		}
	}
	return nil
}

// Key returns a short hash of its parts. The parts are kept apart: ("ab", "c")
// and ("a", "bc") have different keys.
func Key(parts ...string) string {
	hash := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(hash, "%d:%s\n", len(part), part)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16]
}

// FilesKey returns a hash of the names, below dir, and the contents of files.
// Directories are walked.
func FilesKey(dir string, names ...string) (string, error) {
	var files []string
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.Type().IsRegular() {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("read what decides a cache key: %w", err)
		}
	}
	slices.Sort(files)
	var parts []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read what decides a cache key: %w", err)
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return "", fmt.Errorf("name what decides a cache key: %w", err)
		}
		parts = append(parts, name, string(content))
	}
	return Key(parts...), nil
}
