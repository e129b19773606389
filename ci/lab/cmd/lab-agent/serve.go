package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
)

// serve keeps the guest's programs running and answers the host. It never
// returns without an error.
func serve() error {
	spec, err := readSpec()
	if err != nil {
		return err
	}
	address := net.JoinHostPort(spec.AgentAddress, strconv.Itoa(guest.Port))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	go keepAll(spec.Programs)

	return http.Serve(listener, handlers())
}

// handlers answers the host.
func handlers() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /exec", handleExec)
	mux.HandleFunc("GET /file", handleRead)
	mux.HandleFunc("PUT /file", handleWrite)
	return mux
}

// keepAll starts the programs one after the other.
func keepAll(programs []guest.Program) {
	for _, program := range programs {
		go keep(program)
		if program.Socket != "" {
			waitForSocket(program.Socket)
		}
		say("program %s started", program.Name)
	}
}

// keep runs one program for ever.
func keep(program guest.Program) {
	for {
		err := runLogged(program)
		say("program %s ended: %v", program.Name, err)
		time.Sleep(time.Second)
	}
}

func runLogged(program guest.Program) error {
	path := filepath.Join(guest.LogDirectory, program.Name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(program.Command[0], program.Command[1:]...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return command.Run()
}

func waitForSocket(path string) {
	for range 600 {
		connection, err := net.Dial("unix", path)
		if err == nil {
			connection.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	say("socket %s did not answer in time", path)
}

func handleExec(w http.ResponseWriter, r *http.Request) {
	var request guest.Command
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil || len(request.Args) == 0 {
		http.Error(w, "bad command", http.StatusBadRequest)
		return
	}
	var lock sync.Mutex
	send := func(frame []byte) error {
		lock.Lock()
		defer lock.Unlock()
		if _, err := w.Write(frame); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}
	// The request's context ends when the host hangs up: the command dies
	// then, with its children.
	command := exec.CommandContext(r.Context(), request.Args[0], request.Args[1:]...)
	command.Stdin = bytes.NewReader(request.Stdin)
	command.Stdout, command.Stderr = guest.StdoutFrames(send), guest.StderrFrames(send)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second
	err := command.Run()
	// If the host has hung up, nobody is there to hear how it ended.
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		_ = send(guest.ExitFrame(ended.ExitCode(), nil))
	case errors.Is(err, exec.ErrWaitDelay):
		// The command ended well; a child that it left behind holds its output.
		_ = send(guest.ExitFrame(0, nil))
	default:
		_ = send(guest.ExitFrame(0, err))
	}
}

func handleRead(w http.ResponseWriter, r *http.Request) {
	content, err := os.ReadFile(r.URL.Query().Get("path"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Write(content)
}

func handleWrite(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	mode, err := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 32)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := writeFile(path, os.FileMode(mode), r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// writeFile replaces the file by renaming, so that a running program can be
// replaced too.
func writeFile(path string, mode os.FileMode, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(mode); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
