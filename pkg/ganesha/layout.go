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
// volume may contain. do is called again if a server ended its grace meanwhile:
// what it saw then was half of the old and half of the new.
func inRecords(root, what string, do func(*os.Root, layout) error) error {
	err := func() error {
		r, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		if _, err := r.Lstat(recordsDirectory); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for range 10 {
			var settled bool
			if settled, err = tryInRecords(r, do); settled {
				return err
			}
		}
		return errors.Join(errors.New("the records keep changing"), err)
	}()
	if err != nil {
		return fmt.Errorf("%s in %s: %w", what, root, err)
	}
	return nil
}

// tryInRecords says whether the link was the same before and after.
func tryInRecords(r *os.Root, do func(*os.Root, layout) error) (settled bool, err error) {
	before, err := readLink(r)
	if err != nil {
		return true, err
	}
	state, err := readDirectories(r, before)
	if err != nil {
		return true, err
	}
	err = do(r, state)
	if errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	after, linkErr := readLink(r)
	return before == after, errors.Join(err, linkErr)
}

// readLink returns what the link points to, recordsLink itself if it is a
// directory (of backend "fs", which ganesha takes over at its next start), and ""
// if there is none.
func readLink(r *os.Root) (string, error) {
	name := path.Join(recordsDirectory, recordsLink)
	info, err := r.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case info.IsDir():
		return recordsLink, nil
	}
	target, err := r.Readlink(name)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(target, recordsLink+".") || strings.Contains(target, "/") {
		return "", fmt.Errorf("the link %s points to %q, which is not ganesha's", recordsLink, target)
	}
	return target, nil
}

// readDirectories sorts the directories into the committed one and the others.
func readDirectories(r *os.Root, committed string) (layout, error) {
	var state layout
	entries, err := fs.ReadDir(r.FS(), recordsDirectory)
	if err != nil {
		return state, err
	}
	made := map[string]time.Time{}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case !entry.IsDir():
		case name == committed:
			// A link that points nowhere gives no committed directory: there is
			// nothing to reclaim from.
			state.committed = name
		case strings.HasPrefix(name, recordsLink+"."):
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return state, err
			}
			state.others = append(state.others, name)
			made[name] = info.ModTime()
		}
	}
	slices.SortFunc(state.others, func(a, b string) int { return made[a].Compare(made[b]) })
	return state, nil
}

// record is one client's directory. ganesha splits a key of more than 255 bytes
// over nested directories.
type record struct {
	client    string
	directory string
}

// listRecords returns the records in one directory of recordsDirectory.
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
	_, err := walk(directory, "")
	return records, err
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

// ownerOf returns the owner in "<address>-(<length>:<owner>)". A key whose length
// is wrong is of a record that a crash cut off: ganesha ignores it.
func ownerOf(key string) (owner string, ok bool) {
	_, rest, found := strings.Cut(key, "-(")
	if !found {
		return "", false
	}
	length, owner, found := strings.Cut(rest, ":")
	n, err := strconv.Atoi(length)
	if !found || err != nil || len(owner) != n+1 || owner[n] != ')' {
		return "", false
	}
	return owner[:n], true
}

func isKey(key string) bool {
	_, ok := ownerOf(key)
	return ok
}

// isProbe recognises the owner of our probes, printed as it is or in hex.
func isProbe(key string) bool {
	owner, ok := ownerOf(key)
	return ok && (strings.HasPrefix(owner, nfs.OwnerPrefix) ||
		strings.HasPrefix(strings.ToLower(owner), fmt.Sprintf("0x%x", nfs.OwnerPrefix)))
}
