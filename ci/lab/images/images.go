// Package images packs container images without Docker and without a registry:
// tar files that containerd imports. Base layers come from Debian root trees and
// are kept in the cache; our programs lie on top of them, in layers of their own.
package images

import (
	"context"
	"runtime"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// architecture of the programs and of the images.
const architecture = runtime.GOARCH

// Image is a container image in a file.
type Image struct {
	// Name is what a pod's manifest says, for instance linstor-rwx/sidecars:lab.
	Name string
	// Tar is an archive that `ctr -n k8s.io images import` reads. Its path
	// changes with its content.
	Tar string
	// Base is the name of the image whose layers Tar leaves out: a node must
	// have imported that one before. Empty if Tar is complete.
	Base string
	// Digest is the digest of the manifest, "sha256:...".
	Digest string
}

// The names of the images, as manifests and charts use them. LabTag is the tag
// of those that are compiled from this repository.
const (
	LabTag = "lab"

	Sidecars     = "linstor-rwx/sidecars"
	SidecarsBase = "linstor-rwx/sidecars-base:lab"
	Ganesha      = "linstor-rwx/ganesha:9.14"
	LinstorCSI   = "linstor-rwx/linstor-csi:v1.11.2"
	Attacher     = "linstor-rwx/csi-attacher:v4.12.0"
	Snapshotter  = "linstor-rwx/csi-snapshotter:v8.6.0"
	Registrar    = "linstor-rwx/csi-node-driver-registrar:lab"
	Pause        = "linstor-rwx/pause:3"
	Workload     = "linstor-rwx/workload:lab"
)

// ThirdParty returns the images that rarely change, building what is absent:
// ganesha, linstor-csi, the standard sidecars, pause, our stand-in for
// csi-node-driver-registrar, and the bases of the other images. They are worth
// being imported once, into the disk that all nodes start from. All are complete.
func ThirdParty(ctx context.Context, cache *build.Cache) ([]Image, error) {
	recipes, err := thirdParty(ctx, cache)
	if err != nil {
		return nil, err
	}
	return packAll(ctx, cache, recipes)
}

// Lab returns the images that change with every edit, compiled now: the
// sidecars image, with the DRBD stand-in in place of drbdsetup, and the
// workload image. Their tag is LabTag; their Base, if any, is among the images
// of ThirdParty.
func Lab(ctx context.Context, cache *build.Cache) ([]Image, error) {
	sidecars, err := labSidecarsRecipe(ctx, cache)
	if err != nil {
		return nil, err
	}
	workload, err := workloadRecipe(ctx, cache)
	if err != nil {
		return nil, err
	}
	return packAll(ctx, cache, []recipe{sidecars, workload})
}

// Product returns the images that users run, complete, compiled now, with the
// tag version: the sidecars image, without any stand-in, and the ganesha image.
func Product(ctx context.Context, cache *build.Cache, version string) ([]Image, error) {
	sidecars, err := sidecarsRecipe(ctx, cache, Sidecars+":"+version)
	if err != nil {
		return nil, err
	}
	ganesha, err := ganeshaRecipe(ctx, cache)
	if err != nil {
		return nil, err
	}
	return packAll(ctx, cache, []recipe{sidecars, ganesha})
}

func packAll(ctx context.Context, cache *build.Cache, recipes []recipe) ([]Image, error) {
	var images []Image
	for _, recipe := range recipes {
		image, err := recipe.pack(ctx, cache)
		if err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	return images, nil
}
