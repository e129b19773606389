//go:build ganesha

package ganeshatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/ganesha/nfs"
)

// export is a root with both volumes mounted, and the configuration to serve it.
type export struct {
	*Root
	config ganesha.Config
	// recovery is the recovery volume as the supervisor sees it.
	recovery string
}

func newExport(t *testing.T) *export {
	t.Helper()
	root := NewRoot(t)
	root.Prepare(t)
	root.MountImage(t, "/srv/data", "ext4", "64M")
	root.MountImage(t, "/srv/recovery", "ext4", "16M", "dirsync", "noatime")
	return &export{root, ganesha.Config{
		Export: "pvc-1", ExportID: 7, FSID: "1.2", ServerScope: "pvc-1",
		DataPath: "/srv/data", PseudoPath: "/pvc-1", RecoveryRoot: "/srv/recovery",
		Port: FreePort(t), Lease: 4 * time.Second, Grace: 30 * time.Second,
	}, filepath.Join(root.Path, "/srv/recovery")}
}

func probe(t *testing.T, s *Server, path string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return ganesha.Probe(ctx, s.Address, path)
}

// serve starts ganesha and waits for the probe.
func (e *export) serve(t *testing.T) *Server {
	t.Helper()
	s := e.Start(t, e.config)
	start := time.Now()
	for {
		err := probe(t, s, "/pvc-1")
		if err == nil {
			t.Logf("start to the first probe that succeeds: %v", time.Since(start).Round(time.Millisecond))
			return s
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// client is a client with the given name that has nothing to reclaim.
func client(t *testing.T, s *Server, name string) *nfs.Session {
	t.Helper()
	session, err := nfs.ConnectAs(t.Context(), s.Address, name)
	must(t, err)
	must(t, session.ReclaimComplete())
	return session
}

// recordOf is the key of a client's record. The address is IPv4 in IPv6, because
// ganesha listens at "::".
func recordOf(name string) string { return fmt.Sprintf("::ffff:127.0.0.1-(%d:%s)", len(name), name) }

// clients returns the recorded clients.
func (e *export) clients(t *testing.T) []string {
	t.Helper()
	recorded, err := ganesha.Records(e.recovery)
	must(t, err)
	return recorded.Clients
}

func (e *export) grace(t *testing.T) ganesha.Grace {
	t.Helper()
	grace, err := ganesha.GraceState(e.recovery)
	must(t, err)
	return grace
}

func (e *export) waitUntilGraceEnds(t *testing.T, timeout time.Duration) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if !e.grace(t).Active {
			return time.Since(start)
		}
		if time.Since(start) > timeout {
			t.Fatalf("grace has not ended after %v: %+v", timeout, e.grace(t))
		}
	}
}

// entries returns all that is on the recovery volume.
func (e *export) entries(t *testing.T) []string {
	t.Helper()
	var found []string
	must(t, filepath.WalkDir(filepath.Join(e.recovery, "v4recov"), func(path string, _ os.DirEntry, err error) error {
		found = append(found, strings.TrimPrefix(path, e.recovery))
		return err
	}))
	return found
}

func TestProbeSucceedsAndLeavesNoRecord(t *testing.T) {
	e := newExport(t)
	s := e.serve(t)
	e.waitUntilGraceEnds(t, 5*time.Second)
	before := e.entries(t)
	cpu, start := cpuTicks(t, s.PID()), time.Now()
	const probes = 50
	for range probes {
		must(t, probe(t, s, "/pvc-1"))
	}
	t.Logf("one probe takes %v, and %v of ganesha's CPU", time.Since(start)/probes, time.Duration(cpuTicks(t, s.PID())-cpu)*10*time.Millisecond/probes)
	if after := e.entries(t); !slices.Equal(after, before) {
		t.Errorf("probes left something behind: %q, before: %q", after, before)
	}
}

func TestProberKeepsOneRecordAndNoMore(t *testing.T) {
	e := newExport(t)
	s := e.serve(t)
	e.waitUntilGraceEnds(t, 5*time.Second)
	before := e.entries(t)
	prober := ganesha.NewProber(s.Address, "/pvc-1")
	defer prober.Close()
	must(t, prober.Probe(t.Context()))
	kept := e.entries(t)
	if len(kept) != len(before)+1 || len(e.clients(t)) != 0 {
		t.Errorf("got %q, before: %q", kept, before)
	}
	cpu, start := cpuTicks(t, s.PID()), time.Now()
	const probes = 500
	for range probes {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		must(t, prober.Probe(ctx))
		cancel()
	}
	t.Logf("one probe takes %v, and %v of ganesha's CPU", time.Since(start)/probes, time.Duration(cpuTicks(t, s.PID())-cpu)*10*time.Millisecond/probes)
	if after := e.entries(t); !slices.Equal(after, kept) {
		t.Errorf("got %q, before: %q", after, kept)
	}
	// Longer than the lease, in which a session may be forgotten.
	time.Sleep(e.config.Lease + 2*time.Second)
	must(t, prober.Probe(t.Context()))

	s.Kill(t)
	if err := prober.Probe(t.Context()); err == nil {
		t.Error("a dead ganesha passes")
	}
	if dropped, err := ganesha.DropProbeRecords(e.recovery); err != nil || dropped != 1 {
		t.Errorf("got %d, %v", dropped, err)
	}
	s = e.serve(t)
	e.waitUntilGraceEnds(t, time.Second)
	must(t, prober.Probe(t.Context()))
	s.Kill(t)
	s = e.serve(t)
	must(t, prober.Probe(t.Context())) // with the session of a server that died
	prober.Close()
	s.Kill(t)
	must(t, ganesha.RemoveOrphans(e.recovery))
	if dropped, err := ganesha.DropProbeRecords(e.recovery); err != nil || dropped != 1 {
		t.Errorf("of the probe that the crash interrupted: %d, %v", dropped, err)
	}
}

// cpuTicks returns the CPU time of a process in 1/100 s (proc_pid_stat(5)).
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	user, err := strconv.Atoi(fields[11])
	must(t, err)
	system, err := strconv.Atoi(fields[12])
	must(t, err)
	return user + system
}

func TestProbeFailsWhenTheExportIsNotServed(t *testing.T) {
	e := newExport(t)
	t.Run("another path", func(t *testing.T) {
		s := e.serve(t)
		var status *nfs.StatusError
		if err := probe(t, s, "/pvc-2"); !errors.As(err, &status) || status.Operation != "LOOKUP" {
			t.Errorf("got %v", err)
		}
		if err := probe(t, s, "/pvc-1/below"); !errors.As(err, &status) {
			t.Errorf("got %v", err)
		}
		s.Kill(t)
	})
	t.Run("the export failed to load", func(t *testing.T) {
		config := e.config
		config.DataPath = "/srv/missing"
		rendered, err := ganesha.Render(config)
		must(t, err)
		args := ganesha.Command(config.Export, "/etc/ganesha-test.conf", "/run/ganesha/test.pid", ganesha.DefaultLogLevel).Args
		s := e.StartRendered(t, config, rendered, slices.DeleteFunc(args, func(arg string) bool { return arg == "-x" }))
		// It serves: sessions are made, and only the path is missing.
		for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			session, err := nfs.Connect(t.Context(), s.Address)
			if err == nil {
				must(t, session.Close())
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatal(err)
			}
		}
		if err := probe(t, s, "/pvc-1"); err == nil {
			t.Error("a ganesha without its export passes")
		}
		s.Kill(t)
	})
	t.Run("with -x it does not even start", func(t *testing.T) {
		config := e.config
		config.DataPath = "/srv/missing"
		if code := e.Start(t, config).WaitEnd(t, 10*time.Second); code == 0 {
			t.Error("it ended without an error")
		}
	})
	t.Run("stopped in its tracks", func(t *testing.T) {
		s := e.serve(t)
		must(t, syscall.Kill(s.PID(), syscall.SIGSTOP))
		start := time.Now()
		if err := probe(t, s, "/pvc-1"); err == nil {
			t.Error("a hung ganesha passes")
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("the probe took %v, its context 2 s", took)
		}
		s.Kill(t)
		if err := probe(t, s, "/pvc-1"); err == nil {
			t.Error("a dead ganesha passes")
		}
	})
}

// Owner, mode and squash are for clients; the probe must see the export anyway.
func TestProbeDoesNotDependOnPermissions(t *testing.T) {
	e := newExport(t)
	data := filepath.Join(e.Path, "srv/data")
	must(t, os.Chown(data, 1000, 1000))
	must(t, os.Chmod(data, 0o700))
	for _, squash := range []ganesha.Squash{ganesha.NoRootSquash, ganesha.RootSquash, ganesha.AllSquash} {
		for _, readOnly := range []bool{false, true} {
			e.config.Squash, e.config.ReadOnly = squash, readOnly
			e.serve(t).Kill(t)
		}
	}
}

// The bounds that Render keeps are within ganesha's.
func TestGaneshaAcceptsTheBoundsOfTheConfiguration(t *testing.T) {
	e := newExport(t)
	e.config.Lease, e.config.Grace, e.config.Address = 120*time.Second, 240*time.Second, "127.0.0.1"
	e.serve(t).Kill(t)
	e.config.Lease, e.config.Grace, e.config.Address = time.Second, 2*time.Second, ""
	e.config.MetricsPort = FreePort(t)
	s := e.serve(t)
	connection, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(e.config.MetricsPort)))
	if err != nil {
		t.Errorf("no metrics: %v\n%s", err, s.Log())
	} else {
		must(t, connection.Close())
	}
}

// The launcher as PID 1 of ganesha's own root.
func TestLauncherServesTheRealGanesha(t *testing.T) {
	e := newExport(t)
	for _, made := range []string{"etc/hosts", "etc/mtab", "run/ganesha", "var/lib/nfs/ganesha"} {
		must(t, os.RemoveAll(filepath.Join(e.Path, made)))
	}
	binary := filepath.Join(e.Path, "launcher")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/linbit/linstor-rwx/cmd/ganesha-launcher")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	out := &log{}
	command := exec.Command("/launcher", "serve", "--socket=/run/linstor-rwx/launcher.sock", "--drain-timeout=0")
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: e.Path, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	command.Dir = "/"
	command.Stdout, command.Stderr = out, out
	must(t, command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		if t.Failed() {
			t.Log(out)
		}
	})
	launcher := ganesha.NewLauncher(filepath.Join(e.Path, "run/linstor-rwx/launcher.sock"))
	waitFor(t, "the launcher", func() error { _, err := launcher.List(t.Context()); return err })

	rendered, err := ganesha.Render(e.config)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(e.Path, "etc/pvc-1.conf"), rendered, 0o644))
	process := ganesha.Command("pvc-1", "/etc/pvc-1.conf", "/run/ganesha/pvc-1.pid", ganesha.DefaultLogLevel)
	process.ConfigHash = ganesha.Hash(rendered)
	start := time.Now()
	must(t, launcher.Start(t.Context(), process))
	address := net.JoinHostPort("127.0.0.1", fmt.Sprint(e.config.Port))
	waitFor(t, "the probe", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return ganesha.Probe(ctx, address, "/pvc-1")
	})
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %v: it waits for DNS", took)
	}
	states, err := launcher.List(t.Context())
	must(t, err)
	if len(states) != 1 || !states[0].Running || states[0].ConfigHash != process.ConfigHash {
		t.Errorf("got %+v", states)
	}
	start = time.Now()
	must(t, launcher.Stop(t.Context(), "pvc-1", false))
	t.Logf("stopping took %v", time.Since(start).Round(time.Millisecond))
	if !strings.Contains(out.String(), "[pvc-1] ") {
		t.Error("the log does not name the export")
	}

	must(t, launcher.Start(t.Context(), process))
	waitFor(t, "the probe", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return ganesha.Probe(ctx, address, "/pvc-1")
	})
	must(t, command.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the launcher ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the launcher still runs")
	}
	if !strings.Contains(out.String(), "[pvc-1] ganesha-launcher: pid") || strings.Contains(out.String(), "by signal") {
		t.Error("ganesha was not stopped in peace")
	}
}

func waitFor(t *testing.T, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
