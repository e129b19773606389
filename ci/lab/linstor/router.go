package linstor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// request is one decoded call of the REST API.
type request struct {
	*http.Request
	body []byte
}

// decode reads the JSON body; LINSTOR answers 400 to what it cannot parse.
func (q *request) decode(into any) Replies {
	if len(bytes.TrimSpace(q.body)) == 0 {
		return nil
	}
	if err := json.Unmarshal(q.body, into); err != nil {
		return fail(failInvalidRequest, 0, "Unable to parse input json: %v", err)
	}
	return nil
}

type handler func(q *request) (status int, body any)

// replies makes a handler of a function that answers with Replies.
func replies(ok int, f func(q *request) Replies) handler {
	return func(q *request) (int, any) {
		rs := f(q)
		if len(rs) == 1 && rs[0].code() == failInvalidRequest {
			return http.StatusBadRequest, rs
		}
		return rs.status(ok), rs
	}
}

type router struct {
	controller *Controller
	mux        *http.ServeMux
	log        *requestLog
	closing    chan struct{}

	mu      sync.Mutex
	faults  []*control.Fault
	nextID  int
	hanging chan struct{} // not nil while the controller hangs; closed at its end
}

func newRouter(c *Controller, log *requestLog) *router {
	t := &router{controller: c, mux: http.NewServeMux(), log: log, closing: make(chan struct{})}
	for pattern, h := range c.handlers() {
		t.mux.Handle(pattern, t.serve(h))
	}
	t.mux.HandleFunc("GET /v1/events/drbd/promotion", c.servePromotions)
	t.mux.Handle("/", t.serve(t.unhandled))
	return t
}

func (t *router) close() {
	t.setHanging(false)
	close(t.closing)
	t.log.close()
}

// ServeHTTP serves the REST API. A request is worked on to its end even if the
// client gives up, as on the real server.
func (c *Controller) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.routes.mux.ServeHTTP(w, r) }

// unhandled records a request that the stand-in does not know.
func (t *router) unhandled(q *request) (int, any) {
	t.controller.AddViolation(fmt.Sprintf("unhandled request: %s %s %s", q.Method, q.RequestURI, q.body))
	return http.StatusNotFound, fail(failUnknown, 0, "The laboratory's LINSTOR does not know %s %s", q.Method, q.RequestURI)
}

func (t *router) serve(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		t.waitWhileHanging(r)
		fault := t.hit(r)
		switch fault.Kind {
		case control.FaultHang:
			t.log.add(r, body, 0, []byte("fault: hang"), start)
			t.hang(r)
		case control.FaultReset:
			t.log.add(r, body, 0, []byte("fault: reset"), start)
			reset(w)
			return
		case control.FaultDelay:
			select {
			case <-time.After(time.Duration(fault.Delay)):
			case <-t.closing:
			}
		}
		var status int
		var answer any
		if fault.Kind == control.FaultError {
			status, answer = http.StatusInternalServerError, fail(fault.RetCode, 0, "%s", fault.Message)
		} else {
			status, answer = h(&request{Request: r, body: body})
		}
		text, err := json.Marshal(answer)
		if err != nil {
			panic(err) // our own types always marshal
		}
		t.log.add(r, body, status, text, start)
		if fault.Kind == control.FaultCommitThenReset {
			reset(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(text)
	})
}

// hit returns the fault for this request, or one without a kind.
func (t *router) hit(r *http.Request) control.Fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	call := r.Method + " " + r.RequestURI
	for _, f := range t.faults {
		if f.Count == 0 {
			continue
		}
		if matched, _ := regexp.MatchString(f.Endpoint, call); !matched {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Count > 0 {
			f.Count--
		}
		f.Hits++
		return *f
	}
	return control.Fault{}
}

// AddFault arms a fault for coming requests and returns it with its id.
func (c *Controller) AddFault(f control.Fault) (control.Fault, error) {
	if _, err := regexp.Compile(f.Endpoint); err != nil {
		return f, fmt.Errorf("compile endpoint: %w", err)
	}
	if f.Count == 0 {
		f.Count = 1
	}
	if f.RetCode == 0 {
		f.RetCode = failUnknown
	}
	if f.Message == "" {
		f.Message = "An unknown exception occurred (injected by the laboratory)"
	}
	t := c.routes
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nextID++
	f.ID, f.Hits = t.nextID, 0
	t.faults = append(t.faults, &f)
	return f, nil
}

// Faults lists the armed and spent faults with their hits.
func (c *Controller) Faults() []control.Fault {
	t := c.routes
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []control.Fault{}
	for _, f := range t.faults {
		out = append(out, *f)
	}
	return out
}

// ClearFaults disarms all faults.
func (c *Controller) ClearFaults() {
	c.routes.mu.Lock()
	defer c.routes.mu.Unlock()
	c.routes.faults = nil
}

// SetHanging makes the controller accept requests without ever answering.
// Requests that hang when it ends are dropped.
func (c *Controller) SetHanging(hang bool) { c.routes.setHanging(hang) }

func (t *router) setHanging(hang bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case hang && t.hanging == nil:
		t.hanging = make(chan struct{})
	case !hang && t.hanging != nil:
		close(t.hanging)
		t.hanging = nil
	}
}

func (t *router) waitWhileHanging(r *http.Request) {
	t.mu.Lock()
	hanging := t.hanging
	t.mu.Unlock()
	if hanging == nil {
		return
	}
	select {
	case <-hanging:
	case <-r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

func (t *router) hang(r *http.Request) {
	select {
	case <-t.closing:
	case <-r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

// reset closes the connection with a TCP reset instead of an answer.
func reset(w http.ResponseWriter) {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	connection, _, err := hijacker.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = connection.Close()
}

// requestLog keeps the requests for inspection, and writes them to a file in
// the form "METHOD URI BODY -> STATUS ANSWER".
type requestLog struct {
	mu       sync.Mutex
	file     *os.File
	requests []control.Request
	number   int
}

const keptRequests = 20000

func newRequestLog(path string) (*requestLog, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open request log: %w", err)
	}
	return &requestLog{file: file}, nil
}

func (l *requestLog) add(r *http.Request, body []byte, status int, answer []byte, start time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	entry := control.Request{
		Number: l.number, Time: start, Method: r.Method, URI: r.RequestURI, Body: string(body),
		Agent: r.UserAgent(), Status: status, Seconds: time.Since(start).Seconds(),
	}
	if status < 200 || status >= 300 {
		entry.Answer = string(answer)
	}
	l.requests = append(l.requests, entry)
	if len(l.requests) > keptRequests {
		l.requests = slices.Clone(l.requests[keptRequests/2:])
	}
	if l.file != nil {
		_, _ = fmt.Fprintf(l.file, "%s %s %s %s -> %d %s\n", start.Format("15:04:05.000"), entry.Method, entry.URI, entry.Body, status, strings.TrimSpace(entry.Answer))
	}
}

func (l *requestLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.file.Close()
	l.file = nil
}

// Requests returns the logged requests with numbers above after.
func (c *Controller) Requests(after int) []control.Request {
	l := c.routes.log
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []control.Request{}
	for _, r := range l.requests {
		if r.Number > after {
			out = append(out, r)
		}
	}
	return out
}
