package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// violations collects what DRBD's stand-in reports.
type violations struct {
	mu    sync.Mutex
	texts []string
}

func (v *violations) add(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.texts = append(v.texts, text)
}

func (v *violations) list() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.texts)
}

func (v *violations) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.texts = nil
}

// daemon serves the control API: what concerns both stand-ins here, the rest
// by the stand-ins' own handlers.
type daemon struct {
	controller *linstor.Controller
	cluster    *drbd.Cluster
	rest       *restServer
	violations *violations

	mu      sync.Mutex
	awaited map[string]bool // nodes whose satellite comes with their agent
}

func newDaemon(controller *linstor.Controller, cluster *drbd.Cluster, rest *restServer, found *violations) *daemon {
	return &daemon{controller: controller, cluster: cluster, rest: rest, violations: found, awaited: map[string]bool{}}
}

// awaitAgents disconnects all satellites until their node's agent registers:
// nothing can be deployed before.
func (d *daemon) awaitAgents() error {
	for _, n := range d.controller.State().Nodes {
		if err := d.controller.SetOnline(n.Name, false); err != nil {
			return err
		}
		d.mu.Lock()
		d.awaited[n.Name] = true
		d.mu.Unlock()
	}
	return nil
}

func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	nodes := d.cluster.ControlHandler()
	mux.Handle("/linstor/", d.controller.AdminHandler())
	mux.Handle("/", nodes)
	mux.HandleFunc("POST /register", d.register(nodes))
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { linstor.Answer(w, d.controller.State(), nil) })
	mux.HandleFunc("GET /violations", func(w http.ResponseWriter, _ *http.Request) {
		linstor.Answer(w, append(append([]string{}, d.controller.Violations()...), d.violations.list()...), nil)
	})
	mux.HandleFunc("DELETE /violations", func(w http.ResponseWriter, _ *http.Request) {
		d.controller.ClearViolations()
		d.violations.clear()
		linstor.Answer(w, nil, nil)
	})
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, _ *http.Request) { linstor.Answer(w, nil, d.reset()) })
	mux.HandleFunc("POST /controller/{state}", d.controllerState)
	mux.HandleFunc("POST /nodes/{node}/{action}", d.node)
	mux.HandleFunc("POST /network/{action}", d.network)
	mux.HandleFunc("POST /disks/{node}/{resource}/{volume}/{action}", d.disk)
	return mux
}

// register lets a node's agent announce itself to DRBD; with it comes the
// satellite of a node that was powered off.
func (d *daemon) register(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
		var agent drbd.RegisterRequest
		if err := json.Unmarshal(body, &agent); err != nil {
			return
		}
		d.mu.Lock()
		returns := d.awaited[agent.Node]
		delete(d.awaited, agent.Node)
		d.mu.Unlock()
		go func() {
			if err := d.catchUp(agent.Node, returns); err != nil {
				fmt.Fprintln(os.Stderr, "lab-storage:", err)
			}
		}()
	}
}

// catchUp lets the satellite deploy what the node has missed; one that a test
// has disconnected stays so.
func (d *daemon) catchUp(node string, returns bool) error {
	if returns {
		return d.controller.SetOnline(node, true)
	}
	for _, n := range d.controller.State().Nodes {
		if n.Name == node && n.Online {
			return d.controller.FullSync(node)
		}
	}
	return nil
}

// reset ends the faults of everything but nodes that are powered off.
func (d *daemon) reset() error {
	d.cluster.Heal()
	for _, n := range d.controller.State().Nodes {
		d.cluster.Unpause(n.Name)
	}
	if err := d.rest.up(); err != nil {
		return err
	}
	d.mu.Lock()
	awaited := maps.Clone(d.awaited)
	d.mu.Unlock()
	return d.controller.Reset(awaited)
}

func (d *daemon) controllerState(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("state") {
	case "down":
		var in struct {
			Mode control.DownMode `json:"mode"`
		}
		if !linstor.Question(w, r, &in) {
			return
		}
		if in.Mode == control.DownHang {
			d.controller.SetHanging(true)
		} else {
			d.rest.down()
		}
		linstor.Answer(w, nil, nil)
	case "up":
		d.controller.SetHanging(false)
		linstor.Answer(w, nil, d.rest.up())
	default:
		http.NotFound(w, r)
	}
}

func (d *daemon) node(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("node")
	if !slices.ContainsFunc(d.controller.State().Nodes, func(n control.Node) bool { return n.Name == name }) {
		http.Error(w, fmt.Sprintf("unknown node %q", name), http.StatusNotFound)
		return
	}
	switch r.PathValue("action") {
	case "power-off":
		// DRBD first: a satellite that goes offline a little later is what a
		// controller sees of a real power failure.
		d.cluster.PowerOff(name)
		d.mu.Lock()
		d.awaited[name] = true
		d.mu.Unlock()
		linstor.Answer(w, nil, d.controller.SetOnline(name, false))
	case "power-on":
		d.cluster.PowerOn(name)
		linstor.Answer(w, nil, nil)
	case "pause":
		d.cluster.Pause(name)
		linstor.Answer(w, nil, nil)
	case "unpause":
		d.cluster.Unpause(name)
		linstor.Answer(w, nil, nil)
	default:
		http.NotFound(w, r)
	}
}

func (d *daemon) network(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("action") {
	case "partition":
		var in struct {
			Sets [][]string `json:"sets"`
		}
		if !linstor.Question(w, r, &in) {
			return
		}
		d.cluster.Partition(in.Sets...)
	case "heal":
		d.cluster.Heal()
	default:
		http.NotFound(w, r)
		return
	}
	linstor.Answer(w, nil, nil)
}

func (d *daemon) disk(w http.ResponseWriter, r *http.Request) {
	node, resource := r.PathValue("node"), r.PathValue("resource")
	volume, err := strconv.Atoi(r.PathValue("volume"))
	if err != nil {
		http.Error(w, "volume: "+err.Error(), http.StatusBadRequest)
		return
	}
	switch r.PathValue("action") {
	case "fail":
		err = d.cluster.DetachDisk(node, resource, volume)
	case "restore":
		err = d.cluster.AttachDisk(node, resource, volume)
	case "state":
		var in struct {
			State drbd.DiskState `json:"state"`
		}
		if !linstor.Question(w, r, &in) {
			return
		}
		err = d.cluster.SetDiskState(node, resource, volume, in.State)
	default:
		http.NotFound(w, r)
		return
	}
	linstor.Answer(w, nil, err)
}
