package drbd

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// autoPoll is how often an automatically promoted node is asked whether its
// device is still open.
const autoPoll = 500 * time.Millisecond

// refusalLasts is how long further reads fail at once after an attempt was
// refused: they are those of the open that the real one refuses once.
const refusalLasts = time.Second

// attempt is one try of a node to promote because of its requests; all that
// come meanwhile share its outcome.
type attempt struct {
	done chan struct{}
	err  error
}

// judgeSecondary decides about a request on a Secondary: it is proof that
// somebody has the device open, but not how.
func (c *Cluster) judgeSecondary(r *replica, number int, write bool) verdict {
	d := r.disks[number]
	switch {
	case !r.res.options.AutoPromote:
		return fail
	case c.othersPromote(r):
		return hang // whoever wins, the answer is another one then
	case write || r.otherPrimary():
		return open
	case r.stale:
		c.watchStale(r)
		return fail
	case r.suspendedUser:
		return hang
	case !d.quorum || !r.upToDate(number):
		return fail
	case (d.state != UpToDate || !d.missing.empty()) && !c.readable(r, number):
		return fail // the shared file has what the node's disk has not
	case len(c.silent(r)) > 0:
		return hang // one of them may be Primary
	}
	return allow
}

// othersPromote tells whether another node is being promoted, and this one
// not: two at once must not wait for each other.
func (c *Cluster) othersPromote(r *replica) bool {
	for _, other := range r.res.replicas {
		if other != r && other.promoting > 0 && r.connected(other) {
			return r.promoting == 0
		}
	}
	return false
}

// openSecondary does what DRBD does when a device is opened on a Secondary
// that cannot serve as it is: nil means that the request is judged again.
func (c *Cluster) openSecondary(ctx context.Context, r *replica, write bool) error {
	if !write {
		c.releasePeers(ctx, r)
		if !r.otherPrimary() {
			return nil
		}
		if time.Since(r.refused) < refusalLasts || !c.openForWriting(ctx, r) {
			return syscall.EMEDIUMTYPE
		}
	}
	if r.role == Primary {
		return nil
	}
	if r.attempt == nil {
		r.attempt = &attempt{done: make(chan struct{})}
		go c.autoPromote(r, r.attempt)
	}
	running := r.attempt
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-running.done:
		return running.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openForWriting tells whether somebody on the node has the device open so
// that the real one would have been promoted. Mounts count, read-only ones too.
func (c *Cluster) openForWriting(ctx context.Context, r *replica) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	found, _ := c.openers(ctx, r)
	for _, openers := range found {
		for _, opener := range openers {
			if !opener.ReadOnly {
				return true
			}
		}
	}
	return false
}

// autoPromote promotes by the rules of `primary`, and goes on trying for
// auto-promote-timeout.
func (c *Cluster) autoPromote(r *replica, running *attempt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var refused *StateError
	for start := time.Now(); ; {
		if r.stale {
			c.watchStale(r)
		}
		next := time.Now().Add(c.timing.PingTimeout)
		running.err = c.promote(c.lifetime, r, false, true)
		if !errors.As(running.err, &refused) || time.Since(start) >= c.timing.AutoPromoteTimeout {
			break
		}
		if c.pause(c.lifetime, time.Until(next)) != nil {
			break
		}
	}
	if r.auto {
		c.watchAuto(r)
	}
	if running.err != nil {
		r.refused = time.Now()
	}
	r.attempt = nil
	close(running.done)
}

// watchAuto demotes the node after the last close.
func (c *Cluster) watchAuto(r *replica) {
	if r.watchingAuto {
		return
	}
	r.watchingAuto = true
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for r.auto && !c.closed {
			if c.pause(c.lifetime, autoPoll) == nil {
				c.releaseAuto(c.lifetime, r)
			}
		}
		r.watchingAuto = false
	}()
}

// releasePeers demotes connected Primaries that were promoted automatically
// and that nobody has open any more: in the real one the close did that.
func (c *Cluster) releasePeers(ctx context.Context, r *replica) {
	var peers []*replica
	for _, l := range r.links {
		if peer := r.res.replicas[l.peer]; l.state == stateConnected && c.linkHolds(r, l) && peer.auto {
			peers = append(peers, peer)
		}
	}
	for _, peer := range peers {
		c.releaseAuto(ctx, peer)
	}
}

// releaseAuto demotes the node if it was promoted automatically and nobody has
// its devices open. Requests that come while it is being asked keep it Primary.
func (c *Cluster) releaseAuto(ctx context.Context, r *replica) {
	if !r.auto {
		return
	}
	served := r.served
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if c.firstOpener(ctx, r, true) != "" || c.flush(ctx, r) != nil {
		return
	}
	if !r.auto || r.inflight > 0 || r.served != served {
		return
	}
	c.becomeSecondary(r)
	r.stale = false
	c.settle(r.res)
}

// watchStale ends staleness when nobody has the device open: the kernel drops
// a device's buffers with the last close. It is started by requests that were
// refused, so it costs nothing where promotion is explicit.
func (c *Cluster) watchStale(r *replica) {
	if r.watchingStale {
		return
	}
	r.watchingStale = true
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for r.stale && !c.closed && len(r.disks) > 0 {
			if c.pause(c.lifetime, closePoll) != nil {
				break
			}
			ctx, cancel := context.WithTimeout(c.lifetime, 5*time.Second)
			if c.firstOpener(ctx, r, true) == "" {
				r.stale = false
				c.wake()
			}
			cancel()
		}
		r.watchingStale = false
	}()
}
