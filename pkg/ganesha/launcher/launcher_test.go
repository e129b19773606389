package launcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

// The launcher reaps every child of its process, so it runs in a process of its
// own: this test binary, started again, as PID 1 of a new PID namespace.
const (
	socketVariable = "LAUNCHER_TEST_SOCKET"
	drainVariable  = "LAUNCHER_TEST_DRAIN"
)

func TestMain(m *testing.M) {
	socket := os.Getenv(socketVariable)
	if socket == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	drain, _ := time.ParseDuration(os.Getenv(drainVariable)) // "" is none
	err := Serve(ctx, Options{Socket: socket, Programs: []string{"/bin/sh"}, Output: os.Stdout, DrainTimeout: drain, StopTimeout: time.Second})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// running is a launcher in a process of its own.
type running struct {
	*ganesha.Launcher
	socket  string
	command *exec.Cmd
	ended   chan error
	output  *output
}

func runLauncher(t *testing.T, socket string) *running {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root, for a PID namespace")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Launcher: ganesha.NewLauncher(socket), socket: socket, ended: make(chan error, 1), output: &output{}}
	r.command = exec.Command(self)
	r.command.Env = append(os.Environ(), socketVariable+"="+socket)
	r.command.Stdout, r.command.Stderr = r.output, r.output
	r.command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := r.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.command.Wait() }()
	t.Cleanup(func() { _ = r.command.Process.Kill() })
	eventually(t, "the launcher answers", func() bool {
		_, err := r.List(t.Context())
		return err == nil
	})
	return r
}

func newLauncher(t *testing.T) *running {
	t.Helper()
	return runLauncher(t, filepath.Join(t.TempDir(), "run", "launcher.sock"))
}

// script is a process that runs a shell script.
func script(name, text string) ganesha.Process {
	return ganesha.Process{Name: name, Args: []string{"/bin/sh", "-c", text}}
}

type output struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.buffer.Write(p)
}

func (o *output) String() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.buffer.String()
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after 10 s: %s", what)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get returns the state of a process.
func (r *running) get(t *testing.T, name string) ganesha.ProcessState {
	t.Helper()
	states, err := r.List(t.Context())
	ok(t, err)
	for _, state := range states {
		if state.Name == name {
			return state
		}
	}
	return ganesha.ProcessState{}
}

func TestProcessIsStartedListedAndStopped(t *testing.T) {
	r, ctx := newLauncher(t), t.Context()
	process := script("pvc-1", "exec sleep 60")
	process.ConfigHash = "abc"
	process.Env = []string{"MALLOC_ARENA_MAX=1"}
	ok(t, r.Start(ctx, process))
	ok(t, r.Start(ctx, script("pvc-0", "exec sleep 60")))
	states, err := r.List(ctx)
	ok(t, err)
	if len(states) != 2 || states[0].Name != "pvc-0" || states[1].Name != "pvc-1" {
		t.Fatalf("got %+v", states)
	}
	got := states[1]
	if !got.Running || got.PID == 0 || time.Since(got.Started) > time.Minute || got.ConfigHash != "abc" ||
		!slices.Equal(got.Args, process.Args) || !slices.Equal(got.Env, process.Env) {
		t.Errorf("got %+v", got)
	}
	if err := r.Start(ctx, process); !errors.Is(err, ganesha.ErrAlreadyRunning) {
		t.Errorf("a second one of the same name: %v", err)
	}
	for range 2 {
		ok(t, r.Stop(ctx, "pvc-1", false))
	}
	if got := r.get(t, "pvc-1"); got.Name != "" {
		t.Errorf("a stopped process is still there: %+v", got)
	}
	if got := r.get(t, "pvc-0"); !got.Running {
		t.Errorf("the other one was stopped too: %+v", got)
	}
	ok(t, r.Start(ctx, process))
}

func TestOnlyGaneshaIsStarted(t *testing.T) {
	r, ctx := newLauncher(t), t.Context()
	for what, process := range map[string]ganesha.Process{
		"another program": {Name: "x", Args: []string{"/bin/cat"}},
		"a relative path": {Name: "x", Args: []string{"sh"}},
		"no program":      {Name: "x"},
		"a preload":       {Name: "x", Args: []string{"/bin/sh"}, Env: []string{"LD_PRELOAD=/x.so"}},
		"a path":          {Name: "../x", Args: []string{"/bin/sh"}},
		"no name":         {Args: []string{"/bin/sh"}},
		"a line break":    {Name: "x\ny", Args: []string{"/bin/sh"}},
	} {
		if err := r.Start(ctx, process); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if states, err := r.List(ctx); err != nil || len(states) != 0 {
		t.Errorf("got %+v, %v", states, err)
	}
	info, err := os.Stat(r.socket)
	ok(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("others may use the socket: %v", info.Mode())
	}
}

func TestEndOfAProcessIsReportedWithItsReason(t *testing.T) {
	r, ctx := newLauncher(t), t.Context()
	var mutex sync.Mutex
	reported := map[string]ganesha.ProcessState{}
	go func() {
		_ = r.Watch(ctx, func(state ganesha.ProcessState) {
			mutex.Lock()
			defer mutex.Unlock()
			reported[state.Name] = state
		})
	}()
	ok(t, r.Start(ctx, script("fails", "echo one; echo the reason >&2; printf 'no newline'; exit 3")))
	ok(t, r.Start(ctx, script("dies", "kill -SEGV $$")))
	ok(t, r.Start(ctx, script("lives", "exec sleep 60")))
	eventually(t, "all three are reported", func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		fails, dies, lives := reported["fails"], reported["dies"], reported["lives"]
		return fails.PID != 0 && !fails.Running && dies.PID != 0 && !dies.Running && lives.Running
	})
	mutex.Lock()
	fails, dies := reported["fails"], reported["dies"]
	mutex.Unlock()
	if fails.ExitCode != 3 || fails.Signal != "" || fails.Ended.Before(fails.Started) ||
		!slices.Equal(fails.LastLines, []string{"one", "the reason", "no newline"}) {
		t.Errorf("got %+v", fails)
	}
	if dies.ExitCode != -1 || dies.Signal == "" {
		t.Errorf("got %+v", dies)
	}
	// It is remembered, and the name is free.
	if got := r.get(t, "fails"); got.ExitCode != 3 {
		t.Errorf("got %+v", got)
	}
	ok(t, r.Start(ctx, script("fails", "exec sleep 60")))
	for _, line := range []string{"[fails] one\n", "[fails] the reason\n", "[fails] no newline\n", "[fails] ganesha-launcher: pid"} {
		if !strings.Contains(r.output.String(), line) {
			t.Errorf("%q is not in the log:\n%s", line, r.output)
		}
	}
}

func TestOrphansAreReaped(t *testing.T) {
	r, ctx := newLauncher(t), t.Context()
	for i := range 20 {
		ok(t, r.Start(ctx, script(fmt.Sprintf("parent-%d", i), "sleep 0.1 & sleep 0.1 & exit 0")))
	}
	pid := r.command.Process.Pid
	eventually(t, "no child is left", func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		return err == nil && len(children) == 0
	})
	states, err := r.List(ctx)
	ok(t, err)
	for _, state := range states {
		if state.Running || state.ExitCode != 0 {
			t.Errorf("got %+v", state)
		}
	}
	if len(states) != 20 {
		t.Errorf("got %d processes", len(states))
	}
}

func TestStopWaitsOnlyAsLongAsAllowed(t *testing.T) {
	r := newLauncher(t)
	ok(t, r.Start(t.Context(), script("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.05; done")))
	eventually(t, "it ignores SIGTERM", func() bool { return strings.Contains(r.output.String(), "[stubborn] ready") })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := r.Stop(ctx, "stubborn", false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if !r.get(t, "stubborn").Running {
		t.Error("it was killed")
	}
	ok(t, r.Stop(t.Context(), "stubborn", true))
}

// A supervisor that restarts finds the processes as they were.
func TestProcessesOutliveTheirClient(t *testing.T) {
	r := newLauncher(t)
	ctx, cancel := context.WithCancel(t.Context())
	ok(t, r.Start(ctx, script("pvc-1", "exec sleep 60")))
	watched := make(chan error, 1)
	go func() { watched <- r.Watch(ctx, func(ganesha.ProcessState) {}) }()
	before := r.get(t, "pvc-1")
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	states, err := ganesha.NewLauncher(r.socket).List(t.Context())
	ok(t, err)
	if len(states) != 1 || !states[0].Running || states[0].PID != before.PID {
		t.Errorf("got %+v, it was %+v", states, before)
	}
}

func TestSIGTERMEndsEverythingInTime(t *testing.T) {
	r, ctx := newLauncher(t), t.Context()
	ok(t, r.Start(ctx, script("polite", "trap 'echo goodbye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")))
	ok(t, r.Start(ctx, script("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.05; done")))
	eventually(t, "both handle SIGTERM", func() bool { return strings.Count(r.output.String(), "ready") == 2 })
	watched := make(chan error, 1)
	go func() { watched <- r.Watch(ctx, func(ganesha.ProcessState) {}) }()
	start := time.Now()
	ok(t, r.command.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("the launcher ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the launcher still runs")
	}
	if took := time.Since(start); took < time.Second || took > 5*time.Second {
		t.Errorf("it took %v; the stubborn one has 1 s", took)
	}
	if log := r.output.String(); !strings.Contains(log, "[polite] goodbye") || !strings.Contains(log, "[stubborn] ganesha-launcher: pid") {
		t.Errorf("the log:\n%s", log)
	}
	if err := <-watched; !errors.Is(err, ganesha.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if _, err := r.List(ctx); !errors.Is(err, ganesha.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestANewLauncherTakesOverTheSocketOfADeadOne(t *testing.T) {
	r := newLauncher(t)
	ok(t, r.Start(t.Context(), script("pvc-1", "exec sleep 60")))
	ok(t, r.command.Process.Kill())
	if err := <-r.ended; err == nil {
		t.Fatal("the launcher ended well although it was killed")
	}
	if _, err := os.Stat(r.socket); err != nil {
		t.Fatalf("the test proves nothing: %v", err)
	}
	states, err := runLauncher(t, r.socket).List(t.Context())
	if err != nil || len(states) != 0 {
		t.Errorf("got %+v, %v", states, err)
	}
}

func TestLongLinesAndManyLinesAreBounded(t *testing.T) {
	var out output
	last := &lastLines{}
	text := strings.Repeat("x", 3*maxLine) + "\n" + strings.Repeat("short\n", 100)
	(&prefixer{writer: &out}).copy("pvc-1", strings.NewReader(text), last)
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "[pvc-1] ") || len(line) > maxLine+16 {
			t.Fatalf("got a line of %d bytes: %.40s", len(line), line)
		}
	}
	if got := last.lines(); len(got) != keptLines || got[0] != "short" {
		t.Errorf("kept %d lines", len(got))
	}
}

// The pod ends: the launcher goes on until the supervisor has stopped what it
// handed over, so that clients do not notice.
func TestLauncherThatIsToldToEndWaitsForTheSupervisor(t *testing.T) {
	l := newDrainingLauncher(t, "10s")
	ok(t, l.Start(t.Context(), script("pvc-1", "sleep 100")))
	if l.Leaving(t.Context(), 100*time.Millisecond) {
		t.Fatal("nobody told it to end")
	}
	ok(t, l.command.Process.Signal(syscall.SIGTERM))
	if !l.Leaving(t.Context(), 2*time.Second) {
		t.Fatal("it was told to end and does not say so")
	}
	time.Sleep(300 * time.Millisecond)
	if states, err := l.List(t.Context()); err != nil || len(states) != 1 || !states[0].Running {
		t.Fatalf("the process did not go on: %v, %v", states, err)
	}
	ok(t, l.Stop(t.Context(), "pvc-1", false))
	// The next server starts now, and shall have the processor for itself.
	time.Sleep(time.Second)
	if states, err := l.List(t.Context()); err != nil || len(states) != 0 {
		t.Fatalf("the launcher does not wait for its release: %v, %v", states, err)
	}
	l.Release(t.Context())
	waitUntilEnded(t, l, time.Second)
	if !l.Leaving(t.Context(), time.Second) {
		t.Error("a launcher that is gone is not leaving")
	}
}

func TestReleasedLauncherEndsWhatIsLeft(t *testing.T) {
	l := newDrainingLauncher(t, "100s")
	ok(t, l.Start(t.Context(), script("pvc-1", "sleep 100")))
	l.Release(t.Context()) // not told to end: no effect
	ok(t, l.command.Process.Signal(syscall.SIGTERM))
	if !l.Leaving(t.Context(), 2*time.Second) {
		t.Fatal("it was told to end and does not say so")
	}
	l.Release(t.Context())
	waitUntilEnded(t, l, 3*time.Second)
}

func TestLauncherIsNotNeededWhenNothingRuns(t *testing.T) {
	l := newDrainingLauncher(t, "100s")
	ok(t, l.command.Process.Signal(syscall.SIGTERM))
	waitUntilEnded(t, l, 8*time.Second) // nobody releases it
}

func TestLauncherDoesNotWaitForASupervisorForEver(t *testing.T) {
	l := newDrainingLauncher(t, "300ms")
	ok(t, l.Start(t.Context(), script("pvc-1", "sleep 100")))
	ok(t, l.command.Process.Signal(syscall.SIGTERM))
	waitUntilEnded(t, l, 3*time.Second)
}

func newDrainingLauncher(t *testing.T, timeout string) *running {
	t.Helper()
	t.Setenv(drainVariable, timeout)
	return newLauncher(t)
}

func waitUntilEnded(t *testing.T, l *running, limit time.Duration) {
	t.Helper()
	select {
	case err := <-l.ended:
		ok(t, err)
	case <-time.After(limit):
		t.Errorf("the launcher still runs after %v", limit)
	}
}

// Two launchers are in two pods of a node while one replaces the other.
func TestOnlyOneProcessOfTwoLaunchersHoldsTheLock(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "server.lock")
	process := script("pvc-1", "sleep 100")
	process.Lock = lock
	first, second := newLauncher(t), newLauncher(t)
	if err := first.Start(t.Context(), process); err == nil {
		t.Fatal("a lock was made out of nothing")
	}
	ok(t, os.WriteFile(lock, nil, 0o600))
	ok(t, first.Start(t.Context(), process))
	if err := second.Start(t.Context(), process); !errors.Is(err, ganesha.ErrLocked) {
		t.Fatalf("started a second one: %v", err)
	}
	// The process has the lock, not the launcher.
	ok(t, first.Stop(t.Context(), "pvc-1", true))
	ok(t, second.Start(t.Context(), process))
}
