// Package linstor stands in for a LINSTOR controller and its satellites.
//
// It speaks the REST API v1 as far as linstor-csi and golinstor use it and
// keeps the properties of the real server that break naive clients: a change
// is committed to the database first and deployed by the satellites
// afterwards, so that an error leaves the object behind; offline satellites
// give a warning and catch up when they return; what a resource is used for is
// known late, by events; volumes are not always UpToDate.
//
// The database is in memory. Data lives in one backing file for each volume
// definition, which the replication layer (package drbd) gives to the nodes.
// A request that the stand-in does not know is answered with 404 and recorded
// as a violation, because a test that relied on it would prove nothing.
package linstor
