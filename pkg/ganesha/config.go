// Package ganesha runs NFS-Ganesha 9 for one export per process: its
// configuration, the records of its clients on the recovery volume, the probe
// that proves that the export is served, and the client of ganesha-launcher,
// which starts the processes.
//
// It depends on the standard library only, because ganesha-launcher is built
// from it.
package ganesha

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"text/template"
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

var squashNames = map[Squash]string{
	"":           "No_Root_Squash",
	NoRootSquash: "No_Root_Squash",
	RootSquash:   "Root_Squash",
	AllSquash:    "All_Squash",
}

// Bounds that ganesha 9.14 accepts. With -x it ends when its own, which lie a
// little above 240 s for grace, are exceeded.
const (
	maxLease = 120 * time.Second
	maxGrace = 240 * time.Second
)

// Program is the path of ganesha in its image.
const Program = "/usr/bin/ganesha.nfsd"

// What may stand in the configuration. ganesha's strings end at the quote and
// its blocks at the brace, so that everything that is not plain is refused
// rather than escaped.
var (
	validName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._@:-]{0,252}[A-Za-z0-9])?$`)
	validPath = regexp.MustCompile(`^(/[A-Za-z0-9_][A-Za-z0-9._@:-]*)+$`)
	validFSID = regexp.MustCompile(`^[0-9]{1,20}\.[0-9]{1,20}$`)
)

//go:embed ganesha.conf.tmpl
var configText string

var configTemplate = template.Must(template.New("ganesha.conf").Option("missingkey=error").Parse(configText))

// Render returns ganesha.conf. It refuses a Config that ganesha would refuse
// and every string that could add a line of its own.
func Render(config Config) ([]byte, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("configure ganesha for export %q: %w", config.Export, err)
	}
	access := "RW"
	if config.ReadOnly {
		access = "RO"
	}
	var rendered bytes.Buffer
	err := configTemplate.Execute(&rendered, struct {
		Config
		SquashName, Access         string
		LeaseSeconds, GraceSeconds int64
	}{config, squashNames[config.Squash], access, int64(config.Lease / time.Second), int64(config.Grace / time.Second)})
	if err != nil {
		return nil, fmt.Errorf("configure ganesha for export %q: %w", config.Export, err)
	}
	return rendered.Bytes(), nil
}

func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	_, squashKnown := squashNames[c.Squash]
	check(validName.MatchString(c.Export), "the name is not plain")
	check(c.ExportID >= 1 && c.ExportID <= 65535, "export id %d is not in 1..65535", c.ExportID)
	check(validFSID.MatchString(c.FSID), "fsid %q is not major.minor", c.FSID)
	check(validName.MatchString(c.ServerScope), "server scope %q is not plain", c.ServerScope)
	check(validPath.MatchString(c.DataPath), "data path %q is not a plain absolute path", c.DataPath)
	check(validPath.MatchString(c.PseudoPath), "pseudo path %q is not a plain absolute path", c.PseudoPath)
	check(validPath.MatchString(c.RecoveryRoot), "recovery root %q is not a plain absolute path", c.RecoveryRoot)
	check(c.Port >= 1 && c.Port <= 65535, "port %d is not in 1..65535", c.Port)
	check(c.MetricsPort >= 0 && c.MetricsPort <= 65535, "metrics port %d is not in 0..65535", c.MetricsPort)
	check(squashKnown, "squash %q is unknown", c.Squash)
	check(c.Lease >= time.Second && c.Lease <= maxLease, "lease %v is not in 1s..%v", c.Lease, maxLease)
	check(c.Grace >= 2*c.Lease && c.Grace <= maxGrace, "grace %v is not in %v..%v", c.Grace, 2*c.Lease, maxGrace)
	if c.Address != "" {
		address, err := netip.ParseAddr(c.Address)
		check(err == nil && address.Zone() == "", "address %q is not an IP address", c.Address)
	}
	return errors.Join(errs...)
}

// Hash returns a short identifier of the rendered configuration.
func Hash(rendered []byte) string {
	sum := sha256.Sum256(rendered)
	return hex.EncodeToString(sum[:8])
}

// LogLevels are what ganesha can log, from the least to the most (ganesha.nfsd(8),
// -N). From NIV_DEBUG on, each request is told of.
var LogLevels = []string{
	"NIV_NULL", "NIV_FATAL", "NIV_MAJ", "NIV_CRIT", "NIV_WARN", DefaultLogLevel, "NIV_INFO", "NIV_DEBUG", "NIV_MID_DEBUG", "NIV_FULL_DEBUG",
}

// DefaultLogLevel tells of starts, grace and troubles.
const DefaultLogLevel = "NIV_EVENT"

// Command returns the process that serves an export with this configuration:
// ganesha in the foreground, which ends on an error in the configuration (-x:
// otherwise it would listen and serve nothing), and keeps its records under
// node id 0 (-I: otherwise under the name of the host, where the next node does
// not find them). It logs what is of logLevel, one of LogLevels, or more important.
func Command(export, configFile, pidFile, logLevel string) Process {
	return Process{
		Name: export,
		Args: []string{Program, "-F", "-x", "-I", "0", "-L", "STDERR", "-f", configFile, "-p", pidFile, "-N", logLevel},
		// One arena instead of one per thread halves what a loaded server keeps.
		Env: []string{"MALLOC_ARENA_MAX=1"},
	}
}
