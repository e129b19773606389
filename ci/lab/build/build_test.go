package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newTestCache(t *testing.T) (*Cache, *bytes.Buffer) {
	t.Helper()
	var progress bytes.Buffer
	cache, err := NewCache(t.TempDir(), &progress)
	if err != nil {
		t.Fatal(err)
	}
	return cache, &progress
}

func fillWith(content string) func(context.Context, string) error {
	return func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "result"), []byte(content), 0o600)
	}
}

func TestAThingIsBuiltOnceForEachKey(t *testing.T) {
	cache, progress := newTestCache(t)
	for range 2 {
		for _, key := range []string{"one", "two"} {
			dir, err := cache.Get(t.Context(), Thing{Name: "thing", Key: key, Expect: "an hour"}, fillWith(key))
			if err != nil {
				t.Fatal(err)
			}
			if content, err := os.ReadFile(filepath.Join(dir, "result")); err != nil || string(content) != key {
				t.Errorf("%s holds %q, %v", key, content, err)
			}
		}
	}
	if built := strings.Count(progress.String(), "building thing (an hour the first time)\n"); built != 2 {
		t.Errorf("built %d times:\n%s", built, progress)
	}
}

func TestAFailedBuildLeavesNothingAndIsRepeated(t *testing.T) {
	cache, _ := newTestCache(t)
	broken := errors.New("compiler on fire")
	_, err := cache.Get(t.Context(), Thing{Name: "thing", Key: "k"}, func(_ context.Context, dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o600); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "thing") {
		t.Errorf("error: %v", err)
	}
	dir, err := cache.Get(t.Context(), Thing{Name: "thing", Key: "k"}, fillWith("whole"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the failed build's file is there: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 2 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}

func TestTwoBuildersOfOneThingBuildItOnce(t *testing.T) {
	cache, _ := newTestCache(t)
	var built atomic.Int32
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			_, err := cache.Get(t.Context(), Thing{Name: "thing", Key: "k"}, func(context.Context, string) error {
				built.Add(1)
				time.Sleep(50 * time.Millisecond)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if built.Load() != 1 {
		t.Errorf("built %d times", built.Load())
	}
}

func TestWaitingForAnotherBuilderEndsWithTheContext(t *testing.T) {
	cache, progress := newTestCache(t)
	_, err := cache.Get(t.Context(), Thing{Name: "thing", Key: "k"}, func(ctx context.Context, _ string) error {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := cache.Get(short, Thing{Name: "thing", Key: "k"}, fillWith(""))
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(progress.String(), "waiting for another process that builds thing") {
		t.Errorf("%v\n%s", err, progress)
	}
}

func TestOldResultsAndRuinsArePruned(t *testing.T) {
	folder := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{
		"current": 50 * time.Hour, "recent": time.Minute, "old": 3 * time.Hour, "older": 4 * time.Hour, unfinished + "x": time.Second,
	} {
		path := filepath.Join(folder, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	left := func() string {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return strings.Join(names, " ")
	}
	if err := prune(folder, "current", now.Add(-time.Hour)); err != nil || left() != "current recent" {
		t.Errorf("after an hour: %s, %v", left(), err)
	}
	if err := prune(folder, "current", now); err != nil || left() != "current recent" {
		t.Errorf("the latest old result must stay: %s, %v", left(), err)
	}
}

func TestKeysChangeWithEverythingThatDecides(t *testing.T) {
	if Key("ab", "c") == Key("a", "bc") {
		t.Error("the parts of a key run into each other")
	}
	dir := t.TempDir()
	key := func() string {
		got, err := FilesKey(dir, ".")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	write("go.mod", "module a")
	seen[key()] = true
	write("go.mod", "module b")
	seen[key()] = true
	write("main.go", "package main")
	seen[key()] = true
	if err := os.Rename(filepath.Join(dir, "main.go"), filepath.Join(dir, "other.go")); err != nil {
		t.Fatal(err)
	}
	seen[key()] = true
	again := key()
	if len(seen) != 4 || !seen[again] {
		t.Errorf("%d different keys", len(seen))
	}

	tree := Debian{Suite: "bookworm", Packages: []string{"a", "b"}}
	if tree.key() != (Debian{Suite: "bookworm", Packages: []string{"b", "a"}}).key() {
		t.Error("the order of packages must not matter")
	}
	for name, other := range map[string]Debian{
		"suite":    {Suite: "trixie", Packages: []string{"a", "b"}},
		"packages": {Suite: "bookworm", Packages: []string{"a"}},
		"require":  {Suite: "bookworm", Packages: []string{"a", "b"}, Require: map[string]string{"a": "1"}},
		"script":   {Suite: "bookworm", Packages: []string{"a", "b"}, Script: "true"},
	} {
		if tree.key() == other.key() {
			t.Errorf("another %s has the same key", name)
		}
	}
}

func TestEveryToolHasAPinnedModuleOfItsVersion(t *testing.T) {
	repository, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range Tools {
		content, err := os.ReadFile(filepath.Join(repository, "ci", "lab", "tools", tool.Module, "go.mod"))
		if err != nil {
			t.Errorf("%s: %v", tool.Name, err)
			continue
		}
		if !strings.Contains(string(content), " "+tool.Version) {
			t.Errorf("%s: its module does not require %s", tool.Name, tool.Version)
		}
	}
}

func TestDebiansArchiveIsFoundInBothFormsOfAptSources(t *testing.T) {
	for name, test := range map[string]struct {
		extension, content, want string
	}{
		"deb822":             {".sources", "Types: deb\n# http://old.example/debian\nURIs: http://a.example/debian\nSuites: x\n", "http://a.example/debian"},
		"line":               {".list", "deb http://b.example/debian bookworm main\n", "http://b.example/debian"},
		"line with options":  {".list", "deb [arch=amd64 signed-by=/k] http://b.example/debian/ bookworm main\n", "http://b.example/debian/"},
		"comment and source": {".list", "# deb http://c.example/debian x main\ndeb-src http://c.example/debian x main\n", ""},
		"security":           {".list", "deb http://s.example/debian-security bookworm-security main\n", ""},
		"other maker":        {".list", "deb https://packages.example/apt stable main\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, address := range sourceAddresses(test.extension, test.content) {
				if isDebianArchive(address) {
					got = address
				}
			}
			if got != test.want {
				t.Errorf("found %q, want %q", got, test.want)
			}
		})
	}
}

func TestATreeWithoutTheProvenVersionIsRefused(t *testing.T) {
	versions := parseInstalled("installed nfs-ganesha 9.14-2\nconfig-files nfs-ganesha-vfs 9.14-2\ninstalled dash 1.0\n")
	for name, test := range map[string]struct {
		require map[string]string
		refused string
	}{
		"fits":        {map[string]string{"nfs-ganesha": "9.14"}, ""},
		"no wish":     {nil, ""},
		"other":       {map[string]string{"nfs-ganesha": "9.1"}, "has version 9.14-2 now"},
		"not whole":   {map[string]string{"nfs-ganesha-vfs": "9.14"}, "not installed"},
		"not present": {map[string]string{"samba": "4"}, "not installed"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkVersions("forky", versions, test.require)
			if (err == nil) != (test.refused == "") || (err != nil && !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("checkVersions returned %v", err)
			}
		})
	}
}

func TestATrimmedTreeKeepsLicencesAndForgetsItsOrigin(t *testing.T) {
	tree := t.TempDir()
	for _, name := range []string{"etc/apt/sources.list", "etc/resolv.conf", "var/log/bootstrap.log", "usr/share/doc/mount/copyright", "usr/share/doc/mount/README", "usr/bin/mount", "etc/mtab"} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := trim(tree); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{
		"etc/apt/sources.list": false, "etc/resolv.conf": false, "var/log/bootstrap.log": false, "usr/share/doc/mount/README": false,
		"usr/share/doc/mount/copyright": true, "usr/bin/mount": true,
	} {
		if _, err := os.Stat(filepath.Join(tree, name)); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
	if target, err := os.Readlink(filepath.Join(tree, "etc/mtab")); err != nil || target != "/proc/self/mounts" {
		t.Errorf("/etc/mtab leads to %q, %v", target, err)
	}
}
