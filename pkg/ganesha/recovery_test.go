package ganesha

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// The layouts here are those that ganesha 9.14 makes; ganeshatest proves that
// against the real one.

func key(owner string) string { return fmt.Sprintf("::ffff:10.0.0.1-(%d:%s)", len(owner), owner) }

var (
	one, two = key("Linux NFSv4.2 client-1"), key("0x4c696e75782f78")
	probe    = key("linstor-rwx-probe-d1c9ffcabdfa5b96")
	hexProbe = key("0x6c696e73746f722d7277782d70726f62652d")
	broken   = "::ffff:10.0.0.1-(99:cut-off)"
	long     = key(strings.Repeat("a-client-with-a-long-name", 20))
)

// volume makes a recovery volume: the link, and what is in each directory. A
// directory that comes later is newer.
func volume(t *testing.T, link string, directories ...[]string) string {
	t.Helper()
	root := t.TempDir()
	records := filepath.Join(root, "v4recov")
	must(t, os.MkdirAll(filepath.Join(root, "lost+found"), 0o700))
	must(t, os.Mkdir(records, 0o700))
	if link != "" {
		must(t, os.Symlink(link, filepath.Join(records, "node0")))
	}
	for i, directory := range directories {
		path := filepath.Join(records, directory[0])
		must(t, os.Mkdir(path, 0o700))
		for _, client := range directory[1:] {
			below := path
			for part := range slices.Chunk([]byte(client), 255) {
				below = filepath.Join(below, string(part))
			}
			must(t, os.MkdirAll(below, 0o700))
			must(t, os.WriteFile(filepath.Join(below, "\x01revoked"), nil, 0o600))
		}
		when := time.Now().Add(time.Duration(i-10) * time.Minute)
		must(t, os.Chtimes(path, when, when))
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecordsAndGrace(t *testing.T) {
	sorted := func(clients ...string) []string { slices.Sort(clients); return clients }
	for name, c := range map[string]struct {
		root     string
		recorded Recorded
		grace    Grace
	}{
		"blank volume":   {root: t.TempDir()},
		"no clients yet": {root: volume(t, "node0.A", []string{"node0.A"})},
		"serving": {
			root:     volume(t, "node0.A", []string{"node0.A", one, two, probe, hexProbe, broken}),
			recorded: Recorded{sorted(one, two), sorted(one, two)},
		},
		"long names": {
			root:     volume(t, "node0.A", []string{"node0.A", long, one}),
			recorded: Recorded{sorted(long, one), sorted(long, one)},
		},
		"grace, nobody is back": {
			root:     volume(t, "node0.A", []string{"node0.A", one, two}, []string{"node0.B", probe}),
			recorded: Recorded{sorted(one, two), nil},
			grace:    Grace{Active: true, Expected: 2},
		},
		"grace, one is back, and a new one": {
			root:     volume(t, "node0.A", []string{"node0.A", one, two}, []string{"node0.B", two, long}),
			recorded: Recorded{sorted(one, two), sorted(two, long)},
			grace:    Grace{Active: true, Expected: 2, Reclaimed: 1},
		},
		"grace, beside an older orphan": {
			root:     volume(t, "node0.A", []string{"node0.A", one}, []string{"node0.O", two}, []string{"node0.B", one}),
			recorded: Recorded{sorted(one), sorted(one)},
			grace:    Grace{Active: true, Expected: 1, Reclaimed: 1},
		},
		"first start, before its grace ends": {
			root:     volume(t, "", []string{"node0.A"}),
			recorded: Recorded{},
			grace:    Grace{Active: true},
		},
		"link to nowhere": {root: volume(t, "node0.gone")},
	} {
		t.Run(name, func(t *testing.T) {
			recorded, err := Records(c.root)
			must(t, err)
			if !reflect.DeepEqual(recorded, c.recorded) {
				t.Errorf("got %q, want %q", recorded, c.recorded)
			}
			grace, err := GraceState(c.root)
			must(t, err)
			if grace != c.grace {
				t.Errorf("got %+v, want %+v", grace, c.grace)
			}
		})
	}
}

// A reader beside a server that starts and ends graces sees the one or the
// other, never a volume without clients.
func TestRecordsAreNeverSeenHalf(t *testing.T) {
	root := volume(t, "node0.0", []string{"node0.0", one, two})
	records := filepath.Join(root, "v4recov")
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			for i := range 100 {
				old, next := filepath.Join(records, fmt.Sprintf("node0.%d", i)), fmt.Sprintf("node0.%d", i+1)
				err := errors.Join(
					os.MkdirAll(filepath.Join(records, next, one), 0o700),
					os.Mkdir(filepath.Join(records, next, two), 0o700),
					os.Symlink(next, filepath.Join(records, "node0.tmp")),
					os.Rename(filepath.Join(records, "node0.tmp"), filepath.Join(records, "node0")),
					os.RemoveAll(filepath.Join(old, one)), // one after the other, as ganesha does
					os.RemoveAll(old),
				)
				if err != nil {
					return err
				}
				time.Sleep(5 * time.Millisecond) // a grace lasts seconds, not less than a look
			}
			return nil
		}()
	}()
	looks := 0
	for {
		select {
		case err := <-done:
			must(t, err)
			if looks < 100 {
				t.Errorf("only %d looks: the test proves little", looks)
			}
			return
		default:
		}
		looks++
		recorded, err := Records(root)
		if err != nil || len(recorded.Clients) != 2 {
			t.Fatalf("look %d: got %+v, %v", looks, recorded, err)
		}
		if grace, err := GraceState(root); err != nil || (grace.Active && grace.Expected != 2) {
			t.Fatalf("look %d: got %+v, %v", looks, grace, err)
		}
	}
}

func TestOrphansGoAndRecordsStay(t *testing.T) {
	root := volume(t, "node0.A", []string{"node0.A", one}, []string{"node0.O", two}, []string{"node0.P"})
	must(t, os.Symlink("node0.P", filepath.Join(root, "v4recov", "node0.tmp")))
	for range 2 {
		must(t, RemoveOrphans(root))
	}
	entries, err := os.ReadDir(filepath.Join(root, "v4recov"))
	must(t, err)
	if len(entries) != 2 || entries[0].Name() != "node0" || entries[1].Name() != "node0.A" {
		t.Errorf("got %v", entries)
	}
	if recorded, err := Records(root); err != nil || !slices.Equal(recorded.Clients, []string{one}) {
		t.Errorf("got %+v, %v", recorded, err)
	}
	must(t, RemoveOrphans(t.TempDir()))
}

func TestOnlyTheRightRecordsAreDropped(t *testing.T) {
	root := volume(t, "node0.A", []string{"node0.A", one, two, long, probe, hexProbe})
	dropped, err := DropProbeRecords(root)
	if err != nil || dropped != 2 {
		t.Errorf("got %d, %v", dropped, err)
	}
	var offered []string
	dropped, err = DropClients(root, func(client string) bool {
		offered = append(offered, client)
		return client == two || client == long
	})
	if err != nil || dropped != 2 {
		t.Errorf("got %d, %v", dropped, err)
	}
	if len(offered) != 3 {
		t.Errorf("offered were %q", offered)
	}
	entries, err := os.ReadDir(filepath.Join(root, "v4recov", "node0.A"))
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != one {
		t.Errorf("got %v", entries)
	}
	if dropped, err := DropProbeRecords(t.TempDir()); err != nil || dropped != 0 {
		t.Errorf("of a blank volume: %d, %v", dropped, err)
	}
}

func TestForeignRecordsAreWiped(t *testing.T) {
	root := volume(t, "node0.A", []string{"node0.A", one, long}, []string{"node0.B", two})
	must(t, os.MkdirAll(filepath.Join(root, "v4old", "node0", one), 0o700))
	for range 2 {
		must(t, WipeForeign(root))
	}
	entries, err := os.ReadDir(root)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != "lost+found" {
		t.Errorf("got %v", entries)
	}
}

// A restored volume may contain anything: nothing outside of it is touched.
func TestLinksDoNotLeadOutOfTheVolume(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600))
	for _, target := range []string{outside, "../../x", "node0.A/../..", "."} {
		root := volume(t, target, []string{"node0.A", probe})
		if _, err := Records(root); err == nil {
			t.Errorf("link to %s: it was followed", target)
		}
		if err := RemoveOrphans(root); err == nil {
			t.Errorf("link to %s: it was followed", target)
		}
	}
	root := t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(root, "v4recov")))
	if _, err := DropProbeRecords(root); err == nil {
		t.Error("a link in place of the records was followed")
	}
	must(t, WipeForeign(root))
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Error(err)
	}
}

func TestIdentityIsReadAsWritten(t *testing.T) {
	root := t.TempDir()
	if _, err := ReadIdentity(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a new volume: %v", err)
	}
	for _, want := range []Identity{
		{ResourceDefinitionUUID: "1-2", Export: "pvc-1", ExportID: 7},
		{ResourceDefinitionUUID: "3-4", Export: "pvc-2", ExportID: 8},
	} {
		must(t, WriteIdentity(root, want))
		if got, err := ReadIdentity(root); err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	// A damaged stamp is neither a stamp nor a volume without one.
	must(t, os.WriteFile(filepath.Join(root, "identity.json"), []byte("{"), 0o600))
	if _, err := ReadIdentity(root); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(root)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
