package drbd

import "time"

// resync is a running resync of one disk, kept by the target.
type resync struct {
	source   string
	started  time.Time
	duration time.Duration
	total    int64
	cancel   func()
}

// done is the percentage at a time.
func (s *resync) done(now time.Time) float64 {
	if s.duration <= 0 {
		return 100
	}
	return min(100, 100*float64(now.Sub(s.started))/float64(s.duration))
}

// left is what has still to be copied.
func (s *resync) left(now time.Time) int64 {
	return int64(float64(s.total) * (100 - s.done(now)) / 100)
}

// startResync makes a disk that lacks blocks copy them from a connected peer
// with UpToDate data, if there is one and none runs.
func (c *Cluster) startResync(r *replica, number int) {
	d := r.disks[number]
	if d == nil || d.client || d.sync != nil || d.missing.empty() || d.state == Diskless || r.res.held[r.node.name] {
		return
	}
	for _, l := range r.links {
		if l.state != stateConnected || l.disks[number] != UpToDate || !c.linkHolds(r, l) {
			continue
		}
		total := d.missing.bytes()
		duration := c.timing.ResyncMin
		if speed := c.timing.ResyncBytesPerSecond; speed > 0 {
			duration = max(duration, time.Duration(float64(total)/float64(speed)*float64(time.Second)))
		}
		c.beginResync(r, number, l.peer, total, duration)
		return
	}
}

// beginResync shows the bitmap exchange and then runs the resync.
func (c *Cluster) beginResync(r *replica, number int, source string, total int64, duration time.Duration) {
	d := r.disks[number]
	link, back := r.links[source], r.res.replicas[source].links[r.node.name]
	d.sync = &resync{source: source, started: time.Now(), duration: duration, total: total}
	if d.state != Inconsistent {
		d.state = Outdated
	}
	link.repl[number], back.repl[number] = "WFBitMapT", "WFBitMapS"
	c.settle(r.res)
	c.helper(r, source, "before-resync-target", number)
	d.state = Inconsistent
	link.repl[number], back.repl[number] = "SyncTarget", "SyncSource"
	c.settle(r.res)
	c.finishResync(r, number, d.sync, duration)
}

// finishResync ends the resync after a time, if it still runs then. While the
// source is silent it goes on waiting; the loss of the connection cancels it.
func (c *Cluster) finishResync(r *replica, number int, running *resync, after time.Duration) {
	running.cancel = afterFunc(after, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		d := r.disks[number]
		if c.closed || d == nil || d.sync != running {
			return
		}
		link := r.links[running.source]
		if !c.linkHolds(r, link) {
			c.finishResync(r, number, running, 500*time.Millisecond)
			return
		}
		c.helper(r, running.source, "after-resync-target", number)
		d.sync = nil
		d.missing.clear()
		d.state = UpToDate
		back := r.res.replicas[running.source].links[r.node.name]
		link.repl[number], back.repl[number] = "Established", "Established"
		c.settle(r.res)
	})
}
