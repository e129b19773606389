// Package launcher is the server side of ganesha-launcher: PID 1 of the
// ganesha container, which starts, stops, lists and reaps the ganesha processes
// for the supervisor in the container beside it. The client is
// ganesha.Launcher.
//
// It keeps no state but its processes: they end when it ends, and go on while
// the supervisor is restarted. It decides nothing: a process that ends is
// reported, not started again.
package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

// Options configure a launcher.
type Options struct {
	// Socket is the path of the unix socket to listen at.
	Socket string
	// Programs are the paths of the only programs that may be started. The socket
	// is in a directory that another container can write to, and must not be a
	// shell for this one.
	Programs []string
	// Output gets the lines that the processes print, each with the name of its
	// process in front.
	Output io.Writer
	// DrainTimeout is how long the launcher goes on when it is told to end while
	// processes run: the supervisor, which is told at the same time, hands over
	// what they serve, stops them and releases the launcher.
	DrainTimeout time.Duration
	// StopTimeout bounds how long the processes that are left may take to end then;
	// afterwards they are killed.
	StopTimeout time.Duration
}

// Serve serves until told ends, then waits for the supervisor, stops the
// processes that are left and returns. It reaps all children of the calling
// process: nothing else in it may wait for any.
func Serve(told context.Context, options Options) error {
	listener, err := listen(options.Socket)
	if err != nil {
		return fmt.Errorf("listen at %s: %w", options.Socket, err)
	}
	table := newTable(options.Programs, options.Output)
	stopReaping := table.reapChildren()
	defer stopReaping()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	// Requests that wait, for events or for the end of a process, end with ctx.
	server := &http.Server{
		Handler:           handler(table, leaving{told, stop}),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case <-told.Done():
		err = nil
		table.waitUntilNoneRuns(ctx, options.DrainTimeout)
	case err = <-served:
		err = fmt.Errorf("serve at %s: %w", options.Socket, err)
	}
	stop()
	// Nothing is started any more; who asks for a list still gets it.
	table.stopAll(options.StopTimeout)
	_ = server.Close()
	return err
}

// listen makes the socket. One that a previous launcher left is replaced: it
// died with its container.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(socket, 0o600)
}

// leaving is the time between being told to end and ending.
type leaving struct {
	told    context.Context
	release context.CancelFunc
}

func handler(table *table, leaving leaving) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /leaving", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, leaving.told.Err() != nil)
	})
	mux.HandleFunc("DELETE /leaving", func(w http.ResponseWriter, _ *http.Request) {
		if leaving.told.Err() == nil {
			http.Error(w, "the launcher was not told to end", http.StatusConflict)
			return
		}
		leaving.release()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /processes", func(w http.ResponseWriter, r *http.Request) {
		var process ganesha.Process
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&process); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		state, err := table.start(process)
		switch {
		case errors.Is(err, ganesha.ErrAlreadyRunning):
			http.Error(w, fmt.Sprintf("%s, pid %d", process.Name, state.PID), http.StatusConflict)
		case errors.Is(err, ganesha.ErrLocked):
			http.Error(w, process.Lock, http.StatusLocked)
		case err != nil:
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		default:
			reply(w, http.StatusCreated, state)
		}
	})
	mux.HandleFunc("DELETE /processes/{name}", func(w http.ResponseWriter, r *http.Request) {
		kill := r.URL.Query().Get("signal") == "KILL"
		if err := table.stop(r.Context(), r.PathValue("name"), kill); err != nil {
			http.Error(w, err.Error(), http.StatusGatewayTimeout)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /processes", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, table.list())
	})
	mux.HandleFunc("GET /watch", func(w http.ResponseWriter, r *http.Request) { stream(w, r, table) })
	return mux
}

func reply(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

// stream writes the state of every process, and again whenever it changes, one
// JSON object per line.
func stream(w http.ResponseWriter, r *http.Request, table *table) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	encoder := json.NewEncoder(w)
	sent := map[string]int{}
	for {
		changes := table.changed()
		for _, state := range table.list() {
			// A start and the end of the same process differ in Running, two starts
			// in the pid or the time.
			version := state.version()
			if sent[state.Name] == version {
				continue
			}
			sent[state.Name] = version
			if encoder.Encode(state.ProcessState) != nil {
				return
			}
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-changes:
		case <-r.Context().Done():
			return
		}
	}
}
