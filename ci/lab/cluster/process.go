package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// markVariable is in the environment of every process of a laboratory. Its
// value is the laboratory's directory, so a process whose record got lost is
// still found, and only processes of this laboratory are ever ended.
const markVariable = "LINSTOR_RWX_LAB_PROCESS"

// Process is a program to run on the host for the cluster.
type Process struct {
	// Name is unique in the cluster; it names the record and the log file.
	Name string
	// Command is the executable and its arguments. Environment is added to a
	// bare one.
	Command     []string
	Environment []string
}

type record struct {
	PID int `json:"pid"`
	// Started is the start time in clock ticks after boot (proc(5), field 22):
	// with it a reused pid is not taken for the process.
	Started string `json:"started"`
}

// Start runs a process in the cluster's network namespace and in a process
// namespace of its own: when its first process dies, all that it started dies
// too, whatever became of the laboratory. It does not wait. A process of that
// name that still runs is an error.
func (c *Cluster) Start(p Process) error {
	if c.Running(p.Name) {
		return fmt.Errorf("start %s: it runs already", p.Name)
	}
	logPath := c.LogPath(p.Name)
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	command := exec.Command(p.Command[0], p.Command[1:]...)
	command.Stdout, command.Stderr = log, log
	command.Dir = c.config.Directory
	command.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + c.config.Directory,
		markVariable + "=" + c.config.Directory,
	}, p.Environment...)
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	if err := InNamespace(c.config.Name, command.Start); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() { _ = command.Wait() }() // no zombie while this process lives
	started, err := startTime(command.Process.Pid)
	if err != nil {
		return fmt.Errorf("start %s: it ended at once, see %s", p.Name, logPath)
	}
	return c.writeRecord(p.Name, record{PID: command.Process.Pid, Started: started})
}

// Running says whether a process that was started by this name lives.
func (c *Cluster) Running(name string) bool {
	r, err := c.readRecord(name)
	return err == nil && r.alive()
}

// Kill ends a process and all that it started, without giving it a chance. No
// such process is no error.
func (c *Cluster) Kill(name string) error {
	r, err := c.readRecord(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.kill(); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	return os.Remove(c.recordPath(name))
}

// Signal sends a signal to the first process of a program. A process is the
// first of its process namespace: signals that it does not handle have no
// effect, except SIGKILL and SIGSTOP.
func (c *Cluster) Signal(name string, signal syscall.Signal) error {
	r, err := c.readRecord(name)
	if err != nil {
		return err
	}
	if !r.alive() {
		return fmt.Errorf("signal %s: it does not run", name)
	}
	return syscall.Kill(r.PID, signal)
}

// LogPath returns the file that holds a process' output.
func (c *Cluster) LogPath(name string) string { return c.config.path("log", name+".log") }

func (c *Cluster) recordPath(name string) string {
	return c.config.path("processes", name+".json")
}

func (c *Cluster) readRecord(name string) (record, error) {
	var r record
	content, err := os.ReadFile(c.recordPath(name))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return r, fmt.Errorf("read record of %s: %w", name, err)
	}
	return r, nil
}

func (c *Cluster) writeRecord(name string, r record) error {
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := c.recordPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// processes lists the names that have a record.
func (c *Cluster) processes() ([]string, error) {
	paths, err := filepath.Glob(c.config.path("processes", "*.json"))
	var names []string
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".json"))
	}
	return names, err
}

// killAll ends every process of the laboratory, recorded or not.
func (c *Cluster) killAll() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	mark := []byte(markVariable + "=" + c.config.Directory)
	var failures []error
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environment, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil || !hasVariable(environment, mark) {
			continue
		}
		started, err := startTime(pid)
		if err != nil {
			continue
		}
		failures = append(failures, record{PID: pid, Started: started}.kill())
	}
	return errors.Join(failures...)
}

func hasVariable(environment, variable []byte) bool {
	for _, v := range bytes.Split(environment, []byte{0}) {
		if bytes.Equal(v, variable) {
			return true
		}
	}
	return false
}

func (r record) alive() bool {
	started, err := startTime(r.PID)
	return err == nil && started == r.Started
}

// kill returns when the process is gone.
func (r record) kill() error {
	for range 1000 {
		if !r.alive() {
			return nil
		}
		if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("process %d does not die", r.PID)
}

// startTime returns the start time of a process that is not a zombie.
func startTime(pid int) (string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	return parseStartTime(string(content))
}

// parseStartTime reads field 22 of proc(5)'s stat. The second field, the
// command in parentheses, may hold spaces and parentheses.
func parseStartTime(stat string) (string, error) {
	end := strings.LastIndex(stat, ")")
	if end < 0 {
		return "", errors.New("process status without a command")
	}
	fields := strings.Fields(stat[end+1:]) // from field 3 on
	if len(fields) < 20 {
		return "", errors.New("process status is too short")
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return "", errors.New("process has ended")
	}
	return fields[19], nil
}
