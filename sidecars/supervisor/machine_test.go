package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/filesystem"
	"github.com/linbit/linstor-rwx/pkg/firewall"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

// --- DRBD: Primary is exclusive among those that see each other ---

type drbdFake struct{ m *machine }

// sees says whether two machines are connected.
func (m *machine) sees(other *machine) bool { return m.online && other.online }

func (m *machine) open() bool {
	return len(m.mounts) > 0 || m.openAfterLazy || m.heldOpen
}

func (d drbdFake) Status(ctx context.Context, name string) (drbd.Resource, error) {
	m := d.m
	if err := ctx.Err(); err != nil {
		return drbd.Resource{}, err
	}
	m.world.lock.Lock()
	defer m.world.lock.Unlock()
	if !m.deployed || name != testExport {
		return drbd.Resource{}, fmt.Errorf("status of %s: %w", name, drbd.ErrUnknownResource)
	}
	if m.forced && !m.open() {
		m.forced = false // the last opener is gone
	}
	r := drbd.Resource{Name: name, Role: drbd.RoleSecondary, ForceIOFailures: m.forced,
		Suspended: drbd.Suspended{User: m.userSuspended, Quorum: m.suspended}}
	if m.primary {
		r.Role = drbd.RolePrimary
	}
	for volume := range 2 {
		r.Devices = append(r.Devices, drbd.Device{Volume: volume, Minor: 1000 + volume, DiskState: m.disk,
			Client: m.disk == drbd.DiskDiskless, Quorum: m.quorum, SizeBytes: m.world.disks[1000+volume].bytes})
	}
	for _, other := range m.world.machines {
		if other == m || !other.deployed {
			continue
		}
		c := drbd.Connection{Name: other.name, State: "Connecting", PeerRole: "Unknown"}
		disk := drbd.DiskUnknown
		if m.sees(other) {
			c.State, c.PeerRole, disk = drbd.ConnectionConnected, drbd.RoleSecondary, other.disk
			if other.primary {
				c.PeerRole = drbd.RolePrimary
			}
		}
		for volume := range 2 {
			c.PeerDevices = append(c.PeerDevices, drbd.PeerDevice{Volume: volume, DiskState: disk, Client: disk == drbd.DiskDiskless})
		}
		r.Connections = append(r.Connections, c)
	}
	return r, nil
}

func refuse(code int, text string) error {
	return &drbd.RefusedError{Resource: testExport, Code: code, Text: text}
}

func (d drbdFake) Primary(_ context.Context, _ string) error {
	m := d.m
	return m.call("primary", func() error {
		if m.primary {
			return nil // also without quorum
		}
		for _, other := range m.world.machines {
			if other != m && other.primary && other.dead && m.sees(other) {
				other.online = false // DRBD asks it and gets no answer
				continue
			}
			if other != m && other.primary && m.sees(other) {
				return refuse(drbd.TwoPrimaries, "Multiple primaries not allowed by config")
			}
			if other != m && other.primary && other.quorum && m.quorum && !other.dead {
				m.world.t.Errorf("nodes %s and %s are both Primary", m.name, other.name)
			}
		}
		if m.disk != drbd.DiskUpToDate {
			return refuse(drbd.NoUpToDateDisk, "Need access to UpToDate data")
		}
		if !m.quorum {
			return refuse(drbd.NoQuorum, "No quorum")
		}
		if m.forced {
			return refuse(-7, "forced")
		}
		m.primary = true
		m.promotions++
		m.quorum = !m.losesQuorum // in the same moment
		return nil
	})
}

func (d drbdFake) Secondary(_ context.Context, _ string) error {
	return d.m.call("secondary", func() error {
		if d.m.open() && d.m.primary {
			return refuse(drbd.HeldOpen, "Device is held open by someone")
		}
		d.m.primary = false
		return nil
	})
}

func (d drbdFake) ForceSecondary(_ context.Context, _ string) error {
	return d.m.call("force secondary", func() error {
		d.m.primary, d.m.suspended = false, false
		d.m.forced = d.m.open()
		return nil
	})
}

// --- filesystems: the content is the world's, the mounts are the machine's ---

type filesFake struct{ m *machine }

func (f filesFake) disk(device string) (*disk, int, error) {
	var minor int
	if _, err := fmt.Sscanf(device, "/dev/drbd%d", &minor); err != nil || f.m.world.disks[minor] == nil {
		return nil, 0, fmt.Errorf("no such device: %s", device)
	}
	if !f.m.primary {
		return nil, 0, fmt.Errorf("open %s: wrong medium type", device)
	}
	return f.m.world.disks[minor], minor, nil
}

func (f filesFake) Identify(_ context.Context, device string) (filesystem.Identity, error) {
	f.m.world.lock.Lock()
	defer f.m.world.lock.Unlock()
	d, _, err := f.disk(device)
	if err != nil {
		return filesystem.Identity{}, err
	}
	return filesystem.Identity{FSType: d.fsType}, nil
}

func (f filesFake) FormatBlank(_ context.Context, device, fsType, _ string) error {
	return f.m.call("format "+device, func() error {
		d, _, err := f.disk(device)
		if err != nil {
			return err
		}
		if d.fsType != "" {
			f.m.world.t.Errorf("asked to format %s, which holds %s", device, d.fsType)
			return filesystem.ErrNotBlank
		}
		d.fsType, d.fsBytes = fsType, d.bytes
		d.formatted++
		return nil
	})
}

func (f filesFake) Check(_ context.Context, device, _ string) error {
	return f.m.call("check "+device, func() error {
		_, minor, err := f.disk(device)
		for _, mounted := range f.m.mounts {
			if mounted == minor {
				f.m.world.t.Errorf("%s is checked while it is mounted", device)
			}
		}
		return err
	})
}

func (f filesFake) Mount(_ context.Context, device, target, fsType string, options []string) error {
	m := f.m
	m.world.lock.Lock()
	mounted, ok := m.mounts[target]
	m.world.lock.Unlock()
	if ok {
		if fmt.Sprintf("/dev/drbd%d", mounted) != device {
			return fmt.Errorf("another device is mounted at %s", target)
		}
		return nil
	}
	return m.call("mount "+filepath.Base(target), func() error {
		d, minor, err := f.disk(device)
		if err != nil {
			return err
		}
		if d.fsType != fsType {
			return fmt.Errorf("mount %s: it is %q", device, d.fsType)
		}
		if filepath.Base(target) == "recovery" && !slices.Contains(options, "dirsync") {
			m.world.t.Errorf("the recovery volume is mounted without dirsync")
		}
		for _, other := range m.world.machines {
			if other != m && len(other.mounts) > 0 && other.quorum && !other.forced && !other.dead {
				m.world.t.Errorf("%s is mounted on %s and %s", device, m.name, other.name)
			}
		}
		m.mounts[target] = minor
		return nil
	})
}

func (f filesFake) Unmount(_ context.Context, target string, lazy bool) error {
	m := f.m
	if _, ok := m.mounts[target]; !ok {
		return nil
	}
	what := "unmount "
	if lazy {
		what = "detach "
	}
	return m.call(what+filepath.Base(target), func() error {
		busy := false
		for _, process := range m.processes {
			busy = busy || process.Running
		}
		if busy && !lazy {
			return fmt.Errorf("unmount %s: target is busy", target)
		}
		delete(m.mounts, target)
		m.openAfterLazy = m.openAfterLazy || busy
		return nil
	})
}

func (f filesFake) List(prefix string) ([]filesystem.Mount, error) {
	f.m.world.lock.Lock()
	defer f.m.world.lock.Unlock()
	var mounts []filesystem.Mount
	for target, minor := range f.m.mounts {
		if strings.HasPrefix(target, prefix) {
			mounts = append(mounts, filesystem.Mount{Source: drbd.DevicePath(minor), Device: fmt.Sprintf("147:%d", minor),
				Target: target, FSType: f.m.world.disks[minor].fsType, ReadOnly: f.m.readOnly})
		}
	}
	return mounts, nil
}

func (f filesFake) Grow(_ context.Context, device, target, _ string) error {
	return f.m.call("grow", func() error {
		d, minor, err := f.disk(device)
		if err != nil {
			return err
		}
		if mounted, ok := f.m.mounts[target]; !ok || mounted != minor {
			return fmt.Errorf("grow %s: it is not mounted at %s", device, target)
		}
		if f.m.growFails {
			return errors.New("resize2fs: permission denied")
		}
		d.fsBytes = d.bytes
		return nil
	})
}

func (f filesFake) SizeBytes(target string) (int64, error) {
	f.m.world.lock.Lock()
	defer f.m.world.lock.Unlock()
	minor, ok := f.m.mounts[target]
	if !ok {
		return 0, fmt.Errorf("%s is not mounted", target)
	}
	return f.m.world.disks[minor].fsBytes, nil
}

// --- ganesha and its launcher ---

type launcherFake struct{ m *machine }

func (l launcherFake) Start(_ context.Context, process ganesha.Process) error {
	m := l.m
	return m.call("start ganesha", func() error {
		if m.launcherDown {
			return ganesha.ErrUnreachable
		}
		if old := m.processes[process.Name]; old != nil && old.Running {
			return ganesha.ErrAlreadyRunning
		}
		if other := m.world.serving(); len(other) > 0 && !m.world.machine(other[0]).dead && m.world.machine(other[0]).quorum && !m.world.machine(other[0]).forced {
			m.world.t.Errorf("ganesha is started on %s while it runs on %s", m.name, other[0])
		}
		m.processStarts++
		ok := len(m.mounts) == 2 && !m.cannotStart
		m.processes[process.Name] = &ganesha.ProcessState{Process: process, PID: 100 + m.processStarts, Running: ok,
			LastLines: []string{"Export root not found"}}
		return nil
	})
}

func (l launcherFake) Stop(ctx context.Context, name string, kill bool) error {
	m := l.m
	what := "terminate ganesha"
	if kill {
		what = "kill ganesha"
	}
	if m.launcherDown {
		return ganesha.ErrUnreachable
	}
	process := m.processes[name]
	if process == nil || !process.Running {
		return nil
	}
	m.signals = append(m.signals, what)
	err := m.call(what, func() error {
		if m.suspended || (m.unkillable && !m.forced) {
			return nil // it hangs in I/O
		}
		process.Running = false
		m.openAfterLazy = false
		return nil
	})
	if err == nil && process.Running {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (l launcherFake) List(context.Context) ([]ganesha.ProcessState, error) {
	if l.m.launcherDown {
		return nil, ganesha.ErrUnreachable
	}
	var states []ganesha.ProcessState
	for _, process := range l.m.processes {
		states = append(states, *process)
	}
	return states, nil
}

var portPattern = regexp.MustCompile(`NFS_Port\s*=\s*(\d+)`)

// probe answers as a ganesha does that runs with the configuration on disk.
func (m *machine) probe(_ context.Context, address, path string) error {
	if m.onProbe != nil {
		m.onProbe()
	}
	process := m.processes[testExport]
	if process == nil || !process.Running || m.hung {
		return errors.New("connection refused")
	}
	content, err := os.ReadFile(filepath.Join(m.runDir, "exports", testExport, "ganesha.conf"))
	if err != nil {
		return err
	}
	port := portPattern.FindStringSubmatch(string(content))
	if port == nil || address != "127.0.0.1:"+port[1] || path != "/"+testExport {
		return fmt.Errorf("no server for %s at %s", path, address)
	}
	return nil
}

// speak is the call by which a supervisor speaks for a client.
func (m *machine) speak(_ context.Context, address, owner string) error {
	return m.call("speak for "+owner, func() error {
		if want := m.world.exports[testExport].Status.Endpoint; want != "" && address != want {
			m.world.t.Errorf("spoken to %s, the server is at %s", address, want)
		}
		return nil
	})
}

// --- what the supervisors know of each other ---

type peersFake struct{ m *machine }

func (p peersFake) Peer(node string) (heartbeat.Peer, bool) {
	w := p.m.world
	w.lock.Lock()
	defer w.lock.Unlock()
	for _, other := range w.machines {
		if other.name != node || other.unheard {
			continue
		}
		if other.dead || !p.m.sees(other) || other.silent {
			return heartbeat.Peer{State: heartbeat.State{Node: node, Ready: true}, Heard: w.diedAt, Silent: true}, true
		}
		return heartbeat.Peer{State: heartbeat.State{Node: node, Ready: !other.launcherDown, Cordoned: other.cordoned, Leaving: other.agent.leaving.Load()}, Heard: w.now()}, true
	}
	return heartbeat.Peer{}, false
}

// die cuts the power of a machine. DRBD on the others notices it much later.
func (m *machine) die() {
	m.dead, m.world.diedAt = true, m.world.now()
	m.kill()
}

// --- the rules of the pod's network ---

type firewallFake struct{ m *machine }

func (f firewallFake) Apply(_ context.Context, rules firewall.Rules) error {
	f.m.rules = rules
	return nil
}

// rule is the export's rule on this machine, or nil.
func (m *machine) rule() *firewall.Export {
	if len(m.rules.Exports) == 0 {
		return nil
	}
	return &m.rules.Exports[0]
}

// --- the recovery volume ---

type recoveryFake struct{ m *machine }

func (r recoveryFake) disk(root string) (*disk, error) {
	minor, ok := r.m.mounts[root]
	if !ok {
		r.m.world.t.Errorf("%s is used as recovery volume but is not mounted", root)
		return nil, errors.New("not mounted")
	}
	return r.m.world.disks[minor], nil
}

func (r recoveryFake) Records(root string) (ganesha.Recorded, error) {
	d, err := r.disk(root)
	if err != nil {
		return ganesha.Recorded{}, err
	}
	connected := d.records
	if d.grace.Active {
		connected = d.back
	}
	return ganesha.Recorded{Clients: d.records, Connected: connected}, nil
}

func (r recoveryFake) GraceState(root string) (ganesha.Grace, error) {
	d, err := r.disk(root)
	if err != nil {
		return ganesha.Grace{}, err
	}
	return d.grace, nil
}

func (r recoveryFake) WipeForeign(root string) error {
	return r.m.call("wipe records", func() error {
		d, err := r.disk(root)
		if err == nil {
			d.records, d.wiped = nil, d.wiped+1
		}
		return err
	})
}

func (r recoveryFake) RemoveOrphans(root string) error {
	_, err := r.disk(root)
	return err
}

func (r recoveryFake) DropProbeRecords(root string) (int, error) {
	if process := r.m.processes[testExport]; process != nil && process.Running {
		r.m.world.t.Errorf("records are removed under a running ganesha")
	}
	_, err := r.disk(root)
	return 0, err
}

func (r recoveryFake) DropClients(root string, drop func(client string) bool) (int, error) {
	if process := r.m.processes[testExport]; process != nil && process.Running {
		r.m.world.t.Errorf("records are removed under a running ganesha")
	}
	dropped := 0
	return dropped, r.m.call("drop clients", func() error {
		d, err := r.disk(root)
		if err == nil {
			before := len(d.records)
			d.records = slices.DeleteFunc(d.records, drop)
			dropped = before - len(d.records)
		}
		return err
	})
}

func (r recoveryFake) KnownClients(root string) (map[string]ganesha.KnownClient, error) {
	d, err := r.disk(root)
	if err != nil {
		return nil, err
	}
	return maps.Clone(d.known), nil
}

func (r recoveryFake) RememberClients(root string, clients map[string]ganesha.KnownClient) error {
	return r.m.call("remember clients", func() error {
		d, err := r.disk(root)
		if err == nil {
			d.known = maps.Clone(clients)
		}
		return err
	})
}

func (r recoveryFake) ReadIdentity(root string) (ganesha.Identity, error) {
	r.m.world.lock.Lock() // the data volume is mounted at the same time
	defer r.m.world.lock.Unlock()
	d, err := r.disk(root)
	if err != nil {
		return ganesha.Identity{}, err
	}
	if d.stamp == nil {
		return ganesha.Identity{}, fmt.Errorf("read stamp: %w", fs.ErrNotExist)
	}
	return *d.stamp, nil
}

func (r recoveryFake) WriteIdentity(root string, identity ganesha.Identity) error {
	return r.m.call("stamp", func() error {
		d, err := r.disk(root)
		if err == nil {
			d.stamp = &identity
		}
		return err
	})
}

// --- the rest of the machine ---

type hostFake struct{ m *machine }

func (h hostFake) DeviceExists(string) bool { return true }
func (h hostFake) PortFree(int) bool        { return true }
func (h hostFake) Locked(string) bool       { return h.m.beside }
func (h hostFake) EnsureLock(string) error  { return nil }

func (h hostFake) RootIsEmpty(root string) (bool, error) {
	minor, ok := h.m.mounts[root]
	if !ok {
		return false, errors.New("not mounted")
	}
	return !h.m.world.disks[minor].users, nil
}

func (h hostFake) ApplyRoot(root string, _, _ int, _ fs.FileMode) error {
	return h.m.call("apply root", func() error {
		h.m.world.disks[h.m.mounts[root]].rootApplied++
		return nil
	})
}

func (h hostFake) Marked(root, mark string) (bool, error) {
	d, err := (recoveryFake{h.m}).disk(root)
	return err == nil && d.marks[mark], err
}

func (h hostFake) Mark(root, mark string) error {
	return h.m.call("mark "+mark, func() error {
		d, err := (recoveryFake{h.m}).disk(root)
		if err == nil {
			d.marks[mark] = true
		}
		return err
	})
}
