package provisioner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/exports"
	"github.com/linbit/linstor-rwx/pkg/linstor"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Sweep removes what a crash together with a deleted claim has left behind: then
// nobody calls Provision or Delete again. It blocks until ctx ends; only the leader
// may run it, and with synced informers.
func (p *Provisioner) Sweep(ctx context.Context) {
	if p.Settings.SweepInterval == 0 {
		return
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: p.Client.CoreV1().Events("")})
	s := &sweep{Provisioner: p, firstSeen: map[string]time.Time{}, now: time.Now,
		events: broadcaster.NewRecorder(exports.Scheme, corev1.EventSource{Component: "rwx-provisioner"})}
	for {
		if err := s.run(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Sweep failed, trying again later")
		}
		if !sleep(ctx, p.Settings.SweepInterval) {
			return
		}
	}
}

// sweep remembers since when it has seen leftovers. The memory is the process's: a
// new leader starts to count again, which is the safe direction.
type sweep struct {
	*Provisioner
	events    record.EventRecorder
	firstSeen map[string]time.Time
	now       func() time.Time

	// Of the current pass:
	current map[string]bool
	kept    map[string]float64
}

// verdict is what is to be done with an NFSExport.
type verdict int

const (
	inUse      verdict = iota // it has a claim or a volume
	markSeen                  // its volume is seen for the first time
	leaving                   // it is being withdrawn already
	forgotten                 // nobody was ever shown it: it goes, with its volume
	unexpected                // nobody has it, but it may hold data: it stays
)

// exportFacts are what judge decides by.
type exportFacts struct {
	claim  bool // the claim it was made for exists, by UID
	volume bool // its PersistentVolume exists
	export *v1alpha1.NFSExport
}

// judge decides about one export. Data comes first: a volume is only removed if no
// PersistentVolume was ever seen for it and no server ever started on it, which are
// two independent records.
func judge(f exportFacts) verdict {
	_, seen := f.export.Annotations[names.VolumeSeenAnnotation]
	served := f.export.Status.BootEpoch > 0 || f.export.Status.Since != nil || f.export.Status.Node != ""
	switch {
	case f.export.DeletionTimestamp != nil:
		return leaving
	case f.volume && !seen:
		return markSeen
	case f.volume, f.claim:
		return inUse
	case seen, served, f.export.Spec.Claim == nil:
		return unexpected
	default:
		return forgotten
	}
}

// run makes one pass.
func (s *sweep) run(ctx context.Context) error {
	list, err := s.Exports.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list NFSExports: %w", err)
	}
	// First, and whether or not LINSTOR answers: what was shown to somebody once is
	// never taken for forgotten.
	for i := range list.Items {
		if export := &list.Items[i]; judge(s.facts(export)) == markSeen {
			if err := s.markSeen(ctx, export); err != nil {
				klog.FromContext(ctx).Error(err, "Cannot mark export, trying again later", "export", export.Name)
			}
		}
	}
	// Read after the exports: a definition is made after its export, so one without
	// an export is not one whose export we merely did not see yet.
	definitions, err := s.Linstor.MarkedDefinitions(ctx)
	if err != nil {
		return err
	}
	groups, err := s.Linstor.EmptyGroups(ctx)
	if err != nil {
		return err
	}
	s.current, s.kept = map[string]bool{}, map[string]float64{}
	known := map[string]bool{}
	for i := range list.Items {
		known[list.Items[i].Name] = true
		s.exportPass(ctx, &list.Items[i])
	}
	for _, definition := range definitions {
		if !known[definition.Export] && !s.hasVolume(definition) {
			s.definitionPass(ctx, definition)
		}
	}
	for _, group := range groups {
		s.groupPass(ctx, group)
	}
	maps.DeleteFunc(s.firstSeen, func(key string, _ time.Time) bool { return !s.current[key] })
	s.metrics.setKept(s.kept)
	return nil
}

func (s *sweep) exportPass(ctx context.Context, export *v1alpha1.NFSExport) {
	logger := klog.FromContext(ctx).WithValues("export", export.Name)
	switch verdict := judge(s.facts(export)); verdict {
	case forgotten, unexpected:
		if !s.old("export " + export.Name + " " + string(export.UID)) {
			return
		}
		if verdict == unexpected {
			s.kept["export"]++
			s.keepExport(export)
		} else if err := s.removeExport(ctx, export); err != nil {
			logger.Info("Cannot remove a leftover export yet", "err", err)
		}
	}
}

func (s *sweep) definitionPass(ctx context.Context, definition *linstor.Definition) {
	if !s.old("definition " + definition.Name + " " + definition.UUID) {
		return
	}
	logger := klog.FromContext(ctx).WithValues("resourceDefinition", definition.Name)
	removed, err := s.removeDefinition(ctx, definition)
	switch {
	case err != nil:
		logger.Info("Cannot remove a leftover resource definition yet", "err", err)
	case !removed:
		s.kept["definition"]++
		logger.Info("Keeping a resource definition that has our marker and no NFSExport, because it may hold data")
	}
}

// groupPass removes a group that a crash left before its first volume. If a claim is
// just about to use it, LINSTOR refuses or the claim makes it again.
func (s *sweep) groupPass(ctx context.Context, group string) {
	if !s.old("group " + group) {
		return
	}
	if err := s.Linstor.RemoveGroup(ctx, group); err != nil {
		klog.FromContext(ctx).Info("Cannot remove a leftover resource group yet", "resourceGroup", group, "err", err)
		return
	}
	s.metrics.removed("group")
}

// old tells whether something has been a leftover for long enough, as seen by this
// process without interruption.
func (s *sweep) old(key string) bool {
	first, found := s.firstSeen[key]
	if !found {
		first = s.now()
		s.firstSeen[key] = first
	}
	s.current[key] = true
	return s.now().Sub(first) >= s.Settings.SweepAge
}

// facts reads claim and volume from the informers. What cannot be read counts as
// there.
func (s *sweep) facts(export *v1alpha1.NFSExport) exportFacts {
	f := exportFacts{export: export, claim: true, volume: true}
	if volumes, err := s.Volumes.List(labels.Everything()); err == nil {
		f.volume = slices.ContainsFunc(volumes, func(pv *corev1.PersistentVolume) bool { return s.leadsTo(pv, export) })
	}
	if reference := export.Spec.Claim; reference == nil {
		f.claim = false
	} else if claim, err := s.Claims.PersistentVolumeClaims(reference.Namespace).Get(reference.Name); apierrors.IsNotFound(err) {
		f.claim = false
	} else if err == nil {
		f.claim = string(claim.UID) == reference.UID
	}
	return f
}

// leadsTo tells whether a PersistentVolume is that of the export, or one that
// somebody made by hand for the same volume of LINSTOR.
func (s *sweep) leadsTo(pv *corev1.PersistentVolume, export *v1alpha1.NFSExport) bool {
	return pv.Name == export.Name || pv.Spec.CSI != nil && pv.Spec.CSI.Driver == s.Driver &&
		trimVolumeNumber(pv.Spec.CSI.VolumeHandle) == export.Spec.ResourceDefinition.Name
}

// hasVolume tells whether a PersistentVolume leads to the definition: then it is a
// restore or clone of an exported volume that still carries its source's marker, or
// its export was withdrawn and Delete goes on.
func (s *sweep) hasVolume(definition *linstor.Definition) bool {
	for _, name := range []string{definition.Name, definition.Export} {
		if _, err := s.Volumes.Get(name); !apierrors.IsNotFound(err) {
			return true
		}
	}
	return false
}

func (s *sweep) markSeen(ctx context.Context, export *v1alpha1.NFSExport) error {
	current, err := s.Exports.Get(ctx, export.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get NFSExport %s: %w", export.Name, err)
	}
	current = current.DeepCopy()
	metav1.SetMetaDataAnnotation(&current.ObjectMeta, names.VolumeSeenAnnotation, "true")
	if _, err := s.Exports.Update(ctx, current, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("annotate NFSExport %s: %w", export.Name, err)
	}
	return nil
}

// keepExport reports a leftover that may hold data. The text never changes, so that
// the events are counted.
func (s *sweep) keepExport(export *v1alpha1.NFSExport) {
	s.events.Eventf(export, corev1.EventTypeWarning, "Kept",
		"Neither claim nor PersistentVolume exist, but resource definition %s may hold data: make a PersistentVolume for it, or delete the NFSExport and the resource definition", export.Spec.ResourceDefinition.Name)
}

// removeExport removes an export that nobody was ever shown, and its volume.
func (s *sweep) removeExport(ctx context.Context, export *v1alpha1.NFSExport) error {
	defer s.locks.lock(export.Name)()
	// Once more, with the lock and from the API server: Provision may have gone on.
	export, err := s.Exports.Get(ctx, export.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get NFSExport: %w", err)
	}
	volumes, err := s.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list PersistentVolumes: %w", err)
	}
	if slices.ContainsFunc(volumes.Items, func(pv corev1.PersistentVolume) bool { return s.leadsTo(&pv, export) }) {
		return nil
	}
	if judge(s.facts(export)) != forgotten {
		return nil
	}

	name := export.Spec.ResourceDefinition.Name
	gone, err := s.Linstor.RemoveUnused(ctx, name, export.Name)
	if err != nil {
		return err
	}
	if !gone {
		if err := s.removeVolume(ctx, export); err != nil {
			return err
		}
	}
	if err := s.deleteExport(ctx, export); err != nil {
		return err
	}
	s.metrics.removed("export")
	klog.FromContext(ctx).Info("Removed the leftover of a claim that is gone", "export", export.Name, "resourceDefinition", name)
	return nil
}

// removeVolume lets linstor-csi delete a volume that never had a PersistentVolume.
func (s *sweep) removeVolume(ctx context.Context, export *v1alpha1.NFSExport) error {
	name := export.Spec.ResourceDefinition.Name
	definition, err := s.Linstor.Definition(ctx, name)
	if err != nil || definition == nil {
		return err
	}
	if !madeFor(export, definition) {
		s.kept["export"]++
		s.keepExport(export)
		return fmt.Errorf("resource definition %s may be another volume's", name)
	}
	replicas, err := s.Linstor.Replicas(ctx, name)
	if err != nil {
		return err
	}
	if !linstor.KnownUnused(replicas) {
		return fmt.Errorf("it is not known of every node that %s is unused", name)
	}
	err = s.Provisioner.Provisioner.Delete(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: export.Name},
		Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			CSI: &corev1.CSIPersistentVolumeSource{Driver: s.Driver, VolumeHandle: name},
		}},
	})
	if err == nil {
		s.metrics.removed("volume")
	}
	return err
}

// madeFor tells whether a definition was certainly made for an export. Names that
// linstor-csi takes from claims (usePvcName) come back with the next claim, maybe for
// another volume.
func madeFor(export *v1alpha1.NFSExport, definition *linstor.Definition) bool {
	if uuid := export.Spec.ResourceDefinition.UUID; uuid != "" {
		return uuid == definition.UUID && definition.Export == export.Name
	}
	// A restore that was cut short has its source's marker, or none.
	return definition.Export == export.Name || definition.Name == export.Name
}

func (s *sweep) removeDefinition(ctx context.Context, definition *linstor.Definition) (bool, error) {
	defer s.locks.lock(definition.Export)()
	if _, err := s.Exports.Get(ctx, definition.Export, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return true, err // its export is here now
	}
	removed, err := s.Linstor.RemoveUnused(ctx, definition.Name, definition.Export)
	if removed && err == nil {
		s.metrics.removed("definition")
		klog.FromContext(ctx).Info("Removed a leftover resource definition", "resourceDefinition", definition.Name)
	}
	return removed, err
}
