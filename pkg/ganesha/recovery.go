package ganesha

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
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
		grace = Grace{}
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
		dropped = 0
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
