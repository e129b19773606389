package supervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/filesystem"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	// graceInterval is how often a server is looked at during grace and while it
	// does not answer.
	graceInterval = time.Second
	growRetry     = 30 * time.Second
)

// adopt takes over a server that an earlier supervisor process of this pod
// started. The server is not touched.
func (a *Agent) adopt(ctx context.Context, f Facts) {
	server := &Server{Intent: *f.Intent}
	if size, err := a.files.SizeBytes(a.settings.dataPath(f.Name)); err == nil {
		server.SizeBytes = size
	}
	a.lock.Lock()
	a.ports[f.Name] = server.Port
	a.lock.Unlock()
	if err := a.access.admit(ctx, f.Export, server.Port); err != nil {
		klog.FromContext(ctx).Error(err, "Rules for the adopted server are not in force")
	}
	// It may have been started a moment before its supervisor died: nobody has
	// proved yet that it serves.
	seen := a.look(f.Name)
	if err := a.probeOnce(ctx, f.Name, server.Port); err != nil {
		seen.Failures, seen.Error = 1, err.Error()
	}
	m := a.remember(f.Name)
	m.setServer(server)
	m.lock.Lock()
	m.observed = seen
	m.lock.Unlock()
	a.observations.AddAfter(f.Name, graceInterval)
	klog.FromContext(ctx).Info("Adopted running server", "pid", f.Process.PID, "port", server.Port)
}

// keep brings endpoint and status of a served export up to date. Nothing is
// written for an export that did not change.
func (a *Agent) keep(ctx context.Context, f Facts, decision Decision) (time.Duration, error) {
	server := a.describeHealth(f)
	f.Server = &server
	// The list of allowed clients may have changed.
	if err := a.access.admit(ctx, f.Export, server.Port); err != nil {
		return 0, err
	}
	var endpointErr error
	if f.Observed.Failures == 0 { // otherwise the endpoint stays as it is
		endpointErr = a.ensureEndpoint(ctx, f.Export, server, false)
	}
	after, err := a.keepStatus(ctx, f)
	if err == nil {
		err = endpointErr
	}
	if decision.After > 0 && (after == 0 || decision.After < after) {
		after = decision.After
	}
	return after, err
}

// describeHealth notes what needs attention although the export is served.
func (a *Agent) describeHealth(f Facts) Server {
	server := *f.Server
	server.Degraded = ""
	for _, volume := range []int{names.DataVolume, names.RecoveryVolume} {
		device, _ := f.Resource.Device(volume)
		if device.DiskState != drbd.DiskUpToDate {
			server.Degraded = fmt.Sprintf("the replica of volume %d on node %s is %s, I/O goes to another node", volume, f.Node, device.DiskState)
		}
	}
	return server
}

// observeOnce looks at a running server: does it answer, whom does it know. It
// runs beside the export's worker and only reports.
func (a *Agent) observeOnce(ctx context.Context, name string) {
	m := a.remember(name)
	server := m.currentServer()
	if server == nil {
		return
	}
	before := a.now()
	err := a.probeOnce(ctx, name, server.Port)
	if ctx.Err() != nil {
		return
	}
	seen := a.look(name)
	a.tendClients(ctx, name, *server, seen)

	m.lock.Lock()
	if m.server == nil || m.server.Started != server.Started {
		m.lock.Unlock()
		return // stopped or replaced meanwhile
	}
	old := m.observed
	if err != nil {
		seen.Failures, seen.Error = old.Failures+1, err.Error()
	}
	m.observed = seen
	if old.Grace.Active && !seen.Grace.Active && m.server.Failover != nil {
		took := seen.At.Sub(m.server.Started)
		m.server.Failover = m.server.Failover.DeepCopy()
		m.server.Failover.Parts["grace"] = seconds(took)
		a.metrics.graceSeconds.Observe(took.Seconds())
	}
	m.lock.Unlock()

	if err != nil {
		a.metrics.probeFailures.WithLabelValues(name).Inc()
		klog.FromContext(ctx).V(2).Info("Probe failed", "export", name, "failures", seen.Failures, "err", err)
	} else {
		a.metrics.probeSeconds.Observe(a.now().Sub(before).Seconds())
	}
	a.metrics.clients.WithLabelValues(name).Set(float64(seen.Clients))
	if a.becameReadOnly(name) {
		a.Trigger(name)
	}
	if (old.Failures > 0) != (seen.Failures > 0) || seen.Failures >= a.settings.ProbeFailures || old.Clients != seen.Clients || old.Grace != seen.Grace {
		a.Trigger(name)
	}
	next := a.settings.ProbeInterval
	if seen.Grace.Active || seen.Failures > 0 {
		next = min(next, graceInterval)
	}
	a.observations.AddAfter(name, next)
}

// becameReadOnly says whether the kernel has stopped writing to a filesystem of the
// export, as after an error of which DRBD need not know. Nothing tells of that.
func (a *Agent) becameReadOnly(name string) bool {
	mounts, err := a.files.List(filepath.Join(a.settings.exportsRoot(), name))
	return err == nil && slices.ContainsFunc(mounts, func(m filesystem.Mount) bool { return m.ReadOnly })
}

// tendClients keeps on the recovery volume who the clients are, and in grace does
// not let the living wait for the dead.
func (a *Agent) tendClients(ctx context.Context, name string, server Server, seen Observation) {
	root := a.settings.recoveryPath(name)
	records, err := a.recovery.Records(root)
	if err == nil {
		err = a.rememberClients(name, root, records)
	}
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Clients are not remembered now", "export", name, "err", err)
		return
	}
	if seen.Grace.Active {
		a.speakForLost(ctx, name, server, records)
	}
}

// look reads the server's records on the recovery volume.
func (a *Agent) look(name string) Observation {
	root := a.settings.recoveryPath(name)
	seen := Observation{At: a.now()}
	if records, err := a.recovery.Records(root); err == nil {
		seen.Clients = len(records.Clients)
	}
	if grace, err := a.recovery.GraceState(root); err == nil {
		seen.Grace = grace
	}
	return seen
}

// growServed grows the filesystem of an export that this node serves, online.
func (a *Agent) growServed(ctx context.Context, f Facts) error {
	defer a.guard(ctx, f.Resource.Name)()
	server := *f.Server
	device, _ := f.Resource.Device(names.DataVolume)
	before := server.DeviceBytes
	a.grow(ctx, f, &server, drbd.DevicePath(device.Minor), device.SizeBytes)
	if server.DeviceBytes != before {
		if err := a.writeIntent(server.Intent); err != nil {
			return err
		}
		a.events.normal(f.Export, "Grown", fmt.Sprintf("the filesystem has grown to %d bytes", server.SizeBytes))
	}
	m := a.remember(f.Name)
	m.lock.Lock()
	if m.server != nil {
		m.server = &server
	}
	m.lock.Unlock()
	return nil
}

// grow grows the mounted filesystem if the device is larger than server knows.
func (a *Agent) grow(ctx context.Context, f Facts, server *Server, device string, deviceBytes int64) {
	target := a.settings.dataPath(f.Name)
	if deviceBytes > server.DeviceBytes {
		if err := a.files.Grow(ctx, device, target, f.Export.Spec.FSType); err != nil {
			server.GrowError = "growing the filesystem failed: " + err.Error()
			server.GrowAfter = a.now().Add(growRetry)
			a.events.warning(f.Export, "GrowFailed", server.GrowError)
			klog.FromContext(ctx).Error(err, "Filesystem was not grown")
		} else {
			server.DeviceBytes, server.GrowError = deviceBytes, ""
		}
	}
	if size, err := a.files.SizeBytes(target); err == nil {
		server.SizeBytes = size
	}
}

// growIdle promotes an export that nobody needs now, grows it and lets it go.
func (a *Agent) growIdle(ctx context.Context, f Facts) error {
	defer a.guard(ctx, f.Resource.Name)()
	s := &starting{Facts: f, memory: a.remember(f.Name), export: f.Export, resource: *f.Resource}
	s.parts.start = a.now()
	for _, step := range a.openSteps() {
		if err := step.run(ctx, s); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			_, err := a.abandon(ctx, s, fmt.Errorf("%s: %w", step.name, err))
			return err
		}
	}
	held, err := a.gather(ctx, f.Name)
	if err != nil {
		return err
	}
	s.memory.failures = 0
	if s.server.GrowError != "" {
		a.backOff(s.memory, growRetry)
	} else if before := f.Export.Status.Size; before == nil || s.server.SizeBytes > before.Value() {
		a.events.normal(f.Export, "Grown", fmt.Sprintf("the filesystem has grown to %d bytes", s.server.SizeBytes))
	}
	held.Server = &s.server
	decision := Decision{Action: Stop, Reason: ReasonIdle, Message: "no node is attached; the next attach starts the server"}
	// Written before the release: no other node shall find the export released and
	// still to be grown.
	statusErr := a.writeStatus(ctx, held, releasedStatus(held, decision))
	return errors.Join(a.letGo(ctx, held, decision), statusErr)
}
