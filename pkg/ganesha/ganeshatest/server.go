//go:build linux

// Package ganeshatest runs the real NFS-Ganesha for tests, from the root
// directory of its image, which the environment variable LINSTOR_RWX_GANESHA_ROOT
// names (Debian with nfs-ganesha and nfs-ganesha-vfs). It needs root, loop
// devices and overlayfs. The root directory itself is not changed: every server
// gets an overlay over it.
//
// Its own tests are built with the tag "ganesha" and fail without that variable.
package ganeshatest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

// RootVariable names the environment variable with ganesha's root directory.
const RootVariable = "LINSTOR_RWX_GANESHA_ROOT"

// Root is a writable copy of ganesha's root directory.
type Root struct {
	// Path is where it is on the host.
	Path string
}

// NewRoot mounts a copy of ganesha's root directory, with /proc and /dev, for as
// long as the test runs.
func NewRoot(t testing.TB) *Root {
	t.Helper()
	image := os.Getenv(RootVariable)
	if image == "" {
		t.Fatalf("%s must name the root directory of ganesha's image", RootVariable)
	}
	directory := t.TempDir()
	root := filepath.Join(directory, "root")
	upper, work := filepath.Join(directory, "upper"), filepath.Join(directory, "work")
	for _, d := range []string{root, upper, work} {
		must(t, os.Mkdir(d, 0o755))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", image, upper, work)
	must(t, syscall.Mount("overlay", root, "overlay", 0, options))
	unmountAtEnd(t, root)
	for _, d := range []string{"proc", "dev"} {
		target := filepath.Join(root, d)
		must(t, os.MkdirAll(target, 0o755))
		must(t, syscall.Mount("/"+d, target, "", syscall.MS_BIND|syscall.MS_PRIVATE, ""))
		unmountAtEnd(t, target)
	}
	return &Root{Path: root}
}

// Prepare does what ganesha-launcher does before it starts a ganesha.
func (r *Root) Prepare(t testing.TB) {
	t.Helper()
	hostname, err := os.Hostname()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(r.Path, "etc/hosts"), []byte("127.0.0.1 localhost "+hostname+"\n"), 0o644))
	_ = os.Remove(filepath.Join(r.Path, "etc/mtab"))
	must(t, os.Symlink("/proc/self/mounts", filepath.Join(r.Path, "etc/mtab")))
	for _, d := range []string{"run/ganesha", "var/lib/nfs/ganesha"} {
		must(t, os.MkdirAll(filepath.Join(r.Path, d), 0o755))
	}
}

// MountImage makes a filesystem in a file and mounts it at path inside the
// root, through a loop device, for as long as the test runs.
func (r *Root) MountImage(t testing.TB, path, fsType, size string, options ...string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	run(t, "truncate", "--size="+size, image)
	run(t, "mkfs."+fsType, "-q", image)
	target := filepath.Join(r.Path, path)
	must(t, os.MkdirAll(target, 0o755))
	run(t, "mount", "-o", strings.Join(append([]string{"loop"}, options...), ","), image, target)
	unmountAtEnd(t, target)
}

// Server is a running ganesha.
type Server struct {
	Address string
	command *exec.Cmd
	ended   chan struct{}
	log     *log
}

// Start starts ganesha with this configuration in the root. It does not wait
// until it serves.
func (r *Root) Start(t testing.TB, config ganesha.Config) *Server {
	t.Helper()
	rendered, err := ganesha.Render(config)
	must(t, err)
	process := ganesha.Command(config.Export, "/etc/ganesha-test.conf", "/run/ganesha/test.pid", ganesha.DefaultLogLevel)
	return r.StartRendered(t, config, rendered, process.Args)
}

// StartRendered starts ganesha with another configuration or other arguments.
func (r *Root) StartRendered(t testing.TB, config ganesha.Config, rendered []byte, args []string) *Server {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(r.Path, "etc/ganesha-test.conf"), rendered, 0o644))
	s := &Server{
		Address: net.JoinHostPort("127.0.0.1", fmt.Sprint(config.Port)),
		command: exec.Command(args[0], args[1:]...),
		ended:   make(chan struct{}),
		log:     &log{},
	}
	s.command.SysProcAttr = &syscall.SysProcAttr{Chroot: r.Path, Pdeathsig: syscall.SIGKILL}
	s.command.Dir = "/"
	s.command.Stdout, s.command.Stderr = s.log, s.log
	must(t, s.command.Start())
	go func() {
		_ = s.command.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.Kill(t)
		if t.Failed() {
			t.Logf("ganesha's log:\n%s", s.log)
		}
	})
	return s
}

// PID is the process id.
func (s *Server) PID() int { return s.command.Process.Pid }

// Log returns what ganesha has printed.
func (s *Server) Log() string { return s.log.String() }

// Kill ends ganesha without warning and waits until it is gone.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	_ = s.command.Process.Kill()
	<-s.ended
}

// WaitEnd returns the exit code of a ganesha that ends by itself.
func (s *Server) WaitEnd(t testing.TB, timeout time.Duration) int {
	t.Helper()
	select {
	case <-s.ended:
		return s.command.ProcessState.ExitCode()
	case <-time.After(timeout):
		t.Fatalf("ganesha still runs after %v", timeout)
		return 0
	}
}

// FreePort returns a port that nothing listens at.
func FreePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", ":0")
	must(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

// log collects output.
type log struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.buffer.Write(p)
}

func (l *log) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.buffer.String()
}

func unmountAtEnd(t testing.TB, target string) {
	t.Cleanup(func() {
		if err := syscall.Unmount(target, 0); err != nil {
			t.Errorf("unmount %s: %v", target, err)
			_ = syscall.Unmount(target, syscall.MNT_DETACH)
		}
	})
}

func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if output, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, output)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
