package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// layer is one layer of an image, uncompressed: a node unpacks that quickest,
// and nothing travels over a network.
type layer struct {
	// Digest of the tar, "sha256:...": also its DiffID, as nothing is compressed.
	Digest string
	Size   int64
	// path of the tar.
	path string
}

// layerDate is the modification time of everything in a layer.
var layerDate = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// treeLayer returns the layer with the whole content of a root tree, kept in
// the cache under the tree's own key.
func treeLayer(ctx context.Context, cache *build.Cache, name, tree string) (layer, error) {
	key := build.Key(layerRecipe, tree)
	return keptLayer(ctx, cache, "layer-"+name, key, func(target io.Writer) error {
		return writeTree(target, tree)
	})
}

// layerRecipe is part of the keys: it changes with what this file writes.
const layerRecipe = "1"

// entry is one file of a small layer.
type entry struct {
	// Path in the image, without a leading slash. The folders above it must be
	// entries too, or exist in a lower layer.
	Path string
	// Mode of the file. Folders have fs.ModeDir and no source.
	Mode fs.FileMode
	// Source is the file with the content. A link has a target instead.
	Source string
	Link   string
}

// fileLayer returns a layer with a few files, owned by root, in the given order.
func fileLayer(ctx context.Context, cache *build.Cache, name string, entries ...entry) (layer, error) {
	parts := []string{layerRecipe}
	for _, e := range entries {
		parts = append(parts, e.Path, e.Mode.String(), e.Source, e.Link)
	}
	// The sources lie in the cache: their paths change with their content.
	return keptLayer(ctx, cache, "layer-"+name, build.Key(parts...), func(target io.Writer) error {
		return writeEntries(target, entries)
	})
}

// keptLayer returns a layer from the cache, writing it if it is absent.
func keptLayer(ctx context.Context, cache *build.Cache, name, key string, write func(io.Writer) error) (layer, error) {
	dir, err := cache.Get(ctx, build.Thing{Name: name, Key: key}, func(_ context.Context, dir string) error {
		file, err := os.Create(filepath.Join(dir, "layer.tar"))
		if err != nil {
			return fmt.Errorf("write the layer: %w", err)
		}
		defer file.Close()
		hash := sha256.New()
		counter := &countingWriter{to: io.MultiWriter(file, hash)}
		if err := write(counter); err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return fmt.Errorf("write the layer: %w", err)
		}
		return writeJSON(filepath.Join(dir, "layer.json"), layer{Digest: "sha256:" + hex.EncodeToString(hash.Sum(nil)), Size: counter.count})
	})
	if err != nil {
		return layer{}, err
	}
	var kept layer
	if err := readJSON(filepath.Join(dir, "layer.json"), &kept); err != nil {
		return layer{}, err
	}
	kept.path = filepath.Join(dir, "layer.tar")
	return kept, nil
}

// writeTree writes a root tree as a tar: sorted, with the owners and modes of
// the files, hard links kept, times replaced. The same tree gives the same
// bytes. Extended attributes are left out: no program in our trees needs one.
func writeTree(target io.Writer, tree string) error {
	archive := tar.NewWriter(target)
	first := map[uint64]string{}
	err := filepath.WalkDir(tree, func(path string, item fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		info, err := item.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		status, known := info.Sys().(*syscall.Stat_t)
		if !known {
			return errors.New("the filesystem does not say who owns " + path)
		}
		header.Name = name
		if info.IsDir() {
			header.Name += "/"
		}
		neutral(header)
		header.Uid, header.Gid = int(status.Uid), int(status.Gid)
		if info.Mode().IsRegular() && status.Nlink > 1 {
			if earlier, seen := first[status.Ino]; seen {
				header.Typeflag, header.Linkname, header.Size = tar.TypeLink, earlier, 0
				return archive.WriteHeader(header)
			}
			first[status.Ino] = name
		}
		return writeFile(archive, header, path)
	})
	if err != nil {
		return fmt.Errorf("write a root tree as a layer: %w", err)
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write a root tree as a layer: %w", err)
	}
	return nil
}

// writeEntries writes a few files as a tar.
func writeEntries(target io.Writer, entries []entry) error {
	archive := tar.NewWriter(target)
	for _, e := range entries {
		header := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), Typeflag: tar.TypeReg}
		if e.Mode&fs.ModeSticky != 0 {
			header.Mode |= 0o1000
		}
		switch {
		case e.Mode.IsDir():
			header.Typeflag, header.Name = tar.TypeDir, e.Path+"/"
		case e.Link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, e.Link
		default:
			info, err := os.Stat(e.Source)
			if err != nil {
				return fmt.Errorf("write a layer: %w", err)
			}
			header.Size = info.Size()
		}
		neutral(header)
		if err := writeFile(archive, header, e.Source); err != nil {
			return fmt.Errorf("write a layer: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write a layer: %w", err)
	}
	return nil
}

// neutral removes from a header what differs from machine to machine.
func neutral(header *tar.Header) {
	header.ModTime, header.AccessTime, header.ChangeTime = layerDate, time.Time{}, time.Time{}
	header.Uname, header.Gname = "", ""
	header.Format = tar.FormatUnknown
}

// writeFile writes a header, and the content if it is a regular file.
func writeFile(archive *tar.Writer, header *tar.Header, path string) error {
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if header.Typeflag != tar.TypeReg {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}

// under returns the entries of folders.
func folders(paths ...string) []entry {
	var entries []entry
	for _, path := range paths {
		mode := fs.ModeDir | 0o755
		if slices.Contains([]string{"tmp"}, path) {
			mode = fs.ModeDir | fs.ModeSticky | 0o777
		}
		entries = append(entries, entry{Path: path, Mode: mode})
	}
	return entries
}

// countingWriter counts what it passes on.
type countingWriter struct {
	to    io.Writer
	count int64
}

func (w *countingWriter) Write(data []byte) (int, error) {
	n, err := w.to.Write(data)
	w.count += int64(n)
	return n, err
}

func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

func readJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
