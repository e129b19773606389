package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	probePause = 75 * time.Millisecond
	// apiPatience is how long a start waits for the API server. Afterwards the
	// server runs and the next passes write what is missing.
	apiPatience = 3 * time.Second
)

// config is the configuration of an export's ganesha on this node.
func (a *Agent) config(export *v1alpha1.NFSExport, port int) ganesha.Config {
	return ganesha.Config{
		Export:       export.Name,
		ExportID:     export.Spec.ExportID,
		FSID:         export.Spec.FSID,
		ServerScope:  export.Spec.ServerScope,
		DataPath:     a.settings.dataPath(export.Name),
		PseudoPath:   names.ExportPath(export.Name),
		RecoveryRoot: a.settings.recoveryPath(export.Name),
		Port:         port,
		Squash:       ganesha.Squash(export.Spec.Squash),
		ReadOnly:     export.Spec.AccessType == v1alpha1.ReadOnly,
		Lease:        time.Duration(export.Spec.LeaseSeconds) * time.Second,
		Grace:        time.Duration(export.Spec.GraceSeconds) * time.Second,
	}
}

// configApplied says whether the running server has the configuration that the
// spec asks for now. A change is applied at the next start.
func (a *Agent) configApplied(f Facts) bool {
	rendered, err := ganesha.Render(a.config(f.Export, f.Server.Port))
	return err == nil && ganesha.Hash(rendered) == f.Server.ConfigHash
}

// announce points the Service to the server that is going to be started, beside
// the start: kube-proxy needs a second to follow, and may as well do it meanwhile.
// Who connects until the server answers gets no answer. Whether it works is no
// matter, the server is published when it answers.
func (a *Agent) announce(ctx context.Context, s *starting) {
	defer close(s.announced)
	if s.restart {
		return // it is where it was
	}
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	port, err := a.port(s)
	if err == nil {
		err = a.access.admit(ctx, s.export, port)
	}
	if err == nil {
		err = a.ensureEndpoint(ctx, s.export, Server{Intent: Intent{PodIP: a.settings.PodIP, Port: port}}, true)
	}
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Server is not announced", "err", err)
	}
}

// announceTimeout is how long a start that is done with the rest waits for an API
// server that does not answer.
const announceTimeout = 800 * time.Millisecond

// launch writes configuration and intent and starts ganesha.
func (a *Agent) launch(ctx context.Context, s *starting) error {
	port, err := a.port(s)
	if err != nil {
		return err
	}
	rendered, err := ganesha.Render(a.config(s.export, port))
	if err != nil {
		return err
	}
	intent := Intent{
		Export: s.Name, Resource: s.resource.Name, PodIP: a.settings.PodIP, Port: port,
		ConfigHash: ganesha.Hash(rendered), BootEpoch: s.export.Status.BootEpoch + 1,
		Started: a.now(), DeviceBytes: s.server.DeviceBytes,
	}
	if s.Intent != nil { // the API server may not have the last one
		intent.BootEpoch = max(intent.BootEpoch, s.Intent.BootEpoch+1)
	}
	file := a.settings.runPath(s.Name, "ganesha.conf")
	if err := writeFile(file, rendered); err != nil {
		return err
	}
	// Before the start: a ganesha without intent would have to be restarted.
	if err := a.writeIntent(intent); err != nil {
		return err
	}
	if err := a.access.admit(ctx, s.export, port); err != nil {
		return err
	}
	m := s.memory
	m.lock.Lock()
	m.timers.Frozen, m.timers.Elsewhere = time.Time{}, time.Time{}
	m.lock.Unlock()
	pidFile := a.settings.runPath(s.Name, "ganesha.pid")
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale pid file: %w", err)
	}
	process := ganesha.Command(s.Name, file, pidFile, a.settings.GaneshaLogLevel)
	process.Lock = a.settings.lockPath(s.Name)
	if err := a.host.EnsureLock(process.Lock); err != nil {
		return err
	}
	process.ConfigHash = intent.ConfigHash
	err = a.launcher.Start(ctx, process)
	if errors.Is(err, ganesha.ErrAlreadyRunning) {
		// Started by an attempt that ended before it knew. It may have another
		// configuration: make it ours.
		if err := a.killProcess(ctx, s.Name); err != nil {
			return err
		}
		err = a.launcher.Start(ctx, process)
	}
	if err != nil {
		return fmt.Errorf("start ganesha: %w", err)
	}
	s.server.Intent = intent
	return nil
}

// port returns the export's port on this node: the one it had in this pod
// before, or the first free one from a place that its id gives.
func (a *Agent) port(s *starting) (int, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	taken := map[int]bool{}
	for name, port := range a.ports {
		if name != s.Name {
			taken[port] = true
		}
	}
	var wishes []int
	if port, ok := a.ports[s.Name]; ok {
		wishes = append(wishes, port)
	}
	if s.Intent != nil && s.Intent.PodIP == a.settings.PodIP {
		wishes = append(wishes, s.Intent.Port)
	}
	size := a.settings.PortMax - a.settings.PortMin + 1
	for i := range size {
		wishes = append(wishes, a.settings.PortMin+(int(s.export.Spec.ExportID)+i)%size)
	}
	for _, port := range wishes {
		if !taken[port] && a.host.PortFree(port) {
			a.ports[s.Name] = port
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a port: all of %d to %d are in use", a.settings.PortMin, a.settings.PortMax)
}

// freePort lets other exports have the port.
func (a *Agent) freePort(name string) {
	a.lock.Lock()
	defer a.lock.Unlock()
	delete(a.ports, name)
}

// waitForProbe waits until the new ganesha answers for this export. One that has
// ended is not waited for.
func (a *Agent) waitForProbe(ctx context.Context, s *starting) error {
	ended := errors.New("ganesha ended")
	deadline := a.now().Add(a.settings.StartTimeout)
	for try := 0; ; try++ {
		err := a.probeOnce(ctx, s.Name, s.server.Port)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if try%4 == 3 { // asked now and then only: most starts need a few tries
			if state, listErr := a.process(ctx, s.Name); listErr == nil && (state == nil || !state.Running) {
				err = ended
			}
		}
		if errors.Is(err, ended) || !a.now().Before(deadline) {
			return fmt.Errorf("wait until ganesha answers: %w%s", err, a.lastWords(ctx, s.Name))
		}
		select {
		case <-ctx.Done():
		case <-time.After(probePause):
		}
	}
	s.Observed = a.look(s.Name)
	if size, err := a.files.SizeBytes(a.settings.dataPath(s.Name)); err == nil {
		s.server.SizeBytes = size
	}
	return nil
}

func (a *Agent) probeOnce(ctx context.Context, name string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, a.settings.ProbeTimeout)
	defer cancel()
	return a.probe(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), names.ExportPath(name))
}

func (a *Agent) process(ctx context.Context, name string) (*ganesha.ProcessState, error) {
	processes, err := a.launcher.List(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(processes, func(p ganesha.ProcessState) bool { return p.Name == name }); i >= 0 {
		return &processes[i], nil
	}
	return nil, nil
}

// lastWords are what ganesha said before it ended or was given up.
func (a *Agent) lastWords(ctx context.Context, name string) string {
	state, err := a.process(ctx, name)
	if err != nil || state == nil || len(state.LastLines) == 0 {
		return "; see the log of container ganesha"
	}
	lines := state.LastLines[max(0, len(state.LastLines)-3):]
	return "; its last lines: " + strings.Join(lines, " | ")
}

// publish sends clients here. Without the API server the server runs anyhow:
// after a restart in place the endpoint is still right.
func (a *Agent) publish(ctx context.Context, s *starting) error {
	<-s.announced
	if err := a.ensureEndpoint(ctx, s.export, s.server, false); err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			return err
		}
		klog.FromContext(ctx).Error(err, "Endpoint is not written yet, it is tried again")
	}
	return nil
}

// leftovers are the exports of which something is on this node.
func (a *Agent) leftovers() []string {
	var found []string
	mounts, err := a.files.List(a.settings.exportsRoot())
	if err == nil {
		for _, mount := range mounts {
			if relative, err := filepath.Rel(a.settings.exportsRoot(), mount.Target); err == nil {
				found = append(found, strings.Split(relative, string(filepath.Separator))[0])
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(a.settings.RunDir, "exports"))
	if err == nil {
		for _, entry := range entries {
			found = append(found, entry.Name())
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
