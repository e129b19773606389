package drbd

import "sync"

// eventQueue hands events to subscribers, each in order from its own
// goroutine, without ever holding up the Cluster.
type eventQueue struct {
	mu     sync.Mutex
	subs   map[*subscription]struct{}
	closed bool
}

type subscription struct {
	wake   *sync.Cond
	events []Event
	ended  bool
}

func newEventQueue() *eventQueue {
	return &eventQueue{subs: map[*subscription]struct{}{}}
}

func (q *eventQueue) add(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for s := range q.subs {
		s.events = append(s.events, e)
		s.wake.Signal()
	}
}

func (q *eventQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for s := range q.subs {
		s.ended = true
		s.wake.Signal()
	}
}

// Subscribe calls back for each event from now on, in order, from one
// goroutine; the callback may call the Cluster. cancel ends it; a callback
// that runs then is not waited for.
func (c *Cluster) Subscribe(callback func(Event)) (cancel func()) {
	q := c.subscribers
	s := &subscription{wake: sync.NewCond(&q.mu)}
	q.mu.Lock()
	s.ended = q.closed
	q.subs[s] = struct{}{}
	q.mu.Unlock()
	go func() {
		for {
			q.mu.Lock()
			for len(s.events) == 0 && !s.ended {
				s.wake.Wait()
			}
			if s.ended {
				delete(q.subs, s)
				q.mu.Unlock()
				return
			}
			events := s.events
			s.events = nil
			q.mu.Unlock()
			for _, e := range events {
				callback(e)
			}
		}
	}()
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		s.ended = true
		s.wake.Signal()
	}
}
