// Package ganesha runs NFS-Ganesha 9 for one export per process: its
// configuration, the records of its clients on the recovery volume, the probe
// that proves that the export is served, and the client of ganesha-launcher,
// which starts the processes.
//
// It depends on the standard library only, because ganesha-launcher is built
// from it.
package ganesha

import (
	"errors"
	"time"
)

// Config is everything that goes into the configuration of one ganesha. Two
// equal Configs render to equal bytes on every node.
type Config struct {
	// Export is the name of the export.
	Export string
	// ExportID is Export_Id, part of every file handle: 1..65535.
	ExportID int32
	// FSID is Filesystem_Id, "major.minor".
	FSID string
	// ServerScope is Server_Scope and Server_Owner (RFC 8881, 2.10.4).
	ServerScope string
	// DataPath is the directory that is served: the mount of the data volume.
	DataPath string
	// PseudoPath is what clients mount, such as "/pvc-1".
	PseudoPath string
	// RecoveryRoot is the mount of the recovery volume.
	RecoveryRoot string
	// Address is the address to listen at; "" means all, IPv4 and IPv6.
	Address string
	// Port is the TCP port.
	Port int
	// Squash maps users: NoRootSquash (also ""), RootSquash, AllSquash.
	Squash Squash
	// ReadOnly serves the export read-only.
	ReadOnly bool
	// Lease is Lease_Lifetime, whole seconds.
	Lease time.Duration
	// Grace is Grace_Period, whole seconds, at least twice the lease.
	Grace time.Duration
	// MetricsPort opens ganesha's own Prometheus endpoint; 0 leaves it off.
	MetricsPort int
}

// Squash says which users are mapped to the anonymous user (65534). The values
// are those of NFSExport.
type Squash string

// The values of Squash.
const (
	NoRootSquash Squash = "NoRootSquash"
	RootSquash   Squash = "RootSquash"
	AllSquash    Squash = "AllSquash"
)

// Render returns ganesha.conf. It refuses a Config that ganesha would refuse
// and every string that could add a line of its own.
func Render(config Config) ([]byte, error) { return nil, errors.New("not implemented") }

// Hash returns a short identifier of the rendered configuration.
func Hash(rendered []byte) string { return "" }

// Program is the path of ganesha in its image.
const Program = "/usr/bin/ganesha.nfsd"

// Command returns the process that serves an export: its name, program,
// arguments and environment.
func Command(export, configFile, pidFile string) Process { return Process{} }
