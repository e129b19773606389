package launcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

// table is the processes of a launcher.
type table struct {
	programs []string
	output   *prefixer

	mutex     sync.Mutex
	processes map[string]*process
	stopping  bool
	// changes is closed, and replaced, when a process starts or ends.
	changes  chan struct{}
	versions int
}

// process is one started program.
type process struct {
	state state
	// printed is closed when its output has been read to the end.
	printed chan struct{}
	last    *lastLines
	// reaped: its pid may belong to another process from now on.
	reaped bool
	// ended is closed when it has been reaped and its end is in state.
	ended chan struct{}
}

// state is what is told about a process; number changes with it.
type state struct {
	ganesha.ProcessState
	number int
}

func (s state) version() int { return s.number }

func newTable(programs []string, output io.Writer) *table {
	return &table{
		programs:  programs,
		output:    &prefixer{writer: output},
		processes: map[string]*process{},
		changes:   make(chan struct{}),
	}
}

var (
	validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)
	// allowedVariables cannot make a program do something else, as LD_PRELOAD can.
	allowedVariables = []string{"MALLOC_ARENA_MAX"}
)

func (t *table) check(p ganesha.Process) error {
	if !validName.MatchString(p.Name) {
		return fmt.Errorf("%q is not a name for a process", p.Name)
	}
	if len(p.Args) == 0 || !slices.Contains(t.programs, p.Args[0]) {
		return fmt.Errorf("only %s may be started", strings.Join(t.programs, ", "))
	}
	for _, variable := range p.Env {
		if name, _, found := strings.Cut(variable, "="); !found || !slices.Contains(allowedVariables, name) {
			return fmt.Errorf("environment variable %q is not allowed", variable)
		}
	}
	return nil
}

// start starts a process in a process group of its own. The state that comes
// with ErrAlreadyRunning is that of the running one.
func (t *table) start(p ganesha.Process) (ganesha.ProcessState, error) {
	if err := t.check(p); err != nil {
		return ganesha.ProcessState{}, err
	}
	// The lock is held until the process is in the table: it may end at once, and
	// the reaper must find it.
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.stopping {
		return ganesha.ProcessState{}, errors.New("the launcher is stopping")
	}
	if running := t.processes[p.Name]; running != nil && running.state.Running {
		return running.state.ProcessState, ganesha.ErrAlreadyRunning
	}
	lock, err := takeLock(p.Lock)
	if err != nil {
		return ganesha.ProcessState{}, err
	}
	if lock != nil {
		defer func() { _ = lock.Close() }() // the process has its own
	}
	out, in, err := os.Pipe()
	if err != nil {
		return ganesha.ProcessState{}, err
	}
	defer func() { _ = in.Close() }()
	files := []*os.File{nil, in, in}
	if lock != nil {
		files = append(files, lock)
	}
	child, err := os.StartProcess(p.Args[0], p.Args, &os.ProcAttr{
		Dir:   "/",
		Env:   append(os.Environ(), p.Env...),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		_ = out.Close()
		return ganesha.ProcessState{}, fmt.Errorf("start %s: %w", p.Args[0], err)
	}
	started := &process{
		state:   state{ProcessState: ganesha.ProcessState{Process: p, PID: child.Pid, Started: time.Now(), Running: true}},
		printed: make(chan struct{}),
		last:    &lastLines{},
		ended:   make(chan struct{}),
	}
	_ = child.Release() // the reaper waits for it
	t.processes[p.Name] = started
	t.announce(started)
	go func() {
		t.output.copy(p.Name, out, started.last)
		_ = out.Close()
		close(started.printed)
	}()
	return started.state.ProcessState, nil
}

// takeLock opens and locks a file for a process to inherit; nil if there is none
// to be locked. It never creates one: who asks for it may not write everywhere.
func takeLock(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ganesha.ErrLocked
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("take the lock %s: %w", path, err)
	}
	return file, nil
}

// stop signals a process and waits until it has ended or ctx ends; then it is
// forgotten.
func (t *table) stop(ctx context.Context, name string, kill bool) error {
	t.mutex.Lock()
	p := t.processes[name]
	if p != nil && !p.reaped {
		signalGroup(p.state.PID, kill)
	}
	t.mutex.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return fmt.Errorf("%s, pid %d, has not ended: %w", name, p.state.PID, ctx.Err())
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.processes[name] == p {
		delete(t.processes, name)
	}
	return nil
}

// waitUntilNoneRuns returns some time after no process runs any more, or when ctx
// ends or time is up.
func (t *table) waitUntilNoneRuns(ctx context.Context, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		changes := t.changed()
		var moment <-chan time.Time
		if !slices.ContainsFunc(t.list(), func(s state) bool { return s.Running }) {
			moment = time.After(releaseTime)
		}
		select {
		case <-ctx.Done():
			return
		case <-moment:
			return
		case <-changes:
		}
	}
}

// releaseTime is how long a supervisor may take to say that it needs the launcher
// no more. Until then the next server starts on this node or another, and the
// end of a container would take the processor away from it.
const releaseTime = 5 * time.Second

// stopAll ends all processes, within the timeout or by force. Nothing can be
// started afterwards.
func (t *table) stopAll(timeout time.Duration) {
	t.mutex.Lock()
	t.stopping = true
	var names []string
	for name := range t.processes {
		names = append(names, name)
	}
	t.mutex.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var group sync.WaitGroup
	for _, name := range names {
		group.Go(func() {
			if t.stop(ctx, name, false) != nil {
				// SIGKILL works at once but for a process in the kernel; that one ends
				// with the container.
				last, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = t.stop(last, name, true)
			}
		})
	}
	group.Wait()
}

func signalGroup(pid int, kill bool) {
	signal := syscall.SIGTERM
	if kill {
		signal = syscall.SIGKILL
	}
	_ = syscall.Kill(-pid, signal)
}

// list returns the state of all processes, in the order of their names.
func (t *table) list() []state {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	states := make([]state, 0, len(t.processes))
	for _, p := range t.processes {
		states = append(states, p.state)
	}
	slices.SortFunc(states, func(a, b state) int { return strings.Compare(a.Name, b.Name) })
	return states
}

// changed returns a channel that is closed at the next change.
func (t *table) changed() <-chan struct{} {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.changes
}

// announce makes the state of p known; the caller holds the lock.
func (t *table) announce(p *process) {
	t.versions++
	p.state.number = t.versions
	close(t.changes)
	t.changes = make(chan struct{})
}

// reapChildren waits for every child, also for orphans that the kernel gives to
// PID 1, until the function that it returns is called.
func (t *table) reapChildren() (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	done := make(chan struct{})
	go func() {
		for {
			t.reap()
			select {
			case <-signals:
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// reap takes all children that have ended. Several ends may come with one
// signal.
func (t *table) reap() {
	for {
		var status syscall.WaitStatus
		// The lock orders this after the start of a child that ends at once.
		t.mutex.Lock()
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		var ended *process
		for _, p := range t.processes {
			if pid > 0 && p.state.PID == pid && !p.reaped {
				p.reaped = true
				ended = p
			}
		}
		t.mutex.Unlock()
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 {
			return
		}
		if ended != nil {
			go t.finish(ended, status, time.Now())
		}
	}
}

// outputTimeout bounds the wait for the last lines of a process: a child of its
// own may keep the pipe open.
const outputTimeout = 500 * time.Millisecond

// finish records the end of a process, with its last lines.
func (t *table) finish(p *process, status syscall.WaitStatus, when time.Time) {
	select {
	case <-p.printed:
	case <-time.After(outputTimeout):
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	p.state.Running = false
	p.state.Ended = when
	p.state.ExitCode = status.ExitStatus() // -1 after a signal
	if status.Signaled() {
		p.state.Signal = status.Signal().String()
	}
	p.state.LastLines = p.last.lines()
	close(p.ended)
	t.announce(p)
	t.output.line(p.state.Name, "ganesha-launcher: "+describe(p.state.ProcessState))
}

func describe(s ganesha.ProcessState) string {
	if s.Signal != "" {
		return fmt.Sprintf("pid %d ended by signal: %s", s.PID, s.Signal)
	}
	return fmt.Sprintf("pid %d ended with code %d", s.PID, s.ExitCode)
}
