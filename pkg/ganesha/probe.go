package ganesha

import (
	"context"
	"fmt"

	"github.com/linbit/linstor-rwx/pkg/ganesha/nfs"
)

// Probe proves that the server at address ("host:port") serves the export at
// path ("/pvc-1"): it makes an NFSv4.1 session (RFC 8881), looks the path up,
// reads the attributes of its root, and takes the session and its client id
// down again. It works during grace. It returns an error if any step fails or
// ctx ends; always give it a ctx with a deadline.
//
// A ganesha that listens but could not load its export serves an empty pseudo
// filesystem: there the path does not exist, or is not a filesystem of its own.
//
// While a probe runs, ganesha has a record of it on the recovery volume; see
// DropProbeRecords.
func Probe(ctx context.Context, address, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("probe export %s at %s: %w", path, address, err)
		}
	}()
	session, err := nfs.Connect(ctx, address)
	if err != nil {
		return err
	}
	// An error of Close says nothing about the service: the answer was there.
	defer func() { _ = session.Close() }()
	rootFSID, directory, err := session.Lookup(path)
	if err != nil {
		return err
	}
	if len(directory.Handle) == 0 {
		return fmt.Errorf("the file handle is empty")
	}
	if path != "/" && directory.FSID == rootFSID {
		return fmt.Errorf("the path is in the pseudo filesystem (fsid %d.%d): the export is not loaded", rootFSID[0], rootFSID[1])
	}
	return nil
}
