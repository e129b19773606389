package cluster

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

//go:embed umlshim/umlshim.c
var shimSource []byte

// Shim compiles the library that is preloaded into user-mode-linux.
func Shim(ctx context.Context, cache *build.Cache) (string, error) {
	const name = "umlshim.so"
	thing := build.Thing{Name: "umlshim", Key: build.Key(string(shimSource))}
	dir, err := cache.Get(ctx, thing, func(ctx context.Context, dir string) error {
		source := filepath.Join(dir, "umlshim.c")
		if err := os.WriteFile(source, shimSource, 0o644); err != nil {
			return err
		}
		command := exec.CommandContext(ctx, "gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", filepath.Join(dir, name), source, "-ldl")
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("gcc: %w: %s", err, out)
		}
		return nil
	})
	return filepath.Join(dir, name), err
}
