package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/filesystem"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	// recoveryFSType is what we make; a recovery volume that LINSTOR formatted
	// may carry another one.
	recoveryFSType = filesystem.Ext4
	recoveryLabel  = "nfs-recovery"
	// rootMark on the recovery volume says that the root directory of the data got
	// its owner and mode, which happens once in the life of a volume.
	rootMark = "root-directory-done"
)

func (s *starting) device(volume int) string {
	device, _ := s.resource.Device(volume)
	return drbd.DevicePath(device.Minor)
}

// openVolumes mounts both volumes, at the same time: each of them waits for its
// device more than it computes.
func (a *Agent) openVolumes(ctx context.Context, s *starting) error {
	recovery := make(chan error, 1)
	go func() { recovery <- a.openRecoveryVolume(ctx, s) }()
	err := a.openDataVolume(ctx, s)
	return errors.Join(<-recovery, err)
}

// openRecoveryVolume mounts VolNr 1. It is formatted if, and only if, it is
// provably blank; what it holds of another volume's clients is wiped.
func (a *Agent) openRecoveryVolume(ctx context.Context, s *starting) error {
	device, target := s.device(names.RecoveryVolume), a.settings.recoveryPath(s.Name)
	if s.Recovery != nil {
		// Whether it is this device is looked at by Mount, which changes nothing.
		if err := a.files.Mount(ctx, device, target, s.Recovery.FSType, mountOptions(s.Recovery.FSType, filesystem.RecoveryOptions)); err != nil {
			return fmt.Errorf("take over mounted recovery volume: %w", err)
		}
	} else {
		identity, err := a.files.Identify(ctx, device)
		if err != nil {
			return fmt.Errorf("identify recovery volume: %w", err)
		}
		fsType := identity.FSType
		if identity.Blank() {
			fsType = recoveryFSType
			if err := a.files.FormatBlank(ctx, device, fsType, recoveryLabel); err != nil {
				return fmt.Errorf("format recovery volume: %w", err)
			}
		}
		if err := a.files.Check(ctx, device, fsType); err != nil {
			return fmt.Errorf("check recovery volume: %w", err)
		}
		if err := a.files.Mount(ctx, device, target, fsType, mountOptions(fsType, filesystem.RecoveryOptions)); err != nil {
			return fmt.Errorf("mount recovery volume: %w", err)
		}
	}
	return a.stamp(ctx, s, target)
}

// stamp makes sure that the records on the recovery volume are of this export's
// clients: a restored or cloned volume comes with those of its source.
func (a *Agent) stamp(ctx context.Context, s *starting, root string) error {
	own := ganesha.Identity{
		ResourceDefinitionUUID: s.export.Spec.ResourceDefinition.UUID,
		Export:                 s.export.Name,
		ExportID:               s.export.Spec.ExportID,
	}
	found, err := a.recovery.ReadIdentity(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A new volume.
	case err != nil:
		return fmt.Errorf("read stamp of recovery volume: %w", err)
	case found == own:
		return nil
	case found.ResourceDefinitionUUID != own.ResourceDefinitionUUID:
		// Wiped before it is stamped: a crash in between wipes again.
		if err := a.recovery.WipeForeign(root); err != nil {
			return fmt.Errorf("wipe foreign client records: %w", err)
		}
		a.events.normal(s.export, "ForeignRecordsWiped", "the volume is a copy: the client records of its source were removed")
		klog.FromContext(ctx).Info("Wiped client records of the source volume", "source", found.Export)
	}
	if err := a.recovery.WriteIdentity(root, own); err != nil {
		return fmt.Errorf("stamp recovery volume: %w", err)
	}
	return nil
}

// openDataVolume mounts VolNr 0. It is never formatted.
func (a *Agent) openDataVolume(ctx context.Context, s *starting) error {
	device, fsType := s.device(names.DataVolume), s.export.Spec.FSType
	if s.Data != nil {
		if err := a.files.Mount(ctx, device, a.settings.dataPath(s.Name), fsType, mountOptions(fsType, s.export.Spec.MountOptions)); err != nil {
			return fmt.Errorf("take over mounted data volume: %w", err)
		}
		return nil
	}
	identity, err := a.files.Identify(ctx, device)
	switch {
	case err != nil:
		return fmt.Errorf("identify data volume: %w", err)
	case identity.Blank():
		return fmt.Errorf("identify data volume: it holds no filesystem, %s is expected", fsType)
	case identity.FSType != fsType:
		return fmt.Errorf("identify data volume: it holds %s, %s is expected", identity.FSType, fsType)
	}
	if err := a.files.Check(ctx, device, fsType); err != nil {
		return fmt.Errorf("check data volume: %w", err)
	}
	if err := a.files.Mount(ctx, device, a.settings.dataPath(s.Name), fsType, mountOptions(fsType, s.export.Spec.MountOptions)); err != nil {
		return fmt.Errorf("mount data volume: %w", err)
	}
	return nil
}

// mountOptions adds what a restored XFS needs: it has the UUID of its source,
// which may be mounted on the same node.
func mountOptions(fsType string, options []string) []string {
	if fsType == filesystem.XFS && !slices.Contains(options, "nouuid") {
		return append(slices.Clone(options), "nouuid")
	}
	return slices.Clone(options)
}

// growIfLarger grows the filesystem to its device, if that is larger than when it
// was last grown. A failure does not keep clients from their data.
func (a *Agent) growIfLarger(ctx context.Context, s *starting) error {
	device, _ := s.resource.Device(names.DataVolume)
	known := int64(0)
	if s.export.Status.Size != nil { // otherwise nobody has opened the filesystem yet
		known = s.export.Status.DeviceBytes
	}
	if s.Server != nil && s.restart {
		known = s.Server.DeviceBytes
	}
	s.server = Server{Intent: Intent{DeviceBytes: known}}
	a.grow(ctx, s.Facts, &s.server, s.device(names.DataVolume), device.SizeBytes)
	return nil
}

// prepareRoot gives the root directory of a new volume its owner and mode.
func (a *Agent) prepareRoot(_ context.Context, s *starting) error {
	recovery, data := a.settings.recoveryPath(s.Name), a.settings.dataPath(s.Name)
	done, err := a.host.Marked(recovery, rootMark)
	if err != nil || done {
		return err
	}
	empty, err := a.host.RootIsEmpty(data)
	if err != nil {
		return err
	}
	if empty { // otherwise it is a user's: restored, cloned, or once ReadWriteOnce
		root := s.export.Spec.RootDirectory
		mode, err := rootMode(root.Mode)
		if err != nil {
			return err
		}
		if err := a.host.ApplyRoot(data, int(root.UID), int(root.GID), mode); err != nil {
			return err
		}
	}
	return a.host.Mark(recovery, rootMark)
}

// rootMode reads an octal mode with set-user-ID, set-group-ID and sticky bit.
func rootMode(text string) (fs.FileMode, error) {
	if text == "" {
		text = "0777"
	}
	bits, err := strconv.ParseUint(text, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("read mode %q of root directory: %w", text, err)
	}
	mode := fs.FileMode(bits & 0o777)
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return mode, nil
}

// cleanRecords removes what would make the clients wait in vain.
func (a *Agent) cleanRecords(ctx context.Context, s *starting) error {
	root := a.settings.recoveryPath(s.Name)
	if err := a.recovery.RemoveOrphans(root); err != nil {
		return fmt.Errorf("remove orphaned client records: %w", err)
	}
	dropped, err := a.recovery.DropProbeRecords(root)
	if err != nil {
		return fmt.Errorf("remove records of probes: %w", err)
	}
	if dropped > 0 {
		klog.FromContext(ctx).V(2).Info("Dropped records of interrupted probes", "count", dropped)
	}
	return a.dropGoneClients(ctx, s, root)
}
