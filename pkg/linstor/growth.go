package linstor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	lapi "github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/pkg/names"
)

// NotUpToDate says what keeps LINSTOR from growing a volume: it refuses unless
// every volume of every replica is known to be UpToDate, and does not say which is
// not (FAIL_NOT_ALL_UPTODATE; CtrlVlmDfnModifyApiCallHandler). Empty if nothing is.
func NotUpToDate(replicas []Replica) []string {
	var reasons []string
	for _, r := range replicas {
		if r.Diskless || r.Deleting {
			continue
		}
		if r.InUse == nil {
			reasons = append(reasons, fmt.Sprintf("node %s is offline in LINSTOR", r.Node))
			continue
		}
		for _, number := range slices.Sorted(maps.Keys(r.Volumes)) {
			switch state := r.Volumes[number].DiskState; state {
			case upToDate:
			case "":
				reasons = append(reasons, fmt.Sprintf("the state of volume %d on node %s is not known", number, r.Node))
			default:
				reasons = append(reasons, fmt.Sprintf("volume %d on node %s is %s", number, r.Node, state))
			}
		}
	}
	slices.Sort(reasons)
	return reasons
}

// RetryGrowth makes LINSTOR go on with a growth of VolNr 0 that a satellite failed
// to carry out. LINSTOR commits the new size first and takes nothing back; setting
// the same size again does nothing, but any change of the volume definition has all
// satellites updated, and a growth that is not over is then tried again
// (CtrlVlmDfnModifyApiCallHandler.updateSatellites). The error says why it failed
// again.
func (c *Client) RetryGrowth(ctx context.Context, name string) error {
	err := c.modify(ctx, func(ctx context.Context) error {
		return c.api.ResourceDefinitions.ModifyVolumeDefinition(ctx, name, names.DataVolume, lapi.VolumeDefinitionModify{
			GenericPropsModify: lapi.GenericPropsModify{OverrideProps: map[string]string{
				names.GrowthRetriedProperty: time.Now().UTC().Format(time.RFC3339Nano),
			}},
		})
	})
	if err != nil && !errors.Is(err, lapi.NotFoundError) {
		return fmt.Errorf("grow volume %d of %s: %w", names.DataVolume, name, err)
	}
	return nil
}
