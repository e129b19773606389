package ganesha

import (
	"context"
	"errors"
	"time"
)

// Process is a program to start.
type Process struct {
	// Name is unique among the running processes: the name of the export.
	Name string `json:"name"`
	// Args are the program and its arguments. The launcher starts only programs
	// that it was built to start.
	Args []string `json:"args"`
	// Env is added to the launcher's own environment, "KEY=value".
	Env []string `json:"env,omitempty"`
	// ConfigHash says which configuration the process was started with. The
	// launcher only remembers it.
	ConfigHash string `json:"configHash,omitempty"`
}

// ProcessState is a process that the launcher started. An ended one is
// remembered until another of the same name is started, or it is forgotten.
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
	// LastLines are the last lines it printed.
	LastLines []string `json:"lastLines,omitempty"`
}

// ErrAlreadyRunning is returned by Start when a process of this name runs.
var ErrAlreadyRunning = errors.New("a process of this name is running")

// ErrUnreachable is returned when no launcher answers at the socket: its
// container is not up (again) yet.
var ErrUnreachable = errors.New("ganesha-launcher does not answer")

// Launcher is a client of ganesha-launcher.
type Launcher struct {
	socket string
}

// NewLauncher returns a client of the launcher that listens at the unix socket.
func NewLauncher(socket string) *Launcher { return &Launcher{socket: socket} }

// Start starts a process and returns when it has been started, not when it
// serves. It fails with ErrAlreadyRunning if one of this name runs.
func (l *Launcher) Start(ctx context.Context, process Process) error {
	return errors.New("not implemented")
}

// Stop asks the process to end (SIGTERM), or kills it, and waits until it is
// gone or ctx ends. A process that is not running, or unknown, is no error.
func (l *Launcher) Stop(ctx context.Context, name string, kill bool) error {
	return errors.New("not implemented")
}

// List returns all processes, also ended ones, in the order of their names.
func (l *Launcher) List(ctx context.Context) ([]ProcessState, error) {
	return nil, errors.New("not implemented")
}

// Watch calls changed for every process that is there, and then for every one
// that starts or ends, until ctx ends or the launcher is gone (ErrUnreachable):
// a launcher that is started anew has no processes.
func (l *Launcher) Watch(ctx context.Context, changed func(ProcessState)) error {
	return errors.New("not implemented")
}
