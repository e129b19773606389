package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Where our own programs stand in the repository.
const (
	// Product is the module of the programs that users run.
	Product = "."
	// Laboratory is the module of the laboratory's programs.
	Laboratory = "ci/lab"
)

// Programs compiles cmd/<name> of one of the repository's modules, Product or
// Laboratory, statically, and returns the path of each executable. It always
// asks the compiler, which knows best what is up to date (under two seconds if
// everything is). The returned files never change: another content has another
// path.
func Programs(ctx context.Context, cache *Cache, module string, names ...string) (map[string]string, error) {
	repository, err := Repository()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(repository, module)
	var packages []string
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, "cmd", name)); err != nil {
			return nil, fmt.Errorf("compile the program %s: there is no %s in this repository", name, filepath.Join(module, "cmd", name))
		}
		packages = append(packages, "./cmd/"+name)
	}

	// The compiler leaves an executable alone that is up to date, so the place
	// where it puts them is kept, for each clone of the repository its own.
	output := cache.Path("programs", Key(dir))
	if err := os.MkdirAll(output, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for compiled programs: %w", err)
	}
	unlock, err := cache.lock(ctx, output, strings.Join(names, ", "))
	if err != nil {
		return nil, err
	}
	defer unlock()
	started := time.Now()
	own := Tool{}
	stop := cache.heartbeat(strings.Join(names, ", "), started)
	err = goBuild(ctx, dir, output+"/", own.flags(), packages...)
	stop()
	if err != nil {
		return nil, err
	}

	if took := time.Since(started); took > noticeable {
		cache.say("compiled %s in %.1f s", strings.Join(names, ", "), took.Seconds())
	}

	paths := map[string]string{}
	for _, name := range names {
		compiled := filepath.Join(output, name)
		hash, err := fileHash(compiled)
		if err != nil {
			return nil, err
		}
		kept, err := cache.Get(ctx, Thing{Name: "program-" + name, Key: hash}, func(_ context.Context, dir string) error {
			return copyFile(compiled, filepath.Join(dir, name))
		})
		if err != nil {
			return nil, err
		}
		paths[name] = filepath.Join(kept, name)
	}
	return paths, nil
}

// noticeable is how long a compilation has to take to be worth a line.
const noticeable = 3 * time.Second

// fileHash returns the beginning of a file's SHA-256, enough for a cache key.
func fileHash(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read a compiled program: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("read a compiled program: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// copyFile copies an executable.
func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy a compiled program: %w", err)
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("copy a compiled program: %w", err)
	}
	if _, err := io.Copy(target, source); err != nil {
		target.Close()
		return fmt.Errorf("copy a compiled program: %w", err)
	}
	if err := target.Close(); err != nil {
		return fmt.Errorf("copy a compiled program: %w", err)
	}
	return nil
}
