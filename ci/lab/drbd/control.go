package drbd

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd/wire"
)

// CommandRequest asks for a drbdsetup command on a node.
type CommandRequest = wire.Request

// CommandFrame is a piece of the answer.
type CommandFrame = wire.Frame

// RegisterRequest announces a node's agent.
type RegisterRequest struct {
	Node string `json:"node"`
	// BootID is the kernel's random/boot_id.
	BootID string `json:"bootID"`
	// Address is the URL under which the agent takes orders.
	Address string `json:"address"`
}

// Registrar is implemented by drivers that must know where the agents are.
type Registrar interface {
	SetAddress(node, url string)
}

// ControlHandler serves the nodes: POST /register, POST /drbdsetup (the answer
// streams), and GET /violations for the curious.
func (c *Cluster) ControlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /register", c.handleRegister)
	mux.HandleFunc("POST /drbdsetup", c.handleCommand)
	mux.HandleFunc("GET /violations", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(append([]string{}, c.Violations()...))
	})
	return mux
}

// attachTimeout bounds the attachment of all devices of a node.
const attachTimeout = 2 * time.Minute

func (c *Cluster) handleRegister(w http.ResponseWriter, request *http.Request) {
	var body RegisterRequest
	if err := json.NewDecoder(request.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if registrar, ok := c.driver.(Registrar); ok {
		registrar.SetAddress(body.Node, body.Address)
	}
	ctx, cancel := context.WithTimeout(request.Context(), attachTimeout)
	defer cancel()
	if err := c.Register(ctx, body.Node, body.BootID); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (c *Cluster) handleCommand(w http.ResponseWriter, request *http.Request) {
	var body CommandRequest
	if err := json.NewDecoder(request.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	frames := &frameWriter{w: w}
	// A command that was started ends by itself, as in the kernel, even when
	// its caller is killed; only events2 ends with its reader.
	ctx := request.Context()
	if len(body.Args) > 0 && body.Args[0] != "events2" {
		ctx = context.WithoutCancel(ctx)
	}
	code := c.Run(ctx, body.Node, body.Args, frames.as(func(s string) CommandFrame { return CommandFrame{Out: s} }),
		frames.as(func(s string) CommandFrame { return CommandFrame{Err: s} }))
	_ = frames.send(CommandFrame{Exit: &code})
}

// frameWriter sends frames at once.
type frameWriter struct {
	mu sync.Mutex
	w  http.ResponseWriter
}

func (f *frameWriter) send(frame CommandFrame) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := json.NewEncoder(f.w).Encode(frame); err != nil {
		return err
	}
	return http.NewResponseController(f.w).Flush()
}

func (f *frameWriter) as(frame func(string) CommandFrame) writerFunc {
	return func(p []byte) (int, error) {
		if err := f.send(frame(string(p))); err != nil {
			return 0, err
		}
		return len(p), nil
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
