package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// makeTree makes a small root tree; the order of creation and the times differ
// from call to call.
func makeTree(t *testing.T, reverse bool) string {
	t.Helper()
	tree := t.TempDir()
	files := []string{"usr/bin/mount", "usr/bin/umount", "etc/passwd"}
	if reverse {
		slices.Reverse(files)
	}
	for _, name := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(tree, "usr/bin/mount"), fs.ModeSetuid|0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(tree, "usr/bin/mount"), filepath.Join(tree, "usr/bin/mount.same")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("usr/bin", filepath.Join(tree, "bin")); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Duration(len(tree)) * time.Hour)
	if err := os.Chtimes(filepath.Join(tree, files[0]), old, old); err != nil {
		t.Fatal(err)
	}
	return tree
}

// contents returns the headers and the contents in a tar, by name.
func contents(t *testing.T, archive io.Reader) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	headers, texts := map[string]*tar.Header{}, map[string]string{}
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return headers, texts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		headers[header.Name], texts[header.Name] = header, string(text)
	}
}

func TestEqualTreesGiveEqualLayers(t *testing.T) {
	var layers [2]bytes.Buffer
	for i := range layers {
		if err := writeTree(&layers[i], makeTree(t, i == 1)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(layers[0].Bytes(), layers[1].Bytes()) {
		t.Error("the layers of equal trees differ")
	}
}

func TestALayerKeepsWhatProgramsNeed(t *testing.T) {
	var layer bytes.Buffer
	if err := writeTree(&layer, makeTree(t, false)); err != nil {
		t.Fatal(err)
	}
	headers, texts := contents(t, &layer)
	if names := slices.Sorted(maps.Keys(headers)); strings.Join(names, " ") != "bin etc/ etc/passwd usr/ usr/bin/ usr/bin/mount usr/bin/mount.same usr/bin/umount" {
		t.Fatalf("the layer holds %v", names)
	}
	if texts["etc/passwd"] != "etc/passwd" {
		t.Errorf("content: %q", texts["etc/passwd"])
	}
	if headers["bin"].Typeflag != tar.TypeSymlink || headers["bin"].Linkname != "usr/bin" {
		t.Errorf("symbolic link: %+v", headers["bin"])
	}
	if mode := headers["usr/bin/mount"].FileInfo().Mode(); mode&fs.ModeSetuid == 0 {
		t.Errorf("mode of a setuid program: %v", mode)
	}
	if same := headers["usr/bin/mount.same"]; same.Typeflag != tar.TypeLink || same.Linkname != "usr/bin/mount" {
		t.Errorf("hard link: %+v", same)
	}
}

// packTestImage packs an image with a base layer and one program.
func packTestImage(t *testing.T, base string, baseLayers int) (Image, recipe) {
	t.Helper()
	cache, err := build.NewCache(t.TempDir(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	root, err := treeLayer(t.Context(), cache, "root", makeTree(t, false))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("machine code"), 0o600); err != nil {
		t.Fatal(err)
	}
	top, err := fileLayer(t.Context(), cache, "program", entry{Path: "usr/bin/program", Mode: 0o755, Source: program}, entry{Path: "usr/bin/alias", Link: "program"})
	if err != nil {
		t.Fatal(err)
	}
	r := recipe{Name: "linstor-rwx/test:lab", Entrypoint: []string{"/usr/bin/program"}, Layers: []layer{root, top}, Base: base, BaseLayers: baseLayers}
	image, err := r.pack(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	return image, r
}

func readArchive(t *testing.T, image Image) map[string]string {
	t.Helper()
	file, err := os.Open(image.Tar)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	_, texts := contents(t, file)
	return texts
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return value
}

func TestACompleteImageHoldsAllThatItsIndexNames(t *testing.T) {
	image, r := packTestImage(t, "", 0)
	archive := readArchive(t, image)

	index := decode[ocispec.Index](t, archive["index.json"])
	if name := index.Manifests[0].Annotations["io.containerd.image.name"]; name != "docker.io/linstor-rwx/test:lab" {
		t.Errorf("containerd would call it %q", name)
	}
	if index.Manifests[0].Digest.String() != image.Digest {
		t.Errorf("digest %s, index says %s", image.Digest, index.Manifests[0].Digest)
	}
	manifest := decode[ocispec.Manifest](t, archive[blob(image.Digest)])
	configuration := decode[ocispec.Image](t, archive[blob(manifest.Config.Digest.String())])
	if len(configuration.Config.Entrypoint) != 1 || configuration.Config.Entrypoint[0] != "/usr/bin/program" {
		t.Errorf("entrypoint %v", configuration.Config.Entrypoint)
	}
	for i, described := range manifest.Layers {
		text := archive[blob(described.Digest.String())]
		if int64(len(text)) != described.Size || described.Digest != configuration.RootFS.DiffIDs[i] || r.Layers[i].Digest != described.Digest.String() {
			t.Errorf("layer %d: %d bytes, described %+v", i, len(text), described)
		}
		if err := described.Digest.Validate(); err != nil || described.Digest.Algorithm().FromString(text) != described.Digest {
			t.Errorf("layer %d has another content than its digest says: %v", i, err)
		}
	}
	headers, texts := contents(t, strings.NewReader(archive[blob(r.Layers[1].Digest)]))
	if texts["usr/bin/program"] != "machine code" || headers["usr/bin/program"].Mode != 0o755 || headers["usr/bin/program"].Uid != 0 {
		t.Errorf("the program: %+v", headers["usr/bin/program"])
	}

	docker := decode[[]struct {
		Config   string
		RepoTags []string
		Layers   []string
	}](t, archive["manifest.json"])
	for _, name := range append(docker[0].Layers, docker[0].Config) {
		if _, present := archive[name]; !present {
			t.Errorf("docker load would miss %s", name)
		}
	}
	if docker[0].RepoTags[0] != image.Name {
		t.Errorf("Docker would call it %v", docker[0].RepoTags)
	}
}

func TestAnImageOnABaseLeavesTheBaseOut(t *testing.T) {
	image, r := packTestImage(t, "linstor-rwx/base:lab", 1)
	archive := readArchive(t, image)
	if _, present := archive[blob(r.Layers[0].Digest)]; present {
		t.Error("the base's layer is in the archive")
	}
	if _, present := archive[blob(r.Layers[1].Digest)]; !present {
		t.Error("the top layer is not in the archive")
	}
	if _, present := archive["manifest.json"]; present {
		t.Error("Docker would try to load half an image")
	}
	whole, _ := packTestImage(t, "", 0)
	if image.Digest != whole.Digest {
		t.Errorf("the image is another one (%s) than when it is complete (%s)", image.Digest, whole.Digest)
	}
}

func TestDefinitionsOfTheRepositoryAreReadable(t *testing.T) {
	repository, err := build.Repository()
	if err != nil {
		t.Fatal(err)
	}
	ganesha, err := readDefinition(repository, "ganesha")
	if err != nil {
		t.Fatal(err)
	}
	if ganesha.Suite != "forky" || ganesha.Require["nfs-ganesha"] != "9.14" || !slices.Contains(ganesha.Packages, "nfs-ganesha-vfs") {
		t.Errorf("ganesha: %+v", ganesha)
	}
	sidecars, err := readDefinition(repository, "sidecars")
	if err != nil {
		t.Fatal(err)
	}
	if sidecars.Suite != "bookworm" || !slices.Contains(sidecars.Packages, "drbd-utils") || len(sidecars.Packages) != 7 {
		t.Errorf("sidecars: %+v", sidecars)
	}
	if _, err := readDefinition(repository, "absent"); err == nil {
		t.Error("a definition that does not exist was read")
	}
}

func TestTheReleaseOfDebianIsThatOfTheLastStage(t *testing.T) {
	for dockerfile, want := range map[string]string{
		"FROM debian:forky-slim\n":                                           "forky",
		"FROM golang:1.26 AS build\nFROM debian:bookworm-slim\nRUN x\n":      "bookworm",
		"FROM debian:trixie-slim\nRUN x\nFROM debian:bookworm-slim\nRUN y\n": "bookworm",
		"FROM scratch\n": "",
	} {
		if got, err := parseSuite(dockerfile); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", dockerfile, got, err)
		}
	}
}
