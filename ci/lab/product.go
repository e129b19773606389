package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/linbit/linstor-rwx/ci/lab/build"
	"github.com/linbit/linstor-rwx/ci/lab/cluster"
)

const (
	// Release is the name and the namespace of the chart's release in the
	// laboratory.
	Release = "linstor-rwx"
	// installTime is how long the pods of the release may take to be ready.
	installTime = "5m"
)

// Install installs the chart of this source tree, or upgrades it, with the
// laboratory's values, and waits until its pods are ready. More files of values,
// named as they are in ci/lab, win over the laboratory's. Helm's words go to out.
func (l *Lab) Install(ctx context.Context, out io.Writer, values ...string) error {
	tree, err := build.Repository()
	if err != nil {
		return err
	}
	arguments := []string{"upgrade", "--install", Release, filepath.Join(tree, "charts", "linstor-rwx"),
		"--namespace", Release, "--create-namespace", "--wait", "--timeout", installTime}
	for _, file := range append([]string{"values.yaml"}, values...) {
		arguments = append(arguments, "--values", filepath.Join(tree, "ci", "lab", file))
	}
	if err := l.Helm(ctx, out, arguments...); err != nil {
		return fmt.Errorf("install the chart: %w", err)
	}
	return nil
}

// Helm runs helm as administrator. It builds helm if the cache has none.
func (l *Lab) Helm(ctx context.Context, out io.Writer, args ...string) error {
	cache, err := build.OpenCache(os.Stderr)
	if err != nil {
		return err
	}
	tool, err := build.FindTool("helm")
	if err != nil {
		return err
	}
	helm, err := tool.Get(ctx, cache)
	if err != nil {
		return err
	}
	return l.Run(ctx, out, helm, args...)
}

// Kubectl runs kubectl as administrator.
func (l *Lab) Kubectl(ctx context.Context, out io.Writer, args ...string) error {
	return l.Run(ctx, out, l.cluster.Kubectl(), args...)
}

// Run runs a program of this machine in the laboratory's network namespace,
// with KUBECONFIG set. Its standard output goes to out.
func (l *Lab) Run(ctx context.Context, out io.Writer, name string, args ...string) error {
	command := exec.CommandContext(ctx, name, args...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, out, os.Stderr
	command.Env = append(os.Environ(), "KUBECONFIG="+l.Kubeconfig())
	if err := cluster.InNamespace(l.cluster.Config().Name, command.Start); err != nil {
		return fmt.Errorf("start %s in the laboratory: %w", filepath.Base(name), err)
	}
	if err := command.Wait(); err != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(name), err)
	}
	return nil
}
