// Package supervisor is the node agent beside NFS-Ganesha. For each NFSExport it
// gathers facts, decides by a pure function what is to be done on this node, and
// does it: serve the export here, keep it alive, grow it, stop it, withdraw it.
//
// It does not choose for other nodes: every supervisor decides for its own node,
// and DRBD's exclusive Primary role settles who wins. It neither provisions nor
// deletes volumes, and never asks the LINSTOR controller.
package supervisor
