package ganesha

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha/nfs"
)

// The layout of ganesha's backend fs_ng below RecoveryRoot, with node id 0
// (recovery_fs_ng.c, and seen with 9.14):
//
//	v4recov/node0 -> node0.OLDOLD   the records that the next start reads
//	v4recov/node0.OLDOLD/<client>/  one directory per client
//	v4recov/node0.NEWNEW/<client>/  the records of the running server
//
// A server makes its directory when it starts and files a client there when the
// client makes its session (CREATE_SESSION). At the end of grace it points the
// link to its directory by a rename and removes the old one. A server that dies
// in grace leaves its directory behind, an orphan that nobody reads. A client
// that goes (DESTROY_CLIENTID), or whose lease ends, loses its record.
const (
	recordsDirectory = "v4recov"
	// oldDirectory is of backend fs only, which we do not use.
	oldDirectory = "v4old"
	recordsLink  = "node0"
)

// Recorded are the records of the clients that a ganesha keeps on the recovery
// volume. Records of our own probes are not among them.
type Recorded struct {
	// Clients are the clients that may reclaim from the next server, by the key
	// under which ganesha files them: "<address>-(<length>:<owner>)"
	// (recovery_fs.c). In alphabetical order.
	Clients []string
	// Connected are the clients that the running server knows. Outside of grace
	// they are the same as Clients.
	Connected []string
}

// Grace is the state of a grace period as the recovery volume shows it.
type Grace struct {
	// Active: the server has not finished its grace.
	Active bool
	// Expected is how many clients may reclaim.
	Expected int
	// Reclaimed is how many of them have come back. They may still be at it:
	// ganesha does not write down that a client has finished (RECLAIM_COMPLETE).
	Reclaimed int
}

// Records returns the recorded clients. root is the mount of the recovery
// volume; an empty one has none. It may be called while a server runs.
func Records(root string) (Recorded, error) {
	var recorded Recorded
	err := inRecords(root, "read the records of clients", func(r *os.Root, state layout) error {
		var err error
		if recorded.Clients, err = clientKeys(r, state.committed); err != nil {
			return err
		}
		recorded.Connected = recorded.Clients
		if state.running() != "" {
			recorded.Connected, err = clientKeys(r, state.running())
		}
		return err
	})
	return recorded, err
}

// GraceState says how far the grace of the running server is. It means nothing
// while no server runs, and needs that RemoveOrphans ran before its start.
func GraceState(root string) (Grace, error) {
	var grace Grace
	err := inRecords(root, "read the state of grace", func(r *os.Root, state layout) error {
		if state.running() == "" {
			return nil
		}
		expected, err := clientKeys(r, state.committed)
		if err != nil {
			return err
		}
		back, err := clientKeys(r, state.running())
		if err != nil {
			return err
		}
		grace = Grace{Active: true, Expected: len(expected)}
		for _, client := range expected {
			if slices.Contains(back, client) {
				grace.Reclaimed++
			}
		}
		return nil
	})
	return grace, err
}

// WipeForeign removes all records: of the clients of another volume, whose
// restored or cloned copy this is. No server may run. Stamp the volume
// (WriteIdentity) only afterwards, so that a crash in between wipes again.
func WipeForeign(root string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("wipe the records of another volume: %w", err)
	}
	defer func() { _ = r.Close() }()
	err = errors.Join(r.RemoveAll(recordsDirectory), r.RemoveAll(oldDirectory), syncDirectory(r, "."))
	if err != nil {
		return fmt.Errorf("wipe the records of another volume in %s: %w", root, err)
	}
	return nil
}

// RemoveOrphans removes what crashed starts left behind. No server may run.
func RemoveOrphans(root string) error {
	return inRecords(root, "remove the records of crashed starts", func(r *os.Root, state layout) error {
		for _, orphan := range state.others {
			if err := r.RemoveAll(path.Join(recordsDirectory, orphan)); err != nil {
				return err
			}
		}
		if err := r.Remove(path.Join(recordsDirectory, recordsLink+".tmp")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDirectory(r, recordsDirectory)
	})
}

// DropProbeRecords removes the records of probes that a crash interrupted; the
// next grace would wait for them in vain. No server may run. It returns how
// many there were.
func DropProbeRecords(root string) (int, error) { return dropRecords(root, isProbe) }

// DropClients removes the records of the clients that drop selects: those that
// are proven to be gone, for a client without a record cannot reclaim its locks.
// No server may run. It returns how many there were.
func DropClients(root string, drop func(client string) bool) (int, error) {
	return dropRecords(root, func(client string) bool { return !isProbe(client) && drop(client) })
}

func dropRecords(root string, drop func(client string) bool) (int, error) {
	dropped := 0
	err := inRecords(root, "drop records of clients", func(r *os.Root, state layout) error {
		if state.committed == "" {
			return nil
		}
		records, err := listRecords(r, state.committed)
		if err != nil {
			return err
		}
		for _, record := range records {
			if !drop(record.client) {
				continue
			}
			if err := removeRecord(r, state.committed, record.directory); err != nil {
				return err
			}
			dropped++
		}
		return syncDirectory(r, path.Join(recordsDirectory, state.committed))
	})
	return dropped, err
}

// layout is what is found in recordsDirectory.
type layout struct {
	// committed is the directory that the next start reads; "" if there is none.
	committed string
	// others are the directories that the link does not point to, the newest
	// last.
	others []string
}

// running returns the directory of a server in grace, "" outside of grace.
func (l layout) running() string {
	if len(l.others) == 0 {
		return ""
	}
	return l.others[len(l.others)-1]
}

// inRecords opens root and hands it and its layout to do, unless there are no
// records at all. Everything is done below root, whatever links a restored
// volume may contain.
func inRecords(root, what string, do func(*os.Root, layout) error) error {
	err := func() error {
		r, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		state, err := readLayout(r)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return do(r, state)
	}()
	if err != nil {
		return fmt.Errorf("%s in %s: %w", what, root, err)
	}
	return nil
}

func readLayout(r *os.Root) (layout, error) {
	var state layout
	entries, err := fs.ReadDir(r.FS(), recordsDirectory)
	if err != nil {
		return state, err
	}
	made := map[string]time.Time{}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == recordsLink && entry.Type()&fs.ModeSymlink != 0:
			target, err := r.Readlink(path.Join(recordsDirectory, name))
			if err != nil {
				return state, err
			}
			if !strings.HasPrefix(target, recordsLink+".") || strings.Contains(target, "/") {
				return state, fmt.Errorf("the link %s points to %q, which is not ganesha's", name, target)
			}
			state.committed = target
		case name == recordsLink && entry.IsDir():
			// Backend "fs" left it; ganesha takes it over at its next start.
			state.committed = name
		case strings.HasPrefix(name, recordsLink+".") && entry.IsDir():
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // the running server has just ended its grace
			}
			if err != nil {
				return state, err
			}
			state.others = append(state.others, name)
			made[name] = info.ModTime()
		}
	}
	if _, exists := made[state.committed]; !exists && state.committed != recordsLink {
		// The link points nowhere: there is nothing to reclaim from.
		state.committed = ""
	}
	state.others = slices.DeleteFunc(state.others, func(name string) bool { return name == state.committed })
	slices.SortFunc(state.others, func(a, b string) int { return made[a].Compare(made[b]) })
	return state, nil
}

// record is one client's directory. ganesha splits a key of more than 255 bytes
// over nested directories.
type record struct {
	client    string
	directory string
}

// listRecords returns the records in one directory of recordsDirectory; none if
// it has gone meanwhile.
func listRecords(r *os.Root, directory string) ([]record, error) {
	if directory == "" {
		return nil, nil
	}
	var records []record
	var walk func(directory, key string) (int, error)
	walk = func(directory, key string) (int, error) {
		entries, err := fs.ReadDir(r.FS(), path.Join(recordsDirectory, directory))
		if err != nil {
			return 0, err
		}
		parts := 0
		for _, entry := range entries {
			// Files are marks of revoked handles, not parts of a key.
			if !entry.IsDir() {
				continue
			}
			parts++
			below := path.Join(directory, entry.Name())
			nested, err := walk(below, key+entry.Name())
			if err != nil {
				return 0, err
			}
			if nested == 0 && isKey(key+entry.Name()) {
				records = append(records, record{key + entry.Name(), below})
			}
		}
		return parts, nil
	}
	if _, err := walk(directory, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return records, nil
}

// clientKeys returns the keys of the clients, without our probes.
func clientKeys(r *os.Root, directory string) ([]string, error) {
	records, err := listRecords(r, directory)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, record := range records {
		if !isProbe(record.client) {
			keys = append(keys, record.client)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// removeRecord removes the directory of a record and the nesting above it that
// becomes empty.
func removeRecord(r *os.Root, committed, directory string) error {
	if err := r.RemoveAll(path.Join(recordsDirectory, directory)); err != nil {
		return err
	}
	for parent := path.Dir(directory); parent != committed; parent = path.Dir(parent) {
		if err := r.Remove(path.Join(recordsDirectory, parent)); err != nil {
			break // another record is below it
		}
	}
	return nil
}

// splitKey takes "<address>-(<length>:<owner>)" apart. A key whose length is
// wrong is of a record that a crash cut off: ganesha ignores it.
func splitKey(key string) (address, owner string, ok bool) {
	address, rest, found := strings.Cut(key, "-(")
	if !found {
		return "", "", false
	}
	length, owner, found := strings.Cut(rest, ":")
	n, err := strconv.Atoi(length)
	if !found || err != nil || len(owner) != n+1 || owner[n] != ')' {
		return "", "", false
	}
	return address, owner[:n], true
}

func isKey(key string) bool {
	_, _, ok := splitKey(key)
	return ok
}

// isProbe recognises the owner of our probes, printed as it is or in hex.
func isProbe(key string) bool {
	_, owner, ok := splitKey(key)
	return ok && (strings.HasPrefix(owner, nfs.OwnerPrefix) ||
		strings.HasPrefix(strings.ToLower(owner), fmt.Sprintf("0x%x", nfs.OwnerPrefix)))
}
