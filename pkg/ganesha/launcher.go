package ganesha

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Process is a program to start.
type Process struct {
	// Name is unique among the running processes: the name of the export.
	Name string `json:"name"`
	// Args are the program and its arguments. The launcher starts only programs
	// that it was built to start.
	Args []string `json:"args"`
	// Env is added to the launcher's own environment, "KEY=value". The launcher
	// takes only what cannot make another program of it.
	Env []string `json:"env,omitempty"`
	// Lock is a file that is there, outside of the pod, and of which the process holds
	// a lock (flock) as long as it lives, whoever else ends. Start fails with
	// ErrLocked while another process has it, also one of another pod. "": none.
	Lock string `json:"lock,omitempty"`
	// ConfigHash says which configuration the process was started with. The
	// launcher only remembers it.
	ConfigHash string `json:"configHash,omitempty"`
}

// ProcessState is a process that the launcher started. An ended one is
// remembered until another of the same name is started, or it is stopped.
type ProcessState struct {
	Process
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Running bool      `json:"running"`
	// Ended, ExitCode and Signal are of a process that is not Running. ExitCode
	// is -1 if a signal ended it.
	Ended    time.Time `json:"ended,omitzero"`
	ExitCode int       `json:"exitCode"`
	Signal   string    `json:"signal,omitempty"`
	// LastLines are the last lines it printed, once it has ended.
	LastLines []string `json:"lastLines,omitempty"`
}

// ErrAlreadyRunning is returned by Start when a process of this name runs.
var ErrAlreadyRunning = errors.New("a process of this name is running")

// ErrLocked is returned by Start when another process holds Process.Lock.
var ErrLocked = errors.New("another process holds the lock")

// ErrUnreachable is returned when no launcher answers at the socket: its
// container is not up (again) yet.
var ErrUnreachable = errors.New("ganesha-launcher does not answer")

// Launcher is a client of ganesha-launcher.
type Launcher struct {
	http *http.Client
}

// NewLauncher returns a client of the launcher that listens at the unix socket.
func NewLauncher(socket string) *Launcher {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", socket)
	}
	// A connection for each call: one to a launcher that was restarted is dead.
	return &Launcher{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Start starts a process and returns when it has been started, not when it
// serves. It fails with ErrAlreadyRunning if one of this name runs.
func (l *Launcher) Start(ctx context.Context, process Process) error {
	body, err := json.Marshal(process)
	if err != nil {
		return fmt.Errorf("start %s: %w", process.Name, err)
	}
	response, err := l.call(ctx, http.MethodPost, "/processes", body)
	if err != nil {
		return fmt.Errorf("start %s: %w", process.Name, err)
	}
	return response.Close()
}

// Stop asks the process to end (SIGTERM), or kills it, and waits until it is
// gone or ctx ends. A process that is not running, or unknown, is no error.
// Afterwards the launcher does not know it any more.
func (l *Launcher) Stop(ctx context.Context, name string, kill bool) error {
	signal := "TERM"
	if kill {
		signal = "KILL"
	}
	response, err := l.call(ctx, http.MethodDelete, "/processes/"+url.PathEscape(name)+"?signal="+signal, nil)
	if err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	return response.Close()
}

// List returns all processes, also ended ones, in the order of their names.
func (l *Launcher) List(ctx context.Context) ([]ProcessState, error) {
	response, err := l.call(ctx, http.MethodGet, "/processes", nil)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer func() { _ = response.Close() }()
	var states []ProcessState
	if err := json.NewDecoder(response).Decode(&states); err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	return states, nil
}

// Leaving says whether the launcher is told to end, or is gone, within patience:
// the containers of a pod that ends are told one after the other.
func (l *Launcher) Leaving(ctx context.Context, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		leaving, err := l.leaving(ctx)
		if errors.Is(err, ErrUnreachable) || leaving {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *Launcher) leaving(ctx context.Context) (bool, error) {
	response, err := l.call(ctx, http.MethodGet, "/leaving", nil)
	if err != nil {
		return false, fmt.Errorf("ask whether the launcher ends: %w", err)
	}
	defer func() { _ = response.Close() }()
	var leaving bool
	if err := json.NewDecoder(response).Decode(&leaving); err != nil {
		return false, fmt.Errorf("ask whether the launcher ends: %w", err)
	}
	return leaving, nil
}

// Release lets a launcher that was told to end do so: nothing is needed of it
// any more. One that is gone already is no error.
func (l *Launcher) Release(ctx context.Context) {
	if response, err := l.call(ctx, http.MethodDelete, "/leaving", nil); err == nil {
		_ = response.Close()
	}
}

// Watch calls changed for every process that is there, and then for every one
// that starts or ends, until ctx ends or the launcher is gone (ErrUnreachable):
// a launcher that is started anew has no processes. A process that starts and
// ends quickly may be reported once only, as ended.
func (l *Launcher) Watch(ctx context.Context, changed func(ProcessState)) error {
	response, err := l.call(ctx, http.MethodGet, "/watch", nil)
	if err != nil {
		return fmt.Errorf("watch processes: %w", err)
	}
	defer func() { _ = response.Close() }()
	decoder := json.NewDecoder(response)
	for {
		var state ProcessState
		if err := decoder.Decode(&state); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("watch processes: %w: %w", ErrUnreachable, err)
		}
		changed(state)
	}
}

// call is the one place that talks to the launcher. The caller closes what it
// returns.
func (l *Launcher) call(ctx context.Context, method, path string, body []byte) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://launcher"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := l.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if response.StatusCode < 300 {
		return response.Body, nil
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	message := strings.TrimSpace(string(text))
	if response.StatusCode == http.StatusLocked {
		return nil, fmt.Errorf("%w: %s", ErrLocked, message)
	}
	if response.StatusCode == http.StatusConflict {
		return nil, fmt.Errorf("%w: %s", ErrAlreadyRunning, message)
	}
	return nil, fmt.Errorf("ganesha-launcher refuses: %s", message)
}
