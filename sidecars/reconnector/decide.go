package reconnector

import (
	"net/netip"
	"time"
)

const (
	// reconnectPause is how long the kernel's NFS client waits before it connects
	// again when a connection that was not yet established is taken from it
	// (XS_TCP_INIT_REEST_TO in net/sunrpc/xprtsock.c). An established one it replaces
	// at once.
	reconnectPause = 3 * time.Second
	// unknownPatience is how long after a move a connection may stay of which
	// nobody knows where it leads. Until then whatever translates addresses has
	// learned of the move.
	unknownPatience = time.Second
)

// Reason says why a connection is stale.
type Reason string

// The values of Reason.
const (
	// Translated: its packets are sent to another address than the export's server.
	Translated Reason = "Translated"
	// FormerEndpoint: its peer itself is a former address of the export's server:
	// Services are translated when a socket is connected.
	FormerEndpoint Reason = "FormerEndpoint"
	// EndpointChanged: it is older than the move, and where its packets are sent is
	// not known.
	EndpointChanged Reason = "EndpointChanged"
)

// facts are what is known of one socket that a client of an export has.
type facts struct {
	Socket Socket
	// Endpoint is where the export is served; invalid: nowhere.
	Endpoint netip.AddrPort
	// AtService: the peer is the export's Service; otherwise it was its endpoint.
	AtService bool
	// LeadsTo is where its packets are sent; invalid: unknown.
	LeadsTo netip.AddrPort
	// Misled: new connections to the Service are still sent elsewhere than to
	// Endpoint, or refused.
	Misled bool
	// Older: the socket was established before the export moved.
	Older bool
	// SinceMove is how long ago the endpoint changed.
	SinceMove time.Duration
}

// decision is what is done to one socket.
type decision struct {
	Destroy bool   // the socket
	Forget  bool   // its translation
	Reason  Reason // empty: nothing is done
}

// decide says whether a socket is stale, and what brings its client to the
// export's server soonest.
func decide(f facts) decision {
	switch {
	case !f.Endpoint.IsValid():
		return decision{} // the server may come back where it was
	case f.Socket.Remote == f.Endpoint || f.LeadsTo == f.Endpoint:
		return decision{} // also while it connects: a SYN is repeated after a second
	case f.Misled:
		return decision{} // its client would only be tied to the old address again
	case !f.AtService:
		return decision{Destroy: true, Reason: FormerEndpoint}
	case f.LeadsTo.IsValid():
		return decision{Destroy: !repeatsSoon(f.Socket), Forget: true, Reason: Translated}
	case f.Older && f.Socket.State == Established && f.SinceMove >= unknownPatience:
		return decision{Destroy: true, Reason: EndpointChanged}
	}
	return decision{}
}

// repeatsSoon says whether the socket's next SYN, which will be translated anew,
// comes before the client would connect again if it lost the socket.
func repeatsSoon(s Socket) bool {
	return s.State == SynSent && s.Repeats > 0 && s.Repeats <= reconnectPause
}
