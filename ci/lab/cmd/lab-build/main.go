// Command lab-build builds what the laboratory needs and keeps it in the cache
// (see package build), saying what it does and how long it took.
//
//	lab-build all                 everything below but release
//	lab-build tools               the programs of others
//	lab-build images              the container images of the laboratory
//	lab-build release VERSION DIR the images that users run, as files in DIR
//	lab-build NAME                one program of others, or one root tree; prints
//	                              its path alone
//	lab-build list                the names
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/build"
	"github.com/linbit/linstor-rwx/ci/lab/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab-build:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("say what to build: all, tools, images, release, or a name of `lab-build list`")
	}
	// Progress goes to standard error: the path of a program is the output.
	cache, err := build.OpenCache(os.Stderr)
	if err != nil {
		return err
	}
	started := time.Now()
	switch what := arguments[0]; what {
	case "list":
		for _, tool := range build.Tools {
			fmt.Println(tool.Name, tool.Version)
		}
		for _, root := range images.Roots {
			fmt.Println(rootPrefix + root)
		}
		return nil
	case "all":
		// Kubernetes is by far the longest and comes first.
		if err := tools(ctx, cache); err != nil {
			return err
		}
		if err := labImages(ctx, cache); err != nil {
			return err
		}
	case "tools":
		if err := tools(ctx, cache); err != nil {
			return err
		}
	case "images":
		if err := labImages(ctx, cache); err != nil {
			return err
		}
	case "release":
		if len(arguments) != 3 {
			return errors.New("build a release: say the version and the folder")
		}
		if err := release(ctx, cache, arguments[1], arguments[2]); err != nil {
			return err
		}
	default:
		path, err := one(ctx, cache, what)
		if err != nil {
			return err
		}
		fmt.Println(path)
		return nil
	}
	fmt.Fprintf(os.Stderr, "done in %.0f s\n", time.Since(started).Seconds())
	return nil
}

// rootPrefix tells the name of a root tree from that of a program.
const rootPrefix = "root-"

// one builds one thing by its name and returns its path.
func one(ctx context.Context, cache *build.Cache, name string) (string, error) {
	if root, found := strings.CutPrefix(name, rootPrefix); found {
		return images.Root(ctx, cache, root)
	}
	tool, err := build.FindTool(name)
	if err != nil {
		return "", err
	}
	return tool.Get(ctx, cache)
}

func tools(ctx context.Context, cache *build.Cache) error {
	for _, tool := range build.Tools {
		if _, err := tool.Get(ctx, cache); err != nil {
			return err
		}
	}
	return nil
}

func labImages(ctx context.Context, cache *build.Cache) error {
	for _, prepare := range []func(context.Context, *build.Cache) ([]images.Image, error){images.ThirdParty, images.Lab} {
		made, err := prepare(ctx, cache)
		if err != nil {
			return err
		}
		if err := show(made); err != nil {
			return err
		}
	}
	return nil
}

func show(made []images.Image) error {
	for _, image := range made {
		info, err := os.Stat(image.Tar)
		if err != nil {
			return fmt.Errorf("look at the image %s: %w", image.Name, err)
		}
		on := ""
		if image.Base != "" {
			on = " on " + image.Base
		}
		fmt.Printf("%-46s %5d MB  %.19s%s\n", image.Name, info.Size()>>20, image.Digest, on)
	}
	return nil
}

// release copies the images that users run out of the cache.
func release(ctx context.Context, cache *build.Cache, version, dir string) error {
	made, err := images.Product(ctx, cache, version)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder for the images: %w", err)
	}
	for _, image := range made {
		name := strings.NewReplacer("/", "-", ":", "-").Replace(image.Name) + ".tar"
		if err := copyFile(image.Tar, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return show(made)
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy an image: %w", err)
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("copy an image: %w", err)
	}
	defer target.Close()
	if _, err := io.Copy(target, source); err != nil {
		return fmt.Errorf("copy an image: %w", err)
	}
	if err := target.Close(); err != nil {
		return fmt.Errorf("copy an image: %w", err)
	}
	return nil
}
