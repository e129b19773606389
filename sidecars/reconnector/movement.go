package reconnector

import (
	"maps"
	"net/netip"
	"time"
)

const (
	// urgentPeriod is how long after a change connections are looked at every
	// urgentPause: kube-proxy changes its rules up to a second later, and a client
	// that connects before that is tied to the old address.
	urgentPeriod = 3 * time.Second
	urgentPause  = 100 * time.Millisecond
	// watchPeriod is how long they are looked at every watchPause. Nobody looks
	// afterwards, unless somebody waits for kube-proxy.
	watchPeriod = 15 * time.Second
	watchPause  = time.Second
	// misledPeriod is how long clients wait for kube-proxy at the most.
	misledPeriod = 2 * time.Minute
)

// movement is the last change of one export's endpoint. A new change makes a new
// movement; only misled and older change, and only the looks use them.
type movement struct {
	// endpoint is where the export is served; invalid: nowhere.
	endpoint netip.AddrPort
	// latest is where it was served at last; the same as endpoint if it is valid.
	latest netip.AddrPort
	// changed is when the endpoint became what it is.
	changed time.Time
	// moved: it was another one before, not none or unknown.
	moved bool
	// former are earlier endpoints, and when they were left.
	former map[netip.AddrPort]time.Time
	// misled: the last look found clients that cannot be helped yet, because new
	// connections are still sent elsewhere.
	misled bool
	// older are the cookies of the connections that were there at the first look
	// after the export has moved, and of which it is not known where they lead; nil
	// before that look.
	older map[uint64]bool
}

// follow returns the movement after old, which may be nil, when the endpoint is
// seen to be endpoint; nil if that is nothing new.
func follow(old *movement, endpoint netip.AddrPort, now time.Time) *movement {
	if old == nil {
		old = &movement{}
	}
	if endpoint == old.endpoint {
		return nil
	}
	next := &movement{endpoint: endpoint, latest: endpoint, changed: now, former: maps.Clone(old.former)}
	if next.former == nil {
		next.former = map[netip.AddrPort]time.Time{}
	}
	if !endpoint.IsValid() {
		next.latest = old.latest
		return next
	}
	if old.latest.IsValid() && old.latest != endpoint {
		next.moved = true
		next.former[old.latest] = now
	}
	delete(next.former, endpoint)
	maps.DeleteFunc(next.former, func(_ netip.AddrPort, left time.Time) bool { return now.Sub(left) > watchPeriod })
	return next
}

// pause is how long to wait for the next look at the export's connections; 0:
// none is due.
func (m *movement) pause(now time.Time) time.Duration {
	switch age := now.Sub(m.changed); {
	case !m.endpoint.IsValid() || age >= misledPeriod || age >= watchPeriod && !m.misled:
		return 0
	case age >= urgentPeriod:
		return watchPause
	}
	return urgentPause
}

// isOlder says whether the connection is one of those that were there before the
// export moved. The first look after the move finds them all.
func (m *movement) isOlder(cookie uint64, first bool) bool {
	if !m.moved {
		return false
	}
	if first {
		m.older[cookie] = true
	}
	return m.older[cookie]
}
