package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// recipe says what an image consists of.
type recipe struct {
	// Name with tag, as in a pod's manifest.
	Name string
	// Entrypoint and Environment of the image's configuration, both optional.
	Entrypoint  []string
	Environment []string
	// Layers, the lowest first.
	Layers []layer
	// Base is the name of an image that consists of the first BaseLayers layers.
	// Their content is left out of the archive. Optional.
	Base       string
	BaseLayers int
}

// searchPath is the PATH of Debian's own images.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// registry is the host that containerd and kubelet put before a name without
// one; an image is found only under its full name.
const registry = "docker.io/"

// pack returns the image, writing the archive if the cache does not hold it.
func (r recipe) pack(ctx context.Context, cache *build.Cache) (Image, error) {
	configuration, manifest, err := r.documents()
	if err != nil {
		return Image{}, err
	}
	sum := digest.FromBytes(manifest)
	thing := build.Thing{
		Name: "image-" + strings.NewReplacer("/", "-", ":", "-").Replace(strings.TrimPrefix(r.Name, "linstor-rwx/")),
		Key:  build.Key(archiveRecipe, r.Name, r.Base, sum.String()),
	}
	dir, err := cache.Get(ctx, thing, func(_ context.Context, dir string) error {
		return r.write(filepath.Join(dir, "image.tar"), configuration, manifest)
	})
	if err != nil {
		return Image{}, err
	}
	return Image{Name: r.Name, Tar: filepath.Join(dir, "image.tar"), Base: r.Base, Digest: sum.String()}, nil
}

// archiveRecipe is part of the keys: it changes with what write does.
const archiveRecipe = "1"

// documents returns the configuration and the manifest of the image.
func (r recipe) documents() (configuration, manifest []byte, err error) {
	image := ocispec.Image{
		Created:  &layerDate,
		Platform: ocispec.Platform{Architecture: architecture, OS: "linux"},
		Config: ocispec.ImageConfig{
			Entrypoint: r.Entrypoint,
			Env:        append([]string{searchPath}, r.Environment...),
			WorkingDir: "/",
		},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	content := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
	}
	for _, layer := range r.Layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.Digest(layer.Digest))
		content.Layers = append(content.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(layer.Digest), Size: layer.Size})
	}
	if configuration, err = json.Marshal(image); err != nil {
		return nil, nil, fmt.Errorf("describe the image %s: %w", r.Name, err)
	}
	content.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(configuration), Size: int64(len(configuration))}
	if manifest, err = json.Marshal(content); err != nil {
		return nil, nil, fmt.Errorf("describe the image %s: %w", r.Name, err)
	}
	return configuration, manifest, nil
}

// write writes the archive: an OCI image layout, which containerd reads, with
// the manifest.json of `docker save` beside it, which Docker reads. An archive
// without the layers of its base has no manifest.json: Docker could not load it.
// containerd takes layers that it already has from its content store.
func (r recipe) write(file string, configuration, manifest []byte) error {
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageManifest,
			Digest:    digest.FromBytes(manifest),
			Size:      int64(len(manifest)),
			Platform:  &ocispec.Platform{Architecture: architecture, OS: "linux"},
			Annotations: map[string]string{
				"io.containerd.image.name": registry + r.Name,
				ocispec.AnnotationRefName:  r.Name[strings.LastIndex(r.Name, ":")+1:],
			},
		}},
	})
	if err != nil {
		return fmt.Errorf("describe the archive of %s: %w", r.Name, err)
	}
	output, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write the image %s: %w", r.Name, err)
	}
	defer output.Close()
	archive := tar.NewWriter(output)

	documents := []struct {
		name    string
		content []byte
	}{
		{ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)},
		{ocispec.ImageIndexFile, index},
		{blob(digest.FromBytes(configuration).String()), configuration},
		{blob(digest.FromBytes(manifest).String()), manifest},
	}
	if r.Base == "" {
		list, err := r.dockerManifest(digest.FromBytes(configuration).String())
		if err != nil {
			return err
		}
		documents = append(documents, struct {
			name    string
			content []byte
		}{"manifest.json", list})
	}
	for _, document := range documents {
		if err := writeBlob(archive, document.name, int64(len(document.content)), strings.NewReader(string(document.content))); err != nil {
			return fmt.Errorf("write the image %s: %w", r.Name, err)
		}
	}
	for _, layer := range r.Layers[r.BaseLayers:] {
		if err := writeLayer(archive, layer); err != nil {
			return fmt.Errorf("write the image %s: %w", r.Name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write the image %s: %w", r.Name, err)
	}
	if err := output.Close(); err != nil {
		return fmt.Errorf("write the image %s: %w", r.Name, err)
	}
	return nil
}

func (r recipe) dockerManifest(configuration string) ([]byte, error) {
	list := []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{{Config: blob(configuration), RepoTags: []string{r.Name}}}
	for _, layer := range r.Layers {
		list[0].Layers = append(list[0].Layers, blob(layer.Digest))
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("describe the archive of %s: %w", r.Name, err)
	}
	return text, nil
}

// blob returns the path of a blob in an image layout.
func blob(sum string) string {
	return path.Join("blobs", strings.Replace(sum, ":", "/", 1))
}

func writeLayer(archive *tar.Writer, layer layer) error {
	file, err := os.Open(layer.path)
	if err != nil {
		return err
	}
	defer file.Close()
	return writeBlob(archive, blob(layer.Digest), layer.Size, file)
}

func writeBlob(archive *tar.Writer, name string, size int64, content io.Reader) error {
	header := &tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}
	neutral(header)
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}
