package linstor

import (
	"crypto/rand"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Names and values that LINSTOR itself writes.
const (
	defaultGroup        = "DfltRscGrp"
	disklessPool        = "DfltDisklessStorPool"
	kindDiskless        = "DISKLESS"
	kindLVM             = "LVM"
	firstMinor          = 1000
	lastMinor           = 1048575
	firstPort           = 7000
	flagDelete          = "DELETE"
	flagResize          = "RESIZE"
	flagCloning         = "CLONING"
	flagFailed          = "FAILED"
	flagDiskless        = "DISKLESS"
	flagDRBDDiskless    = "DRBD_DISKLESS"
	flagTieBreaker      = "TIE_BREAKER"
	flagDRBDDelete      = "DRBD_DELETE"
	flagSuccessful      = "SUCCESSFUL"
	flagFailedDeploy    = "FAILED_DEPLOYMENT"
	flagFailedOffline   = "FAILED_DISCONNECT"
	propPool            = "StorPoolName"
	propAutoTieBreaker  = "DrbdOptions/auto-add-quorum-tiebreaker"
	propAutoQuorum      = "DrbdOptions/auto-quorum"
	propQuorum          = "DrbdOptions/Resource/quorum"
	propOnNoQuorum      = "DrbdOptions/Resource/on-no-quorum"
	propAutoPromote     = "DrbdOptions/Resource/auto-promote"
	propTwoPrimaries    = "DrbdOptions/Net/allow-two-primaries"
	propPrimarySet      = "DrbdPrimarySetOn"
	propInitialUpToDate = "Linstor/Drbd/InitialUptoDateOn"
	propFileSystem      = "FileSystem/Type"
	propMkfsParams      = "FileSystem/MkfsParams"
	propClonedFrom      = "Linstor/ClonedFrom"
)

type node struct {
	name, uuid, address string
	props               map[string]string
	flags               []string
	online              bool
	pools               map[string]*pool
	deploy              deployBehaviour
}

type pool struct {
	name, kind, uuid string
	props            map[string]string
	totalKiB         int64
	freeKiB          *int64 // fault injection: what the pool says instead of the truth
}

func (p *pool) thin() bool { return strings.HasSuffix(p.kind, "_THIN") }

type resourceGroup struct {
	name, uuid, description string
	props                   map[string]string
	filter                  selectFilter
	volumes                 map[int]*volumeGroup
}

type resourceDefinition struct {
	name, uuid, group string
	props             map[string]string
	flags             []string
	layers            []string
	port              int
	volumes           map[int]*volumeDefinition
	resources         map[string]*resource
	snapshots         map[string]*snapshot
	clone             *cloneProgress

	// work serialises what satellites do to this resource definition's
	// devices. It is taken before, never while, the Controller's lock is held.
	work sync.Mutex
}

type volumeDefinition struct {
	number  int
	sizeKiB int64
	uuid    string
	props   map[string]string
	flags   []string
	minor   int

	// deviceKiB is the size of the devices: it follows sizeKiB when all nodes
	// have grown theirs.
	deviceKiB int64
	// addedLater says that the resource definition had initialised resources
	// already when this volume came.
	addedLater bool
	// winner is the node whose disk becomes UpToDate first and that runs mkfs.
	winner string
	// initialised says that some disk is or was UpToDate.
	initialised bool
	// source is the file that the data is copied from: snapshot or clone.
	source string
}

type resource struct {
	node, uuid string
	flags      []string
	props      map[string]string
	nodeID     int
	created    time.Time
	inUse      bool
	volumes    map[int]*volume
	// configured says that the satellite has brought the resource up.
	configured bool
}

func (r *resource) diskless() bool   { return slices.Contains(r.flags, flagDiskless) }
func (r *resource) tieBreaker() bool { return slices.Contains(r.flags, flagTieBreaker) }
func (r *resource) deleted() bool    { return slices.Contains(r.flags, flagDelete) }

type volume struct {
	pool, kind string
	props      map[string]string
	uuid       string
	deployed   bool
	sizeKiB    int64 // what the node's backing device has
	// sync says that this replica was added to existing data and resyncs.
	sync bool
	// waits says that the disk is Inconsistent until the winner's is UpToDate.
	waits   bool
	reports []Reply
}

type snapshot struct {
	name, uuid string
	flags      []string
	props      map[string]string
	volumes    []snapshotVolumeDefinitionJSON
	nodes      map[string]time.Time
	pools      map[string]string
	files      map[int]string
}

type cloneProgress struct {
	source string
	failed bool
	done   bool
}

func (rd *resourceDefinition) deleted() bool { return slices.Contains(rd.flags, flagDelete) }

func (rd *resourceDefinition) sortedVolumes() []*volumeDefinition {
	out := make([]*volumeDefinition, 0, len(rd.volumes))
	for _, number := range slices.Sorted(maps.Keys(rd.volumes)) {
		out = append(out, rd.volumes[number])
	}
	return out
}

func (rd *resourceDefinition) sortedResources() []*resource {
	out := make([]*resource, 0, len(rd.resources))
	for _, name := range slices.Sorted(maps.Keys(rd.resources)) {
		out = append(out, rd.resources[name])
	}
	return out
}

// placed returns the resources that are not being deleted, by kind.
func (rd *resourceDefinition) placed() (diskful, diskless, tieBreakers []*resource) {
	for _, r := range rd.sortedResources() {
		switch {
		case r.deleted():
		case r.tieBreaker():
			tieBreakers = append(tieBreakers, r)
		case r.diskless():
			diskless = append(diskless, r)
		default:
			diskful = append(diskful, r)
		}
	}
	return diskful, diskless, tieBreakers
}

func (vd *volumeDefinition) deleted() bool { return slices.Contains(vd.flags, flagDelete) }

func addFlag(flags []string, flag string) []string {
	if slices.Contains(flags, flag) {
		return flags
	}
	return append(flags, flag)
}

func removeFlag(flags []string, flag string) []string {
	return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return f == flag })
}

// modify changes properties in LINSTOR's order: override, delete, namespaces.
func (m propsModify) modify(props map[string]string) {
	maps.Copy(props, m.OverrideProps)
	for _, key := range m.DeleteProps {
		delete(props, key)
	}
	for _, namespace := range m.DeleteNamespaces {
		namespace = strings.TrimSuffix(namespace, "/")
		maps.DeleteFunc(props, func(key, _ string) bool {
			return key == namespace || strings.HasPrefix(key, namespace+"/")
		})
	}
}

// knownProperties are the property namespaces and keys that LINSTOR's whitelist
// lets through, as far as clients of the laboratory could use them.
var knownProperties = regexp.MustCompile(`^(Aux/.+|DrbdOptions/.+|FileSystem/(Type|MkfsParams|User|Group)|StorPoolName|` +
	`BalanceResourcesEnabled|AutoSnapshot/.+|Snapshot/.+|StorDriver/.+|sys/fs/.+|Autoplacer/.+|AutoplaceTarget|` +
	`MaxOversubscriptionRatio|MaxFreeCapacityOversubscriptionRatio|MaxTotalCapacityOversubscriptionRatio|PrefNic|SkipDisk|` +
	`DrbdPrimarySetOn|Linstor/.+|Satellite/.+|UpdateCacheInterval|BackupShipping/.+|Schedule/.+|Backup/.+)$`)

// checkProps refuses keys that the real server's whitelist refuses.
func checkProps(object uint64, props map[string]string) Replies {
	for _, key := range slices.Sorted(maps.Keys(props)) {
		if !knownProperties.MatchString(key) {
			return fail(failInvalidProperty, object, "Invalid property key: %s. The key '%s' is not whitelisted.", key, key)
		}
	}
	return nil
}

// resourceName is LINSTOR's rule for names of resource definitions.
var resourceName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{1,47}$`)

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func clone(props map[string]string) map[string]string {
	out := make(map[string]string, len(props))
	maps.Copy(out, props)
	return out
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
