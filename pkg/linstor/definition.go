package linstor

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	linstor "github.com/LINBIT/golinstor"
	lapi "github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	fsTypeProperty     = linstor.NamespcFilesystem + "/" + linstor.KeyFsType
	mkfsParamsProperty = linstor.NamespcFilesystem + "/" + linstor.KeyFsMkfsparameters
	// recoveryMkfsParams overrides the parameters that the class gives for VolNr 0:
	// up to linstor-csi 1.11 they are a property of the resource definition, and
	// mkfs.ext4 would get what is meant for mkfs.xfs.
	recoveryMkfsParams = "-m 0"
)

// Definition is a resource definition with its volume definitions.
type Definition struct {
	Name          string
	UUID          string
	ResourceGroup string
	// Export is the export that the definition was made for, according to our
	// marker; a restore or clone carries its source's until it gets its own.
	Export string
	// Deleting: LINSTOR removes it, and waits for nodes to do so.
	Deleting bool
	Volumes  []Volume
}

// Volume is a volume definition.
type Volume struct {
	Number  int
	SizeKiB uint64
	// Recovery tells that we made it as a recovery volume, for this or for the
	// export that this one is a copy of.
	Recovery bool
	Deleting bool
	// Growing: its size was changed, and not all nodes have done so yet.
	Growing bool
}

// Volume returns the volume definition of a number.
func (d *Definition) Volume(number int) (Volume, bool) {
	i := slices.IndexFunc(d.Volumes, func(v Volume) bool { return v.Number == number })
	if i < 0 {
		return Volume{}, false
	}
	return d.Volumes[i], true
}

// HasData tells whether linstor-csi has added the data volume.
func (d *Definition) HasData() bool {
	_, found := d.Volume(names.DataVolume)
	return found
}

// OnlyOurs tells whether nothing but what we made is in the definition: it has no
// volume but the recovery volume.
func (d *Definition) OnlyOurs() bool {
	return !slices.ContainsFunc(d.Volumes, func(v Volume) bool { return v.Number != names.RecoveryVolume || !v.Recovery })
}

func newDefinition(raw lapi.ResourceDefinition, volumes []lapi.VolumeDefinition) *Definition {
	d := &Definition{
		Name: raw.Name, UUID: raw.Uuid, ResourceGroup: raw.ResourceGroupName,
		Export: raw.Props[names.MarkerProperty], Deleting: slices.Contains(raw.Flags, linstor.FlagDelete),
	}
	for _, v := range volumes {
		if v.VolumeNumber == nil {
			continue
		}
		d.Volumes = append(d.Volumes, Volume{
			Number: int(*v.VolumeNumber), SizeKiB: v.SizeKib,
			Recovery: v.Props[names.RecoveryProperty] != "", Deleting: slices.Contains(v.Flags, linstor.FlagDelete),
			Growing: slices.Contains(v.Flags, linstor.FlagResize),
		})
	}
	return d
}

// Definition reads a resource definition, nil if there is none.
func (c *Client) Definition(ctx context.Context, name string) (*Definition, error) {
	var raw lapi.ResourceDefinition
	var volumes []lapi.VolumeDefinition
	err := c.read(ctx, func(ctx context.Context) (err error) {
		if raw, err = c.api.ResourceDefinitions.Get(ctx, name); err != nil {
			return err
		}
		volumes, err = c.api.ResourceDefinitions.GetVolumeDefinitions(ctx, name)
		return err
	})
	if errors.Is(err, lapi.NotFoundError) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read resource definition %s: %w", name, err)
	}
	return newDefinition(raw, volumes), nil
}

// MarkedDefinitions reads all resource definitions that carry our marker.
func (c *Client) MarkedDefinitions(ctx context.Context) ([]*Definition, error) {
	var all []lapi.ResourceDefinitionWithVolumeDefinition
	err := c.read(ctx, func(ctx context.Context) (err error) {
		all, err = c.api.ResourceDefinitions.GetAll(ctx, lapi.RDGetAllRequest{WithVolumeDefinitions: true})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list resource definitions: %w", err)
	}
	var marked []*Definition
	for _, raw := range all {
		if raw.Props[names.MarkerProperty] != "" {
			marked = append(marked, newDefinition(raw.ResourceDefinition, raw.VolumeDefinitions))
		}
	}
	return marked, nil
}

// Wanted describes the resource definition of a new export.
type Wanted struct {
	Name          string
	Export        string
	ResourceGroup string
	// FSType and MkfsParams are for VolNr 0. linstor-csi up to 1.11 sets them only
	// on a resource definition that it makes itself.
	FSType     string
	MkfsParams string
}

// EnsureDefinition makes the resource group and the resource definition of a new
// export, unless they exist. It refuses a definition that is not this export's.
func (c *Client) EnsureDefinition(ctx context.Context, want Wanted) error {
	// linstor-csi removes the group with its last volume, possibly between our two
	// steps: then the second answers "not found" and the group is made again.
	for range 3 {
		if err := c.ensureGroup(ctx, want.ResourceGroup); err != nil {
			return err
		}
		err := c.modify(ctx, func(ctx context.Context) error {
			return c.api.ResourceDefinitions.Create(ctx, lapi.ResourceDefinitionCreate{ResourceDefinition: lapi.ResourceDefinition{
				Name: want.Name, ResourceGroupName: want.ResourceGroup,
				Props: map[string]string{
					names.MarkerProperty: want.Export,
					fsTypeProperty:       want.FSType,
					mkfsParamsProperty:   want.MkfsParams,
				},
			}})
		})
		switch {
		case err == nil:
			return nil
		case isCode(err, linstor.FailExistsRscDfn):
			return c.checkOurs(ctx, want)
		case errors.Is(err, lapi.NotFoundError), isCode(err, linstor.FailNotFoundRscGrp):
			continue
		default:
			return fmt.Errorf("create resource definition %s: %w", want.Name, err)
		}
	}
	return fmt.Errorf("create resource definition %s: resource group %s vanishes again and again", want.Name, want.ResourceGroup)
}

func (c *Client) ensureGroup(ctx context.Context, name string) error {
	err := c.modify(ctx, func(ctx context.Context) error {
		return c.api.ResourceGroups.Create(ctx, lapi.ResourceGroup{Name: name})
	})
	if err != nil && !isCode(err, linstor.FailExistsRscGrp) {
		return fmt.Errorf("create resource group %s: %w", name, err)
	}
	return nil
}

func (c *Client) checkOurs(ctx context.Context, want Wanted) error {
	have, err := c.Definition(ctx, want.Name)
	if err != nil {
		return err
	}
	if have == nil {
		return fmt.Errorf("create resource definition %s: it is being removed at the same time", want.Name)
	}
	return have.CheckOwner(want.Export, want.ResourceGroup)
}

// CheckOwner returns an error unless the definition was made for export. An empty
// resource group stands for any: restores and clones keep linstor-csi's own.
func (d *Definition) CheckOwner(export, resourceGroup string) error {
	switch {
	case d.Deleting:
		return fmt.Errorf("resource definition %s is still being deleted in LINSTOR: bring its nodes back online or remove them from LINSTOR", d.Name)
	case d.Export != export:
		owner := "is not from linstor-rwx"
		if d.Export != "" {
			owner = "belongs to export " + d.Export
		}
		return fmt.Errorf("resource definition %s exists and %s: rename or remove it", d.Name, owner)
	case resourceGroup != "" && !strings.EqualFold(d.ResourceGroup, resourceGroup):
		return fmt.Errorf("resource definition %s exists in resource group %s, but the StorageClass now says %s: restore the class or remove the claim", d.Name, d.ResourceGroup, resourceGroup)
	}
	return nil
}

// Mark makes the definition this export's, whatever marker a restore or clone has
// brought from its source.
func (c *Client) Mark(ctx context.Context, name, export string) error {
	err := c.modify(ctx, func(ctx context.Context) error {
		return c.api.ResourceDefinitions.Modify(ctx, name, lapi.GenericPropsModify{OverrideProps: map[string]string{names.MarkerProperty: export}})
	})
	if err != nil {
		return fmt.Errorf("mark resource definition %s: %w", name, err)
	}
	return nil
}

// Unmark removes the marker that a restore or clone has brought from its source.
func (c *Client) Unmark(ctx context.Context, name string) error {
	err := c.modify(ctx, func(ctx context.Context) error {
		return c.api.ResourceDefinitions.Modify(ctx, name, lapi.GenericPropsModify{DeleteProps: []string{names.MarkerProperty}})
	})
	if err != nil {
		return fmt.Errorf("remove marker from resource definition %s: %w", name, err)
	}
	return nil
}

// EnsureRecoveryVolume adds VolNr 1 unless it exists. LINSTOR answers only when
// all online nodes have it; a node that failed to make it is reported as an
// error although the definition stays, so the volume's state decides, not this.
func (c *Client) EnsureRecoveryVolume(ctx context.Context, name, export string, sizeKiB uint64) error {
	number := int32(names.RecoveryVolume)
	err := c.modify(ctx, func(ctx context.Context) error {
		return c.api.ResourceDefinitions.CreateVolumeDefinition(ctx, name, lapi.VolumeDefinitionCreate{VolumeDefinition: lapi.VolumeDefinition{
			VolumeNumber: &number,
			SizeKib:      sizeKiB,
			// Never Aux/csi-volume-name here: linstor-csi would take VolNr 1 for the
			// volume of another claim and keep it when this claim is deleted.
			Props: map[string]string{
				fsTypeProperty: "ext4", mkfsParamsProperty: recoveryMkfsParams,
				names.RecoveryProperty: export,
			},
		}})
	})
	if err == nil {
		return nil
	}
	// Also after an unclear failure: the controller commits before it deploys.
	have, readErr := c.Definition(ctx, name)
	if readErr != nil || have == nil {
		return fmt.Errorf("add recovery volume to %s: %w", name, err)
	}
	volume, found := have.Volume(names.RecoveryVolume)
	switch {
	case !found:
		return fmt.Errorf("add recovery volume to %s: %w", name, err)
	case volume.Deleting:
		return fmt.Errorf("add recovery volume to %s: its old VolNr %d is still being deleted in LINSTOR", name, names.RecoveryVolume)
	case !volume.Recovery:
		return fmt.Errorf("resource definition %s has a VolNr %d that is no recovery volume of linstor-rwx", name, names.RecoveryVolume)
	case volume.SizeKiB < sizeKiB && !have.HasData():
		return fmt.Errorf("recovery volume of %s has %d KiB, the StorageClass wants %d: remove the claim and make it again", name, volume.SizeKiB, sizeKiB)
	case isCode(err, linstor.FailExistsVlmDfn):
		return nil
	default:
		return fmt.Errorf("add recovery volume to %s: %w", name, err)
	}
}

// RemoveRecoveryVolume removes VolNr 1. LINSTOR refuses while a replica is in use.
func (c *Client) RemoveRecoveryVolume(ctx context.Context, name string) error {
	err := c.modify(ctx, func(ctx context.Context) error {
		return c.api.ResourceDefinitions.DeleteVolumeDefinition(ctx, name, names.RecoveryVolume)
	})
	if err != nil && !errors.Is(err, lapi.NotFoundError) {
		return fmt.Errorf("remove recovery volume of %s: %w", name, err)
	}
	return nil
}

// RemoveUnused removes a definition that nothing but our recovery volume is in and
// that no node has, with its resource group if that is ours and empty. It reads
// both again itself and tells whether the definition is gone; false without error
// means that it is in use and was left alone.
func (c *Client) RemoveUnused(ctx context.Context, name, export string) (bool, error) {
	have, err := c.Definition(ctx, name)
	if err != nil {
		return false, err
	}
	if have == nil {
		return true, nil
	}
	if have.Export != export || !have.OnlyOurs() {
		return false, nil
	}
	replicas, err := c.Replicas(ctx, name)
	if err != nil {
		return false, err
	}
	if len(replicas) > 0 {
		return false, nil
	}
	err = c.modify(ctx, func(ctx context.Context) error { return c.api.ResourceDefinitions.Delete(ctx, name) })
	if err != nil && !errors.Is(err, lapi.NotFoundError) {
		return false, fmt.Errorf("remove resource definition %s: %w", name, err)
	}
	return true, c.removeGroup(ctx, have.ResourceGroup)
}

// ownGroup matches the names that rwx-provisioner derives. The prefix alone would
// take in groups that users have named.
var ownGroup = regexp.MustCompile("^" + regexp.QuoteMeta(names.ResourceGroupPrefix) + "[0-9a-f]{32}$")

func (c *Client) removeGroup(ctx context.Context, name string) error {
	if !ownGroup.MatchString(name) {
		return nil
	}
	return c.RemoveGroup(ctx, name)
}

// RemoveGroup removes a resource group; one that has resource definitions stays, which
// is no error.
func (c *Client) RemoveGroup(ctx context.Context, name string) error {
	err := c.modify(ctx, func(ctx context.Context) error { return c.api.ResourceGroups.Delete(ctx, name) })
	if err != nil && !errors.Is(err, lapi.NotFoundError) && !isCode(err, linstor.FailExistsRscDfn) {
		return fmt.Errorf("remove resource group %s: %w", name, err)
	}
	return nil
}

// EmptyGroups returns the resource groups with names of ours that no resource
// definition is in.
func (c *Client) EmptyGroups(ctx context.Context) ([]string, error) {
	var groups []lapi.ResourceGroup
	var definitions []lapi.ResourceDefinitionWithVolumeDefinition
	err := c.read(ctx, func(ctx context.Context) (err error) {
		if groups, err = c.api.ResourceGroups.GetAll(ctx); err != nil {
			return err
		}
		definitions, err = c.api.ResourceDefinitions.GetAll(ctx, lapi.RDGetAllRequest{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list resource groups: %w", err)
	}
	var empty []string
	for _, group := range groups {
		used := slices.ContainsFunc(definitions, func(d lapi.ResourceDefinitionWithVolumeDefinition) bool {
			return strings.EqualFold(d.ResourceGroupName, group.Name)
		})
		if !used && ownGroup.MatchString(group.Name) {
			empty = append(empty, group.Name)
		}
	}
	return empty, nil
}

func isCode(err error, code uint64) bool { return errors.Is(err, lapi.ApiCallRcErr(code)) }
