package ganesha

import "errors"

// Recorded are the records of the clients that a ganesha keeps on the recovery
// volume: those that may reclaim their locks from the next server.
type Recorded struct {
	// Clients are the keys of the clients, "<address>-(<length>:<owner>)", as
	// ganesha's recovery_fs.c makes them. Records of our own probes are not
	// among them.
	Clients []string
}

// Grace is the state of a grace period as the recovery volume shows it.
type Grace struct {
	// Active: the server has not finished its grace.
	Active bool
	// Expected is how many clients may reclaim, Reclaimed how many of them have.
	Expected  int
	Reclaimed int
}

// Records returns the clients that are recorded for the next start. root is the
// mount of the recovery volume; an empty one has none.
func Records(root string) (Recorded, error) { return Recorded{}, errors.New("not implemented") }

// GraceState says how far the grace of the running server is. It means nothing
// while no server runs.
func GraceState(root string) (Grace, error) { return Grace{}, errors.New("not implemented") }

// WipeForeign removes all records: of the clients of another volume, whose
// restored or cloned copy this is. No server may run.
func WipeForeign(root string) error { return errors.New("not implemented") }

// RemoveOrphans removes what crashed starts left behind. No server may run.
func RemoveOrphans(root string) error { return errors.New("not implemented") }

// DropProbeRecords removes the records of probes that a crash interrupted; the
// next grace would wait for them in vain. No server may run. It returns how
// many there were.
func DropProbeRecords(root string) (int, error) { return 0, errors.New("not implemented") }

// DropClients removes the records of the clients that drop selects: those that
// are proven to be gone. No server may run. It returns how many there were.
func DropClients(root string, drop func(client string) bool) (int, error) {
	return 0, errors.New("not implemented")
}

// Identity says whose records a recovery volume holds.
type Identity struct {
	// ResourceDefinitionUUID differs between a volume and its restored copy.
	ResourceDefinitionUUID string `json:"resourceDefinitionUUID"`
	Export                 string `json:"export"`
	ExportID               int32  `json:"exportID"`
}

// ReadIdentity reads the stamp of the recovery volume. A volume without a stamp
// gives an error that is fs.ErrNotExist.
func ReadIdentity(root string) (Identity, error) { return Identity{}, errors.New("not implemented") }

// WriteIdentity stamps the recovery volume; when it returns, the stamp is on the
// disk, complete.
func WriteIdentity(root string, identity Identity) error { return errors.New("not implemented") }
