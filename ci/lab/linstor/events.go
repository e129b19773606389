package linstor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

type promotionEvent struct {
	ResourceName string `json:"resource_name"`
	NodeName     string `json:"node_name"`
	MayPromote   bool   `json:"may_promote"`
}

// replicationEvent takes in what DRBD's events2 tells the satellites. Role
// changes become known after the in-use delay; an offline satellite's never.
func (c *Controller) replicationEvent(e drbd.Event) {
	c.mu.Lock()
	delay := c.inUseDelay
	c.mu.Unlock()
	switch e.Kind {
	case drbd.EventInUse:
		time.AfterFunc(delay, func() { c.setInUse(e) })
	case drbd.EventMayPromote:
		time.AfterFunc(delay, func() { c.tellPromotion(e) })
	}
}

func (c *Controller) setInUse(e drbd.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd := c.definitions[e.Resource]
	if c.closed || rd == nil || rd.resources[e.Node] == nil || !c.online(e.Node) {
		return
	}
	r := rd.resources[e.Node]
	r.inUse = e.Yes
	if !e.Yes && (rd.deleted() || r.deleted()) {
		// The satellite could not take it down while it was in use.
		c.inBackground(func() { c.deploy(rd) })
	}
}

func (c *Controller) tellPromotion(e drbd.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.online(e.Node) {
		return
	}
	for stream := range c.promotions {
		select {
		case stream <- promotionEvent{ResourceName: e.Resource, NodeName: e.Node, MayPromote: e.Yes}:
		default: // a client that does not read loses events, as with the real server
		}
	}
}

// servePromotions is GET events/drbd/promotion: server-sent events, first the
// state as it is, then each change.
func (c *Controller) servePromotions(w http.ResponseWriter, r *http.Request) {
	c.routes.waitWhileHanging(r)
	flusher, ok := w.(http.Flusher)
	if !ok {
		http.Error(w, "streaming is not possible", http.StatusInternalServerError)
		return
	}
	stream := make(chan promotionEvent, 1024)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	for _, rd := range c.sortedDefinitions() {
		for _, res := range rd.sortedResources() {
			if state, err := c.replication.State(res.node, rd.name); err == nil && c.online(res.node) {
				stream <- promotionEvent{ResourceName: rd.name, NodeName: res.node, MayPromote: state.MayPromote}
			}
		}
	}
	c.promotions[stream] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.promotions, stream)
		c.mu.Unlock()
	}()

	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	flusher.Flush()
	for id := 1; ; id++ {
		select {
		case e, open := <-stream:
			if !open {
				return
			}
			data, _ := json.Marshal(e)
			if _, err := fmt.Fprintf(w, "event: may-promote-change\nid: %d\ndata: %s\n\n", id, data); err != nil {
				return
			}
			flusher.Flush()
		case <-r.Context().Done():
			return
		}
	}
}
