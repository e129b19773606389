package linstor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	linstor "github.com/LINBIT/golinstor"
	lapi "github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/pkg/names"
)

// upToDate is DRBD's name of a disk state, as LINSTOR passes it on.
const upToDate = "UpToDate"

// Replica is a resource: what one node has of a resource definition.
type Replica struct {
	Node     string
	Diskless bool
	Deleting bool
	// InUse is what the node's satellite last said; nil if it says nothing, which
	// is so while it is offline.
	InUse *bool
	// Volumes by VolNr.
	Volumes map[int]ReplicaVolume
}

// ReplicaVolume is a volume of a replica.
type ReplicaVolume struct {
	DiskState string
	// Provider is the kind of the storage pool, such as LVM_THIN.
	Provider string
}

// Replicas reads the replicas of a resource definition from the controller, not
// from a cache. An unknown definition has none.
func (c *Client) Replicas(ctx context.Context, name string) ([]Replica, error) {
	var raw []lapi.ResourceWithVolumes
	err := c.read(ctx, func(ctx context.Context) (err error) {
		raw, err = c.api.Resources.GetResourceView(ctx, &lapi.ListOpts{Resource: []string{name}})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read replicas of %s: %w", name, err)
	}
	var replicas []Replica
	for _, r := range raw {
		if !strings.EqualFold(r.Name, name) {
			continue
		}
		replica := Replica{
			Node:     r.NodeName,
			Diskless: slices.Contains(r.Flags, linstor.FlagDiskless) || slices.Contains(r.Flags, linstor.FlagDrbdDiskless),
			Deleting: slices.Contains(r.Flags, linstor.FlagDelete),
			Volumes:  map[int]ReplicaVolume{},
		}
		if r.State != nil {
			replica.InUse = r.State.InUse
		}
		for _, v := range r.Volumes {
			replica.Volumes[int(v.VolumeNumber)] = ReplicaVolume{DiskState: v.State.DiskState, Provider: string(v.ProviderKind)}
		}
		replicas = append(replicas, replica)
	}
	return replicas, nil
}

// Servable tells whether one node at least can serve both volumes: it has them on
// disk and UpToDate. One is enough; to demand all would let an offline node block
// every new claim.
func Servable(replicas []Replica) bool {
	return slices.ContainsFunc(replicas, func(r Replica) bool {
		return !r.Diskless && !r.Deleting &&
			r.Volumes[names.DataVolume].DiskState == upToDate && r.Volumes[names.RecoveryVolume].DiskState == upToDate
	})
}

// UsedBy returns the nodes that have a replica in use (Primary), sorted. Nodes of
// which LINSTOR knows nothing are not among them.
func UsedBy(replicas []Replica) []string {
	var nodes []string
	for _, r := range replicas {
		if r.InUse != nil && *r.InUse {
			nodes = append(nodes, r.Node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// KnownUnused tells whether every node has said that it does not use its replica.
func KnownUnused(replicas []Replica) bool {
	return !slices.ContainsFunc(replicas, func(r Replica) bool { return r.InUse == nil || *r.InUse })
}

// thick are the storage pool kinds on which new volumes are not known to be equal.
var thick = []string{"LVM", "SPDK", "REMOTE_SPDK", "STORAGE_SPACES", "EBS_TARGET", "EBS_INIT"}

// OnThickPool tells whether a data volume is in a pool that is thick, and the kind.
func OnThickPool(replicas []Replica) (kind string, found bool) {
	for _, r := range replicas {
		if provider := r.Volumes[names.DataVolume].Provider; !r.Diskless && slices.Contains(thick, provider) {
			return provider, true
		}
	}
	return "", false
}

// AddsVolumesSafely tells whether a controller of that version makes a volume
// UpToDate that is added to a placed resource on thick pools. Before 1.33.3 it
// stays Inconsistent on every node, and DRBD then refuses to promote the whole
// resource (linstor-server commits 0e1bc18b7 and its successors in 1.33.2/1.33.3).
// A version that cannot be read counts as old.
func AddsVolumesSafely(version string) bool {
	parts := strings.SplitN(strings.SplitN(version, "-", 2)[0], ".", 3)
	if len(parts) != 3 {
		return false
	}
	var number [3]int
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		number[i] = n
	}
	return slices.Compare(number[:], []int{1, 33, 3}) >= 0
}
