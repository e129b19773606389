package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

// linstorCSIRoot holds what linstor-csi's node plugin calls. busybox is not for
// linstor-csi: the workload image takes it from this tree.
var linstorCSIRoot = build.Debian{
	Name:     "root-linstor-csi",
	Suite:    "bookworm",
	Packages: []string{"mount", "util-linux", "e2fsprogs", "xfsprogs", "nfs-common", "kmod", "busybox-static"},
	Expect:   "about 2 minutes",
}

// Roots are the names of the root trees that Root makes.
var Roots = []string{"ganesha", "sidecars", "linstor-csi"}

// Root returns the folder with the root tree of an image, for a test that runs
// its programs on the host by chroot. Nobody may change the tree.
func Root(ctx context.Context, cache *build.Cache, name string) (string, error) {
	if name == "linstor-csi" {
		return linstorCSIRoot.Get(ctx, cache)
	}
	repository, err := build.Repository()
	if err != nil {
		return "", err
	}
	definition, err := readDefinition(repository, name)
	if err != nil {
		return "", err
	}
	return definition.Get(ctx, cache)
}

// readDefinition returns the root tree that images/<name> in the repository
// describes: the release of Debian in its Dockerfile, the packages in the file
// packages, the last steps in finish.sh.
func readDefinition(repository, name string) (build.Debian, error) {
	dir := filepath.Join(repository, "images", name)
	var text [3]string
	for i, file := range []string{"Dockerfile", "packages", "finish.sh"} {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return build.Debian{}, fmt.Errorf("read the definition of the image %s: %w", name, err)
		}
		text[i] = string(content)
	}
	suite, err := parseSuite(text[0])
	if err != nil {
		return build.Debian{}, fmt.Errorf("read the definition of the image %s: %w", name, err)
	}
	packages, require := parsePackages(text[1])
	if len(packages) == 0 {
		return build.Debian{}, fmt.Errorf("read the definition of the image %s: the file packages names none", name)
	}
	return build.Debian{Name: "root-" + name, Suite: suite, Packages: packages, Require: require, Script: text[2], Expect: "about 2 minutes"}, nil
}

var fromDebian = regexp.MustCompile(`(?m)^FROM debian:([a-z]+)-slim$`)

// parseSuite returns the release of Debian that a Dockerfile ends with.
func parseSuite(dockerfile string) (string, error) {
	all := fromDebian.FindAllStringSubmatch(dockerfile, -1)
	if len(all) == 0 {
		return "", fmt.Errorf("the Dockerfile has no line FROM debian:SUITE-slim")
	}
	return all[len(all)-1][1], nil
}

// parsePackages returns the packages of a list in the form of images/*/packages
// and the versions that it wants, without the star that apt understands.
func parsePackages(text string) (packages []string, require map[string]string) {
	require = map[string]string{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for _, field := range strings.Fields(line) {
			name, version, pinned := strings.Cut(field, "=")
			packages = append(packages, name)
			if pinned {
				require[name] = strings.TrimSuffix(version, "*")
			}
		}
	}
	return packages, require
}
