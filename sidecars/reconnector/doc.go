// Package reconnector is the helper beside the LINSTOR CSI node plugin on every
// node. When the server of an export has moved, it destroys the TCP connections
// by which this node's kernel still waits for the old one, and the translations
// that would lead new connections there, so that NFS clients come back at once.
// It also tells the supervisors from which addresses this node may come.
//
// It never touches a connection to where the export is served now, and none that
// belongs to no export. It neither mounts nor serves anything.
package reconnector
