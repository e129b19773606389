package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
)

const (
	// fenceTimeout bounds each step of a fencing: a process or a mount may hang
	// in I/O that only the forced demotion ends.
	fenceTimeout = time.Second
	unmountTries = 5
)

// stopServer stops serving here and says so.
func (a *Agent) stopServer(ctx context.Context, f Facts, decision Decision) error {
	if decision.Reason == ReasonIsolated {
		a.noteIsolation(f.Name)
	}
	if err := a.release(ctx, f, decision); err != nil {
		return err
	}
	a.metrics.stops.WithLabelValues(decision.Reason).Inc()
	if f.Export == nil {
		return nil
	}
	switch decision.Reason {
	case ReasonIdle:
		a.events.normal(f.Export, "Idle", decision.Message)
	case ReasonWithdrawn, ReasonStale, ReasonOrphaned, ReasonReplaced:
	default:
		a.events.warning(f.Export, "Stopped", "node "+f.Node+" does not serve it any more: "+decision.Message)
	}
	switch decision.Reason {
	case ReasonKeepsFailing, ReasonLauncherDown:
		a.backOff(a.remember(f.Name), failedStartMaxDelay/4)
	case ReasonIsolated:
		a.backOff(a.remember(f.Name), isolationPause)
	}
	if decision.Keep {
		return nil // the status is the next supervisor's
	}
	if f.Export.Status.Node != f.Node && f.Export.Status.Node != "" {
		return nil // another server has the word already
	}
	return a.writeStatus(ctx, f, releasedStatus(f, decision))
}

// releasedStatus is the status after this node let go.
func releasedStatus(f Facts, decision Decision) v1alpha1.NFSExportStatus {
	status := unservedStatus(f, decision)
	if f.Server != nil && f.Server.SizeBytes > 0 {
		if status.Size == nil || status.Size.Value() != f.Server.SizeBytes {
			status.Size = resource.NewQuantity(f.Server.SizeBytes, resource.BinarySI)
		}
		status.DeviceBytes = f.Server.DeviceBytes
		markGrown(&status, f)
	}
	return status
}

// release ends everything that serves the export on this node. If the pod ends,
// nobody would look after a volume that somebody else holds open: it is taken away
// from whoever has it.
func (a *Agent) release(ctx context.Context, f Facts, decision Decision) error {
	err := a.letGo(ctx, f, decision)
	if err == nil || !f.Leaving || decision.Keep || decision.Fence || ctx.Err() != nil {
		return err
	}
	klog.FromContext(ctx).Error(err, "Volume is taken away by force from whoever holds it open")
	return a.fence(ctx, f, decision.Freeze)
}

// letGo is a release that leaves a volume alone which is held open. The order is the
// point: no process, then no endpoint, then no mount, then no Primary. Each part
// is tried even if the one before failed, when fencing. If clients are to wait
// for another server, the endpoint stays until that one points it to itself.
func (a *Agent) letGo(ctx context.Context, f Facts, decision Decision) error {
	took := parts{start: a.now()}
	if decision.Freeze {
		a.freeze(ctx, f.Name)
		took.done("freeze", a.now())
	}
	if decision.Fence {
		return a.fence(ctx, f, decision.Freeze)
	}
	if f.holding() {
		defer a.guard(ctx, resourceOf(f))()
	}
	if f.running() || f.LauncherDown {
		if err := a.endProcess(ctx, f.Name, false, a.settings.StopTimeout); err != nil && !f.LauncherDown {
			if ctx.Err() != nil || !stuck(f) {
				return err
			}
			klog.FromContext(ctx).Error(err, "Ganesha cannot be killed, its volume is taken away from it")
			return a.fence(ctx, f, decision.Freeze)
		}
		took.done("stop", a.now())
	}
	if decision.Keep {
		return a.released(ctx, f, decision.Freeze, nil)
	}
	var endpointErr error
	if !decision.Freeze {
		endpointErr = a.removeEndpoint(ctx, f.Name)
		took.done("endpoint", a.now())
	}
	for _, target := range []string{a.settings.dataPath(f.Name), a.settings.recoveryPath(f.Name)} {
		if err := a.unmount(ctx, target); err != nil {
			return errors.Join(fmt.Errorf("release export %s: %w", f.Name, err), endpointErr)
		}
		took.done("unmount", a.now())
	}
	if f.primary() && (f.Export != nil || f.holding() || f.Intent != nil) { // or else it is somebody else's
		if err := a.demote(ctx, f.Resource.Name); err != nil {
			return errors.Join(fmt.Errorf("release export %s: %w", f.Name, err), endpointErr)
		}
		took.done("demote", a.now())
	}
	if f.holding() {
		klog.FromContext(ctx).Info("Released export", took.keysAndValues()...)
	}
	return a.released(ctx, f, decision.Freeze, endpointErr)
}

// stuck says of a ganesha that does not even end by SIGKILL whether waiting is no
// good. It hangs in the kernel, in I/O: while a snapshot suspends it, that passes;
// else only a forced demotion ends it.
func stuck(f Facts) bool { return f.Resource != nil && !f.Resource.Suspended.User }

// freeze keeps the clients waiting. That it fails costs them time, nothing else.
func (a *Agent) freeze(ctx context.Context, name string) {
	bounded, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	if err := a.access.freeze(bounded, name); err != nil {
		klog.FromContext(ctx).Error(err, "Clients are not kept waiting")
	}
	m := a.remember(name)
	m.lock.Lock()
	defer m.lock.Unlock()
	m.timers.Frozen, m.timers.Elsewhere = a.now(), time.Time{}
}

// released forgets the server, unless the API server still sends clients here.
func (a *Agent) released(ctx context.Context, f Facts, frozen bool, endpointErr error) error {
	a.remember(f.Name).setServer(nil)
	a.metrics.clients.DeleteLabelValues(f.Name)
	if endpointErr != nil {
		return endpointErr // the slice points here, so the next pass tries again
	}
	if !frozen {
		if err := a.unfreeze(ctx, f); err != nil {
			return err
		}
	}
	return a.removeIntent(f.Name)
}

// fence is a release that waits for nothing that may hang: DRBD has taken the
// device away, or is about to give it to another node.
func (a *Agent) fence(ctx context.Context, f Facts, frozen bool) error {
	started := a.now()
	var errs []error
	if f.running() || f.LauncherDown {
		// Not waited for long: it may hang in I/O until the demotion below.
		if err := a.endProcess(ctx, f.Name, true, fenceTimeout); err != nil {
			klog.FromContext(ctx).Info("Killed ganesha has not ended yet", "err", err)
		}
	}
	endpointErr := make(chan error, 1)
	go func() { // the API server may be what is lost
		if frozen {
			endpointErr <- nil
			return
		}
		endpointErr <- a.removeEndpoint(ctx, f.Name)
	}()
	for _, target := range []string{a.settings.dataPath(f.Name), a.settings.recoveryPath(f.Name)} {
		bounded, cancel := context.WithTimeout(ctx, fenceTimeout)
		if err := a.files.Unmount(bounded, target, true); err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", target, err))
		}
		cancel()
	}
	if f.Resource != nil && f.Resource.Role == drbd.RolePrimary {
		if err := a.demoteAtOnce(ctx, *f.Resource); err != nil {
			errs = append(errs, err)
		}
	}
	if f.running() {
		if err := a.endProcess(ctx, f.Name, true, a.settings.StopTimeout); err != nil {
			errs = append(errs, err)
		}
	}
	klog.FromContext(ctx).Info("Fenced export", "seconds", seconds(a.now().Sub(started)))
	if len(errs) > 0 {
		errs = append(errs, <-endpointErr) // Join leaves nil out
		return fmt.Errorf("fence export %s: %w", f.Name, errors.Join(errs...))
	}
	return a.released(ctx, f, frozen, <-endpointErr)
}

// demoteAtOnce gives the Primary role back. What is suspended or still open is
// demoted by force: its I/O fails from then on, which is what is wanted.
func (a *Agent) demoteAtOnce(ctx context.Context, resource drbd.Resource) error {
	if !resource.Suspended.Any() && resource.HasQuorum() {
		bounded, cancel := context.WithTimeout(ctx, 2*fenceTimeout)
		err := a.drbd.Secondary(bounded, resource.Name)
		cancel()
		if err == nil {
			return nil
		}
	}
	if err := a.drbd.ForceSecondary(ctx, resource.Name); err != nil {
		return fmt.Errorf("demote resource %s by force: %w", resource.Name, err)
	}
	return nil
}

// demote gives the Primary role back. It is refused for a moment while somebody,
// such as udev, looks at the device after the unmount.
func (a *Agent) demote(ctx context.Context, name string) error {
	return poll(ctx, 5*time.Second, 200*time.Millisecond, func(ctx context.Context) error {
		return a.drbd.Secondary(ctx, name)
	})
}

// endProcess ends ganesha: by SIGTERM, and if that does not help by SIGKILL.
func (a *Agent) endProcess(ctx context.Context, name string, kill bool, patience time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	err := a.launcher.Stop(bounded, name, kill)
	cancel()
	if err != nil && !kill && ctx.Err() == nil {
		bounded, cancel = context.WithTimeout(ctx, patience)
		err = a.launcher.Stop(bounded, name, true)
		cancel()
	}
	if err != nil {
		return fmt.Errorf("stop ganesha of export %s: %w", name, err)
	}
	return nil
}

// killProcess ends a ganesha that may hold anything: there is no time for a clean end.
func (a *Agent) killProcess(ctx context.Context, name string) error {
	return a.endProcess(ctx, name, true, min(killTimeout, a.settings.StopTimeout))
}

// unmount waits for a short while for a filesystem that is busy.
func (a *Agent) unmount(ctx context.Context, target string) error {
	return poll(ctx, unmountTries*200*time.Millisecond, 200*time.Millisecond, func(ctx context.Context) error {
		return a.files.Unmount(ctx, target, false)
	})
}
