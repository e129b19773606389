package names

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// ExportID derives the Export_Id of NFS-Ganesha, 1..65535, from the UUID of a
// resource definition. It is computed once, when the export is made, and then
// read from the NFSExport: it is part of the clients' file handles. Every export
// has a ganesha of its own, so two exports may share an id.
func ExportID(uuid string) int32 {
	sum := sha256.Sum256([]byte("export-id:" + uuid))
	return int32(binary.BigEndian.Uint32(sum[:4])%65535) + 1
}

// FSID derives the Filesystem_Id of NFS-Ganesha, "MAJOR.MINOR", from the UUID of
// a resource definition. Like ExportID it is computed once. Both parts are below
// 2^31 and not zero, because NFS servers take zero for "unset".
func FSID(uuid string) string {
	sum := sha256.Sum256([]byte("fsid:" + uuid))
	part := func(b []byte) uint32 { return binary.BigEndian.Uint32(b)&0x7ffffffe + 1 }
	return fmt.Sprintf("%d.%d", part(sum[0:4]), part(sum[4:8]))
}
