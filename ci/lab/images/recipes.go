package images

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// thirdParty returns the recipes of the images that rarely change. Go programs
// come first: Kubernetes' cluster cannot be waited for by anything else.
func thirdParty(ctx context.Context, cache *build.Cache) ([]recipe, error) {
	var recipes []recipe
	for _, standard := range []struct{ image, tool string }{
		{Attacher, "csi-attacher"},
		{Snapshotter, "csi-snapshotter"},
	} {
		program, err := toolPath(ctx, cache, standard.tool)
		if err != nil {
			return nil, err
		}
		recipe, err := singleRecipe(ctx, cache, standard.image, standard.tool, program)
		if err != nil {
			return nil, err
		}
		recipes = append(recipes, recipe)
	}

	own, err := build.Programs(ctx, cache, build.Laboratory, "pause", "csi-node-driver-registrar")
	if err != nil {
		return nil, err
	}
	for _, program := range []struct{ image, name string }{
		{Pause, "pause"},
		{Registrar, "csi-node-driver-registrar"},
	} {
		recipe, err := singleRecipe(ctx, cache, program.image, program.name, own[program.name])
		if err != nil {
			return nil, err
		}
		recipes = append(recipes, recipe)
	}

	for _, prepare := range []func(context.Context, *build.Cache) (recipe, error){linstorCSIRecipe, ganeshaRecipe, sidecarsBaseRecipe} {
		recipe, err := prepare(ctx, cache)
		if err != nil {
			return nil, err
		}
		recipes = append(recipes, recipe)
	}
	return recipes, nil
}

// singleRecipe returns the image with nothing but one static program.
func singleRecipe(ctx context.Context, cache *build.Cache, image, name, program string) (recipe, error) {
	entries := append(folders("tmp"), entry{Path: name, Mode: 0o755, Source: program})
	content, err := fileLayer(ctx, cache, name, entries...)
	if err != nil {
		return recipe{}, err
	}
	return recipe{Name: image, Entrypoint: []string{"/" + name}, Layers: []layer{content}}, nil
}

// linstorCSIRecipe returns the image of the unmodified LINSTOR CSI driver: controller
// and node plugin.
func linstorCSIRecipe(ctx context.Context, cache *build.Cache) (recipe, error) {
	base, err := rootLayer(ctx, cache, "linstor-csi")
	if err != nil {
		return recipe{}, err
	}
	program, err := toolPath(ctx, cache, "linstor-csi")
	if err != nil {
		return recipe{}, err
	}
	top, err := fileLayer(ctx, cache, "linstor-csi", entry{Path: "linstor-csi", Mode: 0o755, Source: program})
	if err != nil {
		return recipe{}, err
	}
	return recipe{Name: LinstorCSI, Entrypoint: []string{"/linstor-csi"}, Layers: []layer{base, top}}, nil
}

// ganeshaRecipe returns the image of the unmodified NFS server.
func ganeshaRecipe(ctx context.Context, cache *build.Cache) (recipe, error) {
	root, err := rootLayer(ctx, cache, "ganesha")
	if err != nil {
		return recipe{}, err
	}
	return recipe{Name: Ganesha, Layers: []layer{root}}, nil
}

// sidecarsBaseRecipe returns the image that the sidecars image is built upon.
func sidecarsBaseRecipe(ctx context.Context, cache *build.Cache) (recipe, error) {
	root, err := rootLayer(ctx, cache, "sidecars")
	if err != nil {
		return recipe{}, err
	}
	return recipe{Name: SidecarsBase, Layers: []layer{root}}, nil
}

// rootLayer returns the layer with the root tree of images/<name>.
func rootLayer(ctx context.Context, cache *build.Cache, name string) (layer, error) {
	tree, err := Root(ctx, cache, name)
	if err != nil {
		return layer{}, err
	}
	return treeLayer(ctx, cache, name+"-root", tree)
}

// productPrograms are the programs of the sidecars image. What is edited most
// comes last: a changed layer makes a node unpack all layers above it again.
var productPrograms = []string{"ganesha-launcher", "rwx-resizer", "nfs-reconnector", "rwx-provisioner", "ganesha-supervisor"}

// sidecarsRecipe returns the complete sidecars image, as users run it.
func sidecarsRecipe(ctx context.Context, cache *build.Cache, name string) (recipe, error) {
	root, err := rootLayer(ctx, cache, "sidecars")
	if err != nil {
		return recipe{}, err
	}
	programs, err := build.Programs(ctx, cache, build.Product, productPrograms...)
	if err != nil {
		return recipe{}, err
	}
	image := recipe{Name: name, Layers: []layer{root}}
	for _, program := range productPrograms {
		content, err := fileLayer(ctx, cache, program, entry{Path: "usr/bin/" + program, Mode: 0o755, Source: programs[program]})
		if err != nil {
			return recipe{}, err
		}
		image.Layers = append(image.Layers, content)
	}
	return image, nil
}

// labSidecarsRecipe returns the sidecars image with the DRBD stand-in in place of the
// real drbdsetup, which finds no DRBD in the laboratory's kernels.
func labSidecarsRecipe(ctx context.Context, cache *build.Cache) (recipe, error) {
	image, err := sidecarsRecipe(ctx, cache, Sidecars+":"+LabTag)
	if err != nil {
		return recipe{}, err
	}
	programs, err := build.Programs(ctx, cache, build.Laboratory, "drbdsetup")
	if err != nil {
		return recipe{}, err
	}
	standIn, err := fileLayer(ctx, cache, "drbdsetup", entry{Path: "usr/sbin/drbdsetup", Mode: 0o755, Source: programs["drbdsetup"]})
	if err != nil {
		return recipe{}, err
	}
	// Below our programs: it changes less often than they do.
	image.Layers = append([]layer{image.Layers[0], standIn}, image.Layers[1:]...)
	image.Base, image.BaseLayers = SidecarsBase, 1
	return image, nil
}

// workloadRecipe returns the image of consumer pods: our workload program, and
// busybox for a shell.
func workloadRecipe(ctx context.Context, cache *build.Cache) (recipe, error) {
	tree, err := linstorCSIRoot.Get(ctx, cache)
	if err != nil {
		return recipe{}, err
	}
	programs, err := build.Programs(ctx, cache, build.Laboratory, "workload")
	if err != nil {
		return recipe{}, err
	}
	entries := append(folders("bin", "etc", "mnt", "tmp"), entry{Path: "bin/busybox", Mode: 0o755, Source: filepath.Join(tree, "bin", "busybox")})
	for _, applet := range applets {
		entries = append(entries, entry{Path: "bin/" + applet, Link: "busybox"})
	}
	tools, err := fileLayer(ctx, cache, "busybox", entries...)
	if err != nil {
		return recipe{}, err
	}
	program, err := fileLayer(ctx, cache, "workload", entry{Path: "bin/workload", Mode: 0o755, Source: programs["workload"]})
	if err != nil {
		return recipe{}, err
	}
	return recipe{Name: Workload, Entrypoint: []string{"/bin/workload"}, Layers: []layer{tools, program}}, nil
}

// applets are the names that busybox gets in the workload image.
var applets = []string{
	"cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "du", "echo", "env", "false", "find", "flock", "grep", "head",
	"hostname", "id", "kill", "ln", "ls", "md5sum", "mkdir", "mount", "mv", "nc", "ps", "pwd", "rm", "rmdir", "sed", "seq",
	"sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "tar", "tee", "test", "touch", "tr", "true", "truncate",
	"umount", "uniq", "wc", "wget", "which", "xargs",
}

// toolPath returns the executable of a tool.
func toolPath(ctx context.Context, cache *build.Cache, name string) (string, error) {
	tool, err := build.FindTool(name)
	if err != nil {
		return "", fmt.Errorf("find a program for an image: %w", err)
	}
	return tool.Get(ctx, cache)
}
