package ganesha

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// identityFile is the stamp in the root of the recovery volume.
const identityFile = "identity.json"

// Identity says whose records a recovery volume holds.
type Identity struct {
	// ResourceDefinitionUUID differs between a volume and its restored copy.
	ResourceDefinitionUUID string `json:"resourceDefinitionUUID"`
	Export                 string `json:"export"`
	ExportID               int32  `json:"exportID"`
}

// ReadIdentity reads the stamp of the recovery volume. A volume without a stamp
// gives an error that is fs.ErrNotExist.
func ReadIdentity(root string) (Identity, error) {
	var identity Identity
	data, err := os.ReadFile(filepath.Join(root, identityFile))
	if err != nil {
		return identity, fmt.Errorf("read the stamp of the recovery volume: %w", err)
	}
	if err := json.Unmarshal(data, &identity); err != nil {
		return identity, fmt.Errorf("read the stamp of the recovery volume %s: %w", root, err)
	}
	return identity, nil
}

// WriteIdentity stamps the recovery volume; when it returns, the stamp is on the
// disk, complete. A crash leaves the old stamp or the new one.
func WriteIdentity(root string, identity Identity) error {
	data, err := json.MarshalIndent(identity, "", "  ")
	if err == nil {
		err = writeDurably(root, identityFile, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("stamp the recovery volume %s: %w", root, err)
	}
	return nil
}

func writeDurably(root, name string, data []byte) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	temporary := name + ".tmp"
	file, err := r.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := r.Rename(temporary, name); err != nil {
		return err
	}
	return syncDirectory(r, ".")
}

// syncDirectory makes changes of a directory durable: dirsync does it too, but
// a volume may be mounted without.
func syncDirectory(r *os.Root, name string) error {
	directory, err := r.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
