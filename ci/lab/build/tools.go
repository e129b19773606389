package build

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// Tool is a program of somebody else, built from a module in ci/lab/tools that
// pins it.
type Tool struct {
	// Name is what we call the program.
	Name string
	// Module is the folder of the pinning module in ci/lab/tools.
	Module string
	// Package is the Go package of the program; "." is the module's own.
	Package string
	// Version is what the program says it is.
	Version string
	// Variables are set by the linker, as upstream's own build does.
	Variables map[string]string
	// Expect is the time of a first build on two cores.
	Expect string
}

const kubeVersion = "k8s.io/component-base/version."

// Tools are all programs that the laboratory builds, the longest first.
var Tools = []Tool{
	{Name: "kube", Module: "kube", Package: ".", Version: "v1.36.1", Expect: "about 10 minutes", Variables: map[string]string{
		kubeVersion + "gitVersion":   "v1.36.1",
		kubeVersion + "gitMajor":     "1",
		kubeVersion + "gitMinor":     "36",
		kubeVersion + "gitTreeState": "clean",
	}},
	{Name: "helm", Module: "helm", Package: "helm.sh/helm/v3/cmd/helm", Version: "v3.20.2", Expect: "about 2 minutes", Variables: map[string]string{
		"helm.sh/helm/v3/internal/version.version": "v3.20.2",
	}},
	{Name: "linstor-csi", Module: "linstor-csi", Package: "github.com/piraeusdatastore/linstor-csi/cmd/linstor-csi", Version: "v1.11.2", Expect: "about a minute", Variables: map[string]string{
		"github.com/piraeusdatastore/linstor-csi/pkg/driver.Version": "v1.11.2",
	}},
	sidecar("csi-attacher", "external-attacher/v4", "v4.12.0"),
	sidecar("csi-snapshotter", "external-snapshotter/v8", "v8.6.0"),
	{Name: "golangci-lint", Module: "lint", Package: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint", Version: "v2.15.0", Expect: "about 2 minutes", Variables: map[string]string{
		"main.version": "2.15.0",
	}},
	{Name: "controller-gen", Module: "codegen", Package: "sigs.k8s.io/controller-tools/cmd/controller-gen", Version: "v0.20.1", Expect: "half a minute"},
}

// sidecar describes a program of the Kubernetes CSI organisation.
func sidecar(name, module, version string) Tool {
	return Tool{
		Name:      name,
		Module:    "csi",
		Package:   "github.com/kubernetes-csi/" + module + "/cmd/" + name,
		Version:   version,
		Variables: map[string]string{"main.version": version},
		Expect:    "half a minute",
	}
}

// FindTool returns the description of a tool.
func FindTool(name string) (Tool, error) {
	for _, tool := range Tools {
		if tool.Name == name {
			return tool, nil
		}
	}
	return Tool{}, fmt.Errorf("find the tool %q: there is none of that name", name)
}

// Get returns the path of the tool's executable, building it if it is not in
// the cache. The file's name is the tool's name.
func (t Tool) Get(ctx context.Context, cache *Cache) (string, error) {
	repository, err := Repository()
	if err != nil {
		return "", err
	}
	module := filepath.Join(repository, "ci", "lab", "tools", t.Module)
	files, err := FilesKey(module, ".")
	if err != nil {
		return "", err
	}
	key := Key(files, runtime.Version(), runtime.GOARCH, strings.Join(t.flags(), " "), t.Package)
	dir, err := cache.Get(ctx, Thing{Name: t.Name, Key: key, Expect: t.Expect}, func(ctx context.Context, dir string) error {
		return goBuild(ctx, module, filepath.Join(dir, t.Name), t.flags(), t.Package)
	})
	return filepath.Join(dir, t.Name), err
}
