package build

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// productModule is the module path of the repository's root.
const productModule = "github.com/linbit/linstor-rwx"

// Repository returns the root folder of this repository: the first folder at or
// above the current one whose go.mod is the product's.
func Repository() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), "module "+productModule+"\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the repository: no folder above %s holds the module %s", start, productModule)
		}
	}
}

// flags returns the arguments of go build: static, reproducible, without debug
// tables, and with the version that upstream's own build would set.
func (t Tool) flags() []string {
	linker := []string{"-s", "-w"}
	for _, name := range slices.Sorted(maps.Keys(t.Variables)) {
		linker = append(linker, "-X", name+"="+t.Variables[name])
	}
	return []string{"-trimpath", "-buildvcs=false", "-ldflags=" + strings.Join(linker, " ")}
}

// parallel is how many packages the compiler works on at a time. More than two
// needs more memory than a small machine has when Kubernetes is compiled.
const parallel = "-p=2"

// goBuild compiles packages of the module into output, a file, or a folder if
// it ends in a slash. The dependencies are exactly those of go.sum.
func goBuild(ctx context.Context, module, output string, flags []string, packages ...string) error {
	arguments := append([]string{"build", parallel, "-mod=readonly", "-o", output}, flags...)
	command := exec.CommandContext(ctx, "go", append(arguments, packages...)...)
	command.Dir = module
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	text, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile %s: %w\n%s", strings.Join(packages, ", "), err, lastLines(text, 20))
	}
	return nil
}

// lastLines returns the end of a program's output: where the reason stands.
func lastLines(text []byte, count int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}
