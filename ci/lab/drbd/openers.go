package drbd

import (
	"context"
	"fmt"
	"sort"
	"time"
)

// devices lists the replica's devices by volume number.
func (r *replica) devices() []Device {
	var devices []Device
	for number := range r.disks {
		if v := r.res.volumes[number]; v != nil {
			devices = append(devices, Device{Resource: r.res.name, Volume: number, Minor: v.minor, SizeBytes: v.size})
		}
	}
	sort.Slice(devices, func(i, j int) bool { return devices[i].Volume < devices[j].Volume })
	return devices
}

// firstOpener looks who has a device of the replica open and describes the
// first in DRBD's words; "" when nobody has. A node that does not answer
// counts as nobody for `secondary`, but as somebody for a forced demotion
// (cautious), which waits until it is known.
func (c *Cluster) firstOpener(ctx context.Context, r *replica, cautious bool) string {
	devices := r.devices()
	found, err := c.openers(ctx, r)
	text := ""
	for _, device := range devices {
		openers := found[device.Volume]
		if text == "" && len(openers) > 0 {
			since := openers[0].Since
			if since.IsZero() {
				since = time.Now()
			}
			text = fmt.Sprintf("drbd%d opened by %s (pid %d) at %s", device.Minor, openers[0].Name, openers[0].PID, since.UTC().Format("2006-01-02 15:04:05.000"))
		}
	}
	if text == "" && err != nil && cautious {
		return "unknown"
	}
	return text
}

// openers asks the node who has the replica's devices open, by volume. With an
// error the answer is not complete.
func (c *Cluster) openers(ctx context.Context, r *replica) (map[int][]Opener, error) {
	if c.driver == nil {
		return nil, nil
	}
	devices := r.devices()
	c.mu.Unlock()
	found := map[int][]Opener{}
	var failed error
	for _, device := range devices {
		openers, err := c.driver.Openers(ctx, r.node.name, device)
		if err != nil {
			failed = err
			continue
		}
		found[device.Volume] = openers
	}
	c.mu.Lock()
	for _, device := range devices {
		if d := r.disks[device.Volume]; d != nil {
			d.open = len(found[device.Volume]) > 0
		}
	}
	return found, failed
}

// readingPeer returns a connected peer on which somebody has opened a device,
// which can only be for reading. Without one, unused are the peers that said
// that nobody has.
func (c *Cluster) readingPeer(ctx context.Context, r *replica) (reader *replica, unused map[*replica]bool) {
	if c.driver == nil || r.res.options.TwoPrimaries {
		return nil, nil
	}
	var peers []*replica
	for _, l := range r.links {
		if peer := r.res.replicas[l.peer]; l.state == stateConnected && c.linkHolds(r, l) && !peer.forceIO {
			peers = append(peers, peer)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	unused = map[*replica]bool{}
	for _, peer := range peers {
		found, err := c.openers(ctx, peer)
		for _, openers := range found {
			if len(openers) > 0 {
				return peer, nil
			}
		}
		unused[peer] = err == nil
	}
	return nil, unused
}

// flush drops what the node remembers of an earlier Primary time.
func (c *Cluster) flush(ctx context.Context, r *replica) error {
	if c.driver == nil {
		return nil
	}
	devices := r.devices()
	c.mu.Unlock()
	defer c.mu.Lock()
	for _, device := range devices {
		if err := c.driver.Flush(ctx, r.node.name, device); err != nil {
			return fmt.Errorf("flush %s/%d on %s: %w", device.Resource, device.Volume, r.node.name, err)
		}
	}
	return nil
}
