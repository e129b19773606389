package chart

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/linbit/linstor-rwx/ci/lab/build"
)

var update = flag.Bool("update", false, "write the golden files of the chart anew")

// kubeVersion is what charts are rendered for when there is no cluster to ask.
const kubeVersion = "v1.36.1"

// TestRenderedChartIsTheReviewedOne renders the chart with each ci/*-values.yaml and
// compares with tests/golden. A difference is either a mistake or belongs into the
// same commit: go test ./chart -update.
func TestRenderedChartIsTheReviewedOne(t *testing.T) {
	for _, values := range valueFiles(t) {
		name := strings.TrimSuffix(filepath.Base(values), "-values.yaml")
		t.Run(name, func(t *testing.T) {
			rendered, err := render(t, "-f", values)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join(chartDir(t), "tests", "golden", name+".yaml")
			rendered = withoutCRD(rendered)
			if *update {
				if err := os.WriteFile(golden, rendered, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(rendered, want) {
				t.Errorf("the chart renders differently from %s:\n%s", golden, firstDifference(string(want), string(rendered)))
			}
		})
	}
}

// TestLintIsClean runs helm lint, warnings included, with every set of values.
func TestLintIsClean(t *testing.T) {
	for _, values := range valueFiles(t) {
		t.Run(filepath.Base(values), func(t *testing.T) {
			output, err := helm(t, "lint", "--strict", "--quiet", "--kube-version", kubeVersion, "-f", values, chartDir(t))
			if err != nil {
				t.Errorf("helm lint: %v\n%s", err, output)
			}
		})
	}
}

// TestMistakesInValuesAreRefused checks that the schema catches what users get wrong.
func TestMistakesInValuesAreRefused(t *testing.T) {
	for _, test := range []struct{ name, set, reason string }{
		{"misspelt key", "csi.contoller.replicas=2", "contoller"},
		{"misspelt key in a container", "ganesha.supervisor.ressources.x=1", "ressources"},
		{"unknown pull policy", "image.pullPolicy=Sometimes", "pullPolicy"},
		{"digest that is none", "image.ganesha.digest=9.14", "digest"},
		{"duration without a unit", "ganesha.supervisor.idleTimeout=30", "idleTimeout"},
		{"log level that is no number", "logLevel=debug", "logLevel"},
		{"no LINSTOR controller", "linstor.controllers=", "controllers"},
		{"class without a name", "storageClasses[0].default=true", "name"},
		{"port that is none", "csi.node.reconnector.httpPort=65536", "httpPort"},
		{"relative kubelet directory", "csi.node.kubeletDir=var/lib/kubelet", "kubeletDir"},
	} {
		t.Run(test.name, func(t *testing.T) {
			output, err := render(t, "--set", test.set)
			if err == nil {
				t.Fatalf("--set %s was accepted", test.set)
			}
			if !strings.Contains(err.Error(), test.reason) {
				t.Errorf("the refusal does not name %q: %v\n%s", test.reason, err, output)
			}
		})
	}
}

// TestUninstallKeepsTheExports: deleting the CRD deletes every NFSExport, so Helm
// must neither remove it nor leave it to crds/, which it never upgrades.
func TestUninstallKeepsTheExports(t *testing.T) {
	rendered, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	crds := objects(t, rendered, "CustomResourceDefinition")
	if len(crds) != 1 {
		t.Fatalf("the chart renders %d CRDs, want 1", len(crds))
	}
	if policy := crds[0].Metadata.Annotations["helm.sh/resource-policy"]; policy != "keep" {
		t.Errorf("helm.sh/resource-policy of the CRD is %q, want keep", policy)
	}
	without, err := render(t, "--set", "crd.install=false")
	if err != nil {
		t.Fatal(err)
	}
	if left := objects(t, without, "CustomResourceDefinition"); len(left) != 0 {
		t.Errorf("crd.install=false renders %d CRDs, want none", len(left))
	}
}

// TestNoRightIsAWildcard reads the RBAC rules of all sets of values.
func TestNoRightIsAWildcard(t *testing.T) {
	for _, values := range valueFiles(t) {
		rendered, err := render(t, "-f", values)
		if err != nil {
			t.Fatal(err)
		}
		for _, role := range slices.Concat(objects(t, rendered, "ClusterRole"), objects(t, rendered, "Role")) {
			if len(role.Rules) == 0 {
				t.Errorf("%s %s has no rules", role.Kind, role.Metadata.Name)
			}
			for _, rule := range role.Rules {
				if all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs); slices.Contains(all, "*") {
					t.Errorf("%s %s has a wildcard: %+v", role.Kind, role.Metadata.Name, rule)
				}
				if slices.Contains(rule.Resources, "secrets") && filepath.Base(values) == "defaults-values.yaml" {
					t.Errorf("%s %s reads secrets by default", role.Kind, role.Metadata.Name)
				}
			}
		}
	}
}

// TestUpgradeOfTheChartAloneReplacesNoPod: a pod label that names the chart's version
// would restart every NFS server at every upgrade.
func TestUpgradeOfTheChartAloneReplacesNoPod(t *testing.T) {
	rendered, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, workload := range slices.Concat(objects(t, rendered, "DaemonSet"), objects(t, rendered, "Deployment")) {
		for label := range workload.Spec.Template.Metadata.Labels {
			if label == "helm.sh/chart" || label == "app.kubernetes.io/version" {
				t.Errorf("the pods of %s %s are labelled with %s", workload.Kind, workload.Metadata.Name, label)
			}
		}
	}
}

// TestManifestsHaveNoUnknownField decodes everything as strictly as `kubectl
// --validate=strict`: the API server drops a misspelt field without a word.
func TestManifestsHaveNoUnknownField(t *testing.T) {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, values := range valueFiles(t) {
		rendered, err := render(t, "-f", values)
		if err != nil {
			t.Fatal(err)
		}
		decoded := 0
		for _, document := range bytes.Split(withoutCRD(rendered), []byte("\n---\n")) {
			if _, _, err := decoder.Decode(document, nil, nil); err != nil {
				t.Errorf("%s: %v\n%s", filepath.Base(values), err, document)
			}
			decoded++
		}
		if decoded < 5 {
			t.Errorf("%s: only %d manifests", filepath.Base(values), decoded)
		}
	}
}

// object is what the tests look at in a manifest.
type object struct {
	Kind     string
	Metadata metadata
	Rules    []struct{ APIGroups, Resources, ResourceNames, Verbs []string }
	Spec     struct{ Template struct{ Metadata metadata } }
}

type metadata struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// objects returns the manifests of one kind.
func objects(t *testing.T, rendered []byte, kind string) []object {
	t.Helper()
	var found []object
	for _, document := range bytes.Split(rendered, []byte("\n---\n")) {
		var one object
		if err := yaml.Unmarshal(document, &one); err != nil {
			t.Fatalf("parse a manifest: %v\n%s", err, document)
		}
		if one.Kind == kind {
			found = append(found, one)
		}
	}
	return found
}

// withoutCRD leaves out the manifest that `make generate` makes: it is checked in
// already.
func withoutCRD(rendered []byte) []byte {
	kept := slices.DeleteFunc(bytes.Split(rendered, []byte("\n---\n")), func(document []byte) bool {
		return bytes.Contains(document, []byte("\nkind: CustomResourceDefinition\n"))
	})
	return bytes.Join(kept, []byte("\n---\n"))
}

// firstDifference returns the first lines that differ, with their number.
func firstDifference(want, got string) string {
	wanted, gotten := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(wanted), len(gotten)) {
		var w, g string
		if i < len(wanted) {
			w = wanted[i]
		}
		if i < len(gotten) {
			g = gotten[i]
		}
		if w != g {
			return fmt.Sprintf("line %d\n- %s\n+ %s", i+1, w, g)
		}
	}
	return "no line differs"
}

// render returns what helm would install as release rwx in namespace storage.
func render(t *testing.T, arguments ...string) ([]byte, error) {
	t.Helper()
	return helm(t, append([]string{"template", "rwx", chartDir(t), "--namespace", "storage", "--kube-version", kubeVersion}, arguments...)...)
}

// helm runs the pinned helm.
func helm(t *testing.T, arguments ...string) ([]byte, error) {
	t.Helper()
	cache, err := build.OpenCache(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	tool, err := build.FindTool("helm")
	if err != nil {
		t.Fatal(err)
	}
	program, err := tool.Get(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Stdout, command.Stderr = &stdout, &stderr
	// No configuration of the user who runs the tests.
	home := t.TempDir()
	command.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	if err := command.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("helm %s: %w: %s", arguments[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// valueFiles returns the sets of values that the chart is tested with.
func valueFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartDir(t), "ci", "*-values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Fatalf("found the values %v, want at least three sets", files)
	}
	return files
}

// chartDir returns the folder of the chart.
func chartDir(t *testing.T) string {
	t.Helper()
	repository, err := build.Repository()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(repository, "charts", "linstor-rwx")
}

// TestEveryVariableOfTheChartIsRead: a value that a container gets and its program
// does not read would change nothing, and nobody would notice.
func TestEveryVariableOfTheChartIsRead(t *testing.T) {
	repository, err := build.Repository()
	if err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`envconfig:"([A-Z0-9_]+)"`)
	read := map[string]bool{}
	for _, directory := range []string{"cmd", "sidecars", "pkg"} {
		err := filepath.WalkDir(filepath.Join(repository, directory), func(path string, entry os.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, match := range variable.FindAllStringSubmatch(string(source), -1) {
				read[match[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rendered, err := render(t)
	if err != nil {
		t.Fatal(err)
	}
	given := regexp.MustCompile(`name: (RWX_[A-Z0-9_]+)`).FindAllStringSubmatch(string(rendered), -1)
	if len(given) == 0 {
		t.Fatal("the chart gives no variable, so the test proves nothing")
	}
	for _, match := range given {
		if !read[match[1]] {
			t.Errorf("nothing reads %s", match[1])
		}
	}
}
