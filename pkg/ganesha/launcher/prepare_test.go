package launcher

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestPrepareMakesWhatGaneshaNeedsOnce(t *testing.T) {
	for name, c := range map[string]struct{ before, after string }{
		"no file":          {"", "127.0.0.1 pod-1\n"},
		"name missing":     {"127.0.0.1 localhost\n10.0.0.1 pod-10 # pod-1\n", "127.0.0.1 localhost\n10.0.0.1 pod-10 # pod-1\n127.0.0.1 pod-1\n"},
		"no final newline": {"127.0.0.1 localhost", "127.0.0.1 localhost\n127.0.0.1 pod-1\n"},
		"kubelet's":        {"127.0.0.1\tlocalhost\n10.0.0.1\tpod-1\n", "127.0.0.1\tlocalhost\n10.0.0.1\tpod-1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			ok(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
			hosts := filepath.Join(root, "etc/hosts")
			if c.before != "" {
				ok(t, os.WriteFile(hosts, []byte(c.before), 0o644))
			}
			ok(t, os.WriteFile(filepath.Join(root, "etc/mtab"), []byte("old"), 0o644))
			for range 2 {
				ok(t, Prepare(root, "pod-1"))
			}
			got, err := os.ReadFile(hosts)
			ok(t, err)
			if string(got) != c.after {
				t.Errorf("got %q", got)
			}
			if target, err := os.Readlink(filepath.Join(root, "etc/mtab")); err != nil || target != "/proc/self/mounts" {
				t.Errorf("got %q, %v", target, err)
			}
			for _, directory := range []string{"run/ganesha", "var/lib/nfs/ganesha"} {
				if info, err := os.Stat(filepath.Join(root, directory)); err != nil || !info.IsDir() {
					t.Errorf("%s: %v", directory, err)
				}
			}
		})
	}
}

func TestInstallReplacesTheProgramAtOnce(t *testing.T) {
	destination := filepath.Join(t.TempDir(), "new", "launcher")
	for range 2 {
		ok(t, Install(destination))
	}
	if output, err := exec.Command(destination, "-test.list", "TestInstall").CombinedOutput(); err != nil || len(output) == 0 {
		t.Errorf("the copy does not run: %v %s", err, output)
	}
	entries, err := os.ReadDir(filepath.Dir(destination))
	ok(t, err)
	if len(entries) != 1 {
		t.Errorf("something was left behind: %v", entries)
	}
}
