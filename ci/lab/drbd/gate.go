package drbd

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/linbit/linstor-rwx/ci/lab/nbd"
)

// verdict is what happens to one request.
type verdict int

const (
	allow verdict = iota
	fail          // EIO
	hang          // look again after the next change of state
	open          // only after auto-promotion, or a Primary's last close
)

// judge decides about a request of a node, now. It is the rule book: nothing
// reaches the data without it.
func (c *Cluster) judge(r *replica, number int, write bool) verdict {
	d := r.disks[number]
	switch {
	case c.closed || !r.node.on || !r.node.up || d == nil:
		return fail
	case r.node.paused:
		return hang
	case r.forceIO:
		// A forced demotion releases what is suspended.
		return fail
	case r.role != Primary:
		return c.judgeSecondary(r, number, write)
	case r.suspendedUser:
		return hang
	case r.suspendedQuorum:
		return hang
	case !d.quorum && r.res.options.OnNoQuorum != OnNoQuorumSuspendIO:
		return fail
	case !d.quorum:
		return hang
	case !r.upToDate(number):
		return fail // on-no-data-accessible=io-error
	}
	for _, l := range r.links {
		if l.state != stateConnected || c.reach(r.node, c.nodes[l.peer]) {
			continue
		}
		// The peer is away and DRBD does not know yet: an acknowledgement of
		// a write, or an answer from the peer's disk, does not come.
		peerHasDisk := l.disks[number] != Diskless
		if write && peerHasDisk {
			return hang
		}
		if d.state != UpToDate && !c.readable(r, number) {
			return hang
		}
	}
	return allow
}

// readable tells whether a node without UpToDate disk reaches one.
func (c *Cluster) readable(r *replica, number int) bool {
	for _, l := range r.links {
		if l.state == stateConnected && l.disks[number] == UpToDate && c.reach(r.node, c.nodes[l.peer]) {
			return true
		}
	}
	return false
}

// mark remembers on which disks a write is missing: all that are not connected
// to the writer or detached.
func (c *Cluster) mark(writer *replica, number int, offset, length int64) {
	if own := writer.disks[number]; !own.client && own.state == Diskless {
		own.missing.add(offset, length)
	}
	for _, l := range writer.links {
		peer := writer.res.replicas[l.peer].disks[number]
		if peer == nil || peer.client {
			continue
		}
		if l.state != stateConnected || peer.state == Diskless {
			peer.missing.add(offset, length)
		}
	}
}

// export is a volume as one node's device; it implements nbd.Backend.
type export struct {
	cluster *Cluster
	replica *replica
	number  int
	volume  *volume
	epoch   int // of the node's power: requests do not survive a power-off
}

// Export returns a node's block device of a volume.
func (c *Cluster) Export(nodeName, resourceName string, number int) (nbd.Backend, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.running(nodeName, resourceName)
	if err != nil {
		return nil, err
	}
	v := r.res.volumes[number]
	if v == nil || r.disks[number] == nil {
		return nil, fmt.Errorf("volume %d of %s on %s: %w", number, resourceName, nodeName, ErrUnknown)
	}
	return &export{cluster: c, replica: r, number: number, volume: v, epoch: r.node.epoch}, nil
}

// ServeBlocks serves the exports to the nodes by NBD until ctx ends. The
// client's hello line is "node resource volume".
func (c *Cluster) ServeBlocks(ctx context.Context, listener net.Listener) error {
	return nbd.Serve(ctx, listener, func(line string) (nbd.Backend, error) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("hello %q is not \"node resource volume\"", line)
		}
		number, err := strconv.Atoi(fields[2])
		if err != nil {
			return nil, fmt.Errorf("volume number %q: %w", fields[2], err)
		}
		return c.Export(fields[0], fields[1], number)
	})
}

// pass waits until the request may be executed and executes it.
func (e *export) pass(ctx context.Context, write bool, offset, length int64, do func() error) error {
	c, r := e.cluster, e.replica
	c.mu.Lock()
	for started := false; ; {
		what := fail
		if e.epoch == r.node.epoch {
			// A flush needs no role: whatever was written is written.
			what = c.judge(r, e.number, write && (length > 0 || r.role == Primary))
		}
		if what == open {
			what = fail
			// What was written as Primary must not come again after a demotion.
			if !started && c.openSecondary(ctx, r, write && length > 0) == nil {
				continue
			}
		}
		switch what {
		case fail:
			if d := r.disks[e.number]; started && write && d != nil && !d.client {
				// It may have reached the local disk before it failed: a
				// resync will have to undo it.
				d.missing.add(offset, length)
			}
			c.mu.Unlock()
			return syscall.EIO
		case hang:
			started = started || r.role == Primary
			changed := c.changed
			c.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
			c.mu.Lock()
			continue
		}
		break
	}
	if write {
		c.mark(r, e.number, offset, length)
		r.disks[e.number].written += length
	} else {
		r.disks[e.number].read += length
	}
	r.inflight++
	r.served++
	c.mu.Unlock()

	err := do()

	c.mu.Lock()
	defer c.mu.Unlock()
	r.inflight--
	if r.inflight == 0 {
		c.wake()
	}
	return err
}

func (e *export) SizeBytes() int64 {
	e.cluster.mu.Lock()
	defer e.cluster.mu.Unlock()
	return e.volume.size
}

func (e *export) Read(ctx context.Context, p []byte, offset int64) error {
	return e.pass(ctx, false, offset, int64(len(p)), func() error {
		return e.volume.store.read(e.replica.node.name, p, offset)
	})
}

func (e *export) Write(ctx context.Context, p []byte, offset int64) error {
	return e.pass(ctx, true, offset, int64(len(p)), func() error {
		return e.volume.store.write(e.replica.node.name, p, offset)
	})
}

func (e *export) Zero(ctx context.Context, offset, length int64) error {
	return e.pass(ctx, true, offset, length, func() error {
		return e.volume.store.zero(e.replica.node.name, offset, length)
	})
}

// Flush does not reach for the machine's disk: what dies in the laboratory are
// nodes, not the machine that holds the files.
func (e *export) Flush(ctx context.Context) error {
	return e.pass(ctx, true, 0, 0, func() error { return nil })
}
