// Package provisioner turns csi-provisioner's Provisioner into one that also serves
// ReadWriteMany claims: the wrapped provisioner makes a ReadWriteOnce volume, this
// package adds the recovery volume, the NFSExport and its Service. It does not serve
// anything: the ganesha-supervisors do.
package provisioner

import (
	"context"
	"fmt"
	"time"

	snapclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/linstor"
)

// Linstor is what this package needs of the LINSTOR controller. linstor.Client
// implements it; all methods bound their own time.
type Linstor interface {
	Version(ctx context.Context) (string, error)
	Definition(ctx context.Context, name string) (*linstor.Definition, error)
	MarkedDefinitions(ctx context.Context) ([]*linstor.Definition, error)
	Replicas(ctx context.Context, name string) ([]linstor.Replica, error)
	EnsureDefinition(ctx context.Context, want linstor.Wanted) error
	EnsureRecoveryVolume(ctx context.Context, name, export string, sizeKiB uint64) error
	RemoveRecoveryVolume(ctx context.Context, name string) error
	RemoveUnused(ctx context.Context, name, export string) (bool, error)
	EmptyGroups(ctx context.Context) ([]string, error)
	RemoveGroup(ctx context.Context, name string) error
	Mark(ctx context.Context, name, export string) error
	Unmark(ctx context.Context, name string) error
}

var _ Linstor = &linstor.Client{}

// Config is what Wrap needs. The flags are those of csi-provisioner and must be the
// same that the wrapped provisioner was made with.
type Config struct {
	Driver               string
	VolumeNamePrefix     string
	VolumeNameUUIDLength int
	DefaultFSType        string
	ExtraCreateMetadata  bool
	Settings             Settings

	Client      kubernetes.Interface
	Snapshots   snapclient.Interface
	Exports     exports.Interface
	Linstor     Linstor
	Claims      corelisters.PersistentVolumeClaimLister
	Volumes     corelisters.PersistentVolumeLister
	Attachments storagelisters.VolumeAttachmentLister
}

// Provisioner is csi-provisioner's Provisioner, extended by exported volumes.
type Provisioner struct {
	controller.Provisioner
	Config
	locks   keyLocks
	metrics *stepMetrics
	poll    time.Duration
}

// The library finds these by type assertion: a wrapper that loses one silently
// changes behaviour, so they are stated here.
var (
	_ controller.Provisioner      = &Provisioner{}
	_ controller.BlockProvisioner = &Provisioner{}
	_ controller.Qualifier        = &Provisioner{}
)

// Wrap returns csi extended by ReadWriteMany filesystem volumes. Every other claim
// passes through untouched.
func Wrap(csi controller.Provisioner, config Config) *Provisioner {
	return &Provisioner{Provisioner: csi, Config: config, metrics: newStepMetrics(), poll: 500 * time.Millisecond}
}

// SupportsBlock implements controller.BlockProvisioner.
func (p *Provisioner) SupportsBlock(ctx context.Context) bool {
	block, ok := p.Provisioner.(controller.BlockProvisioner)
	return ok && block.SupportsBlock(ctx)
}

// ShouldProvision implements controller.Qualifier.
func (p *Provisioner) ShouldProvision(ctx context.Context, claim *corev1.PersistentVolumeClaim) bool {
	qualifier, ok := p.Provisioner.(controller.Qualifier)
	return !ok || qualifier.ShouldProvision(ctx, claim)
}

// Provision implements controller.Provisioner.
//
// States matter as much as errors. The library forgets a claim after Finished, so
// that a volume leaks if the claim is deleted then; after InBackground it calls
// again even without the claim. Hence: a refusal is Finished, what fails before
// linstor-csi was called is NoChange, and what fails after is InBackground. Errors
// of ours carry no gRPC status: the library would take InvalidArgument for final.
func (p *Provisioner) Provision(ctx context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if !wantsExport(options.PVC) {
		return p.passThrough(ctx, options)
	}
	if options.StorageClass == nil || forPopulator(options.PVC) {
		return p.Provisioner.Provision(ctx, options) // refuses or ignores it in its own words
	}

	r, err := decide(options.PVC, options.StorageClass, p.Config)
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	defer p.locks.lock(r.name)() // against the sweep
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("claim", klog.KObj(options.PVC), "export", r.name))

	existed, err := p.prepare(ctx, r)
	if err != nil {
		if !existed {
			p.discard(ctx, r)
		}
		return nil, controller.ProvisioningNoChange, err
	}

	begin := time.Now()
	options.PVC, options.StorageClass = r.innerClaim(), r.innerClass()
	pv, state, err := p.Provisioner.Provision(ctx, options)
	if err != nil {
		// The error goes on unwrapped: the library looks at its type and status.
		return nil, p.afterFailure(ctx, r, state, existed), err
	}
	p.metrics.observe(stepCreate, begin)

	if err := p.finish(ctx, r, pv); err != nil {
		return nil, controller.ProvisioningInBackground, err
	}
	klog.FromContext(ctx).V(2).Info("Volume is ready to be exported", "resourceDefinition", r.resourceName)
	return pv, controller.ProvisioningFinished, nil
}

// prepare makes everything that must be there before linstor-csi is called. It
// tells whether the volume, or a part of it, was there before this call.
func (p *Provisioner) prepare(ctx context.Context, r *request) (existed bool, err error) {
	defer p.metrics.observe(stepPrepare, time.Now())
	definition, err := p.Linstor.Definition(ctx, r.resourceName)
	if err != nil {
		return true, err // unknown counts as existing: nothing may be thrown away
	}
	existed = definition != nil && definition.HasData()
	if err := p.guard(ctx, r, definition); err != nil {
		return existed, err
	}
	if err := p.ensureIntent(ctx, r); err != nil {
		return existed, err
	}
	if r.copied || existed {
		// linstor-csi restores and clones only into nothing.
		return existed, nil
	}
	err = p.Linstor.EnsureDefinition(ctx, linstor.Wanted{
		Name: r.resourceName, Export: r.name, ResourceGroup: r.group, FSType: r.FSType, MkfsParams: r.MkfsParams,
	})
	if err != nil {
		return existed, err
	}
	// Before linstor-csi places the volume: added later, VolNr 1 never becomes
	// UpToDate on thick pools of older controllers, and then DRBD promotes neither.
	return existed, p.Linstor.EnsureRecoveryVolume(ctx, r.resourceName, r.name, r.RecoveryKiB)
}

// guard refuses what can be known to fail before anything is made.
func (p *Provisioner) guard(ctx context.Context, r *request, definition *linstor.Definition) error {
	if definition != nil && !r.copied {
		return definition.CheckOwner(r.name, r.group)
	}
	if definition != nil {
		return p.guardRetriedCopy(ctx, r)
	}
	if r.copied {
		if err := p.guardCopy(ctx, r); err != nil {
			return err
		}
	}
	return p.tryService(ctx, r)
}

// afterFailure decides the state after linstor-csi failed, and removes what we made
// if linstor-csi has removed its part.
func (p *Provisioner) afterFailure(ctx context.Context, r *request, state controller.ProvisioningState, existed bool) controller.ProvisioningState {
	switch {
	case state == controller.ProvisioningInBackground, state == controller.ProvisioningNoChange && existed:
		return state
	case p.discard(ctx, r), state != controller.ProvisioningFinished:
		return state
	}
	// A final error, yet the volume is there: linstor-csi could not remove it, or it
	// was complete and a later call failed. It must not be forgotten.
	return controller.ProvisioningInBackground
}

// finish turns the ReadWriteOnce volume that linstor-csi made into a shared one.
func (p *Provisioner) finish(ctx context.Context, r *request, pv *corev1.PersistentVolume) error {
	if pv.Spec.CSI == nil || trimVolumeNumber(pv.Spec.CSI.VolumeHandle) != r.resourceName {
		return fmt.Errorf("linstor-csi has made volume %s, but %s was expected: this version of linstor-csi is not supported", pv.Name, r.resourceName)
	}
	if r.copied {
		if err := p.completeCopy(ctx, r); err != nil {
			return err
		}
	}

	begin := time.Now()
	if err := p.waitServable(ctx, r.resourceName); err != nil {
		return err
	}
	p.metrics.observe(stepReady, begin)

	defer p.metrics.observe(stepPublish, time.Now())
	export, err := p.recordIdentity(ctx, r, pv)
	if err != nil {
		return err
	}
	if export, err = p.ensureService(ctx, export); err != nil {
		return err
	}
	publish(pv, r, export)
	return nil
}

// waitServable waits until one node at least can serve the volume, not all: an
// offline node must not block a claim.
func (p *Provisioner) waitServable(ctx context.Context, name string) error {
	wait, cancel := context.WithTimeout(ctx, p.Settings.ReadyTimeout)
	defer cancel()
	for {
		replicas, err := p.Linstor.Replicas(ctx, name)
		if err == nil && linstor.Servable(replicas) {
			return nil
		}
		klog.FromContext(ctx).V(4).Info("Volume is not UpToDate yet", "replicas", replicas, "err", err)
		if !sleep(wait, p.poll) {
			if err != nil {
				return err
			}
			return fmt.Errorf("no node has both volumes of %s UpToDate yet: see `linstor volume list -r %s`", name, name)
		}
	}
}

// sleep waits, and tells whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
