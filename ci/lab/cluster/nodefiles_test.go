package cluster

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
)

var testConfig = Config{
	Name:           "test",
	PauseImage:     "example/pause:1",
	StorageProgram: []string{"/k8s/storage", "--node={name}", "--listen={control}:1", "--from={address}"},
}

func render(t *testing.T, node Node) (map[string][]byte, guest.Spec) {
	t.Helper()
	keys, err := newPKI([]Node{node})
	if err != nil {
		t.Fatal(err)
	}
	files, err := nodeFiles(&testConfig, node, keys)
	if err != nil {
		t.Fatal(err)
	}
	var spec guest.Spec
	if err := json.Unmarshal(files[guest.SpecPath], &spec); err != nil {
		t.Fatal(err)
	}
	return files, spec
}

func TestNodesShareNoAddressAndReachEachOthersPods(t *testing.T) {
	seen := map[string]string{}
	for number := 1; number <= MaximumNode; number++ {
		node := Node{Name: "n" + string(rune('0'+number)), MemoryMiB: 512}
		if err := node.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{node.Address(), node.ControlAddress(), node.PodNetwork()} {
			if other := seen[address]; other != "" {
				t.Errorf("%s and %s have %s", node.Name, other, address)
			}
			seen[address] = node.Name
		}
		_, spec := render(t, node)
		if len(spec.Routes) != MaximumNode-1 {
			t.Errorf("%s has %d routes", node.Name, len(spec.Routes))
		}
		for _, route := range spec.Routes {
			if route.To == node.PodNetwork() || route.Via == node.Address() {
				t.Errorf("%s routes its own pods to %s", node.Name, route.Via)
			}
		}
	}
}

func TestNodeNamesWithoutAddressesAreRefused(t *testing.T) {
	for _, name := range []string{"", "n0", "n10", "node1", "n1 "} {
		if err := (Node{Name: name, MemoryMiB: 512}).Validate(); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	twice := Config{Name: "a", Directory: "b", Nodes: []Node{{Name: "n1", MemoryMiB: 512}, {Name: "n1", MemoryMiB: 512}}}
	if err := twice.validate(); err == nil {
		t.Error("the same node twice is accepted")
	}
}

func TestStorageProgramRunsBeforeKubelet(t *testing.T) {
	_, spec := render(t, Node{Name: "n3", Storage: true, MemoryMiB: 512})
	var names []string
	for _, program := range spec.Programs {
		names = append(names, program.Name)
	}
	if !slices.Equal(names, []string{"storage", "dbus", "logind", "containerd", "kubelet", "kube-proxy"}) {
		t.Errorf("programs start in the order %v", names)
	}
	want := []string{"/k8s/storage", "--node=n3", "--listen=10.88.0.13:1", "--from=10.89.0.13"}
	if !slices.Equal(spec.Programs[0].Command, want) {
		t.Errorf("storage program is %v", spec.Programs[0].Command)
	}
}

func TestOnlyStorageNodesCarryTheLabel(t *testing.T) {
	for _, storage := range []bool{true, false} {
		_, spec := render(t, Node{Name: "n1", Storage: storage, MemoryMiB: 512})
		kubelet := slices.IndexFunc(spec.Programs, func(p guest.Program) bool { return p.Name == "kubelet" })
		labelled := slices.Contains(spec.Programs[kubelet].Command, "--node-labels="+StorageLabel+"=true")
		if labelled != storage {
			t.Errorf("storage %v, labelled %v", storage, labelled)
		}
	}
}

func TestNodeConfigurationsAreComplete(t *testing.T) {
	files, _ := render(t, Node{Name: "n1", MemoryMiB: 512})
	for path, content := range files {
		for _, placeholder := range []string{"{node}", "{pods}", "{pause}", "{name}"} {
			if bytes.Contains(content, []byte(placeholder)) {
				t.Errorf("%s contains %s", path, placeholder)
			}
		}
		var parsed any
		if strings.HasSuffix(path, ".yaml") && yaml.Unmarshal(content, &parsed) != nil {
			t.Errorf("%s is not YAML", path)
		}
		if strings.HasSuffix(path, ".conflist") && json.Unmarshal(content, &parsed) != nil {
			t.Errorf("%s is not JSON", path)
		}
	}
}

func TestArchiveHoldsEveryFileAndFillsDiskBlocks(t *testing.T) {
	files := map[string][]byte{"/etc/a": []byte("one"), "/etc/b.key": []byte("two"), "/etc/empty": nil}
	content, err := archive(files)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) == 0 || len(content)%4096 != 0 {
		t.Errorf("archive has %d bytes", len(content))
	}
	found := map[string][]byte{}
	for reader := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if found["/"+header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
		if private := strings.HasSuffix(header.Name, ".key"); private != (header.Mode&0o077 == 0) {
			t.Errorf("%s has mode %o", header.Name, header.Mode)
		}
	}
	if len(found) != len(files) {
		t.Errorf("archive holds %d files", len(found))
	}
	for path, want := range files {
		if !bytes.Equal(found[path], want) {
			t.Errorf("%s is %q", path, found[path])
		}
	}
}
