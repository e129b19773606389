package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/build"
	"github.com/linbit/linstor-rwx/ci/lab/cluster"
	"github.com/linbit/linstor-rwx/ci/lab/images"
)

// TestLaboratoryValuesFitTheLaboratory compares ci/lab/values.yaml with what the
// laboratory is made of: an image that no node has would only be noticed as pods
// that never start.
func TestLaboratoryValuesFitTheLaboratory(t *testing.T) {
	repository, err := build.Repository()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(repository, "ci", "lab", "values.yaml")
	rendered, err := render(t, "-f", file)
	if err != nil {
		t.Fatal(err)
	}
	present := []string{
		images.Sidecars + ":" + images.LabTag, images.Ganesha, images.LinstorCSI, images.Attacher, images.Snapshotter, images.Registrar,
	}
	used := regexp.MustCompile(`(?m)^ *image: "(.*)"$`).FindAllSubmatch(rendered, -1)
	if len(used) == 0 {
		t.Fatal("the chart renders no image")
	}
	for _, match := range used {
		if name := string(match[1]); !slices.Contains(present, name) {
			t.Errorf("the chart uses the image %s, which the laboratory does not have", name)
		}
	}

	var values struct {
		Linstor struct{ Controllers string }
		Ganesha struct{ NodeSelector map[string]string }
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	if want := "http://" + lab.LINSTORAddress; values.Linstor.Controllers != want {
		t.Errorf("LINSTOR is expected at %s and listens at %s", values.Linstor.Controllers, want)
	}
	if values.Ganesha.NodeSelector[cluster.StorageLabel] != "true" {
		t.Errorf("ganesha runs on %v, storage nodes have the label %s=true", values.Ganesha.NodeSelector, cluster.StorageLabel)
	}
}
