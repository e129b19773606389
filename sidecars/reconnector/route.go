package reconnector

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Route is where a new connection is sent.
type Route struct {
	// Known is false where connection tracking does not tell.
	Known bool
	// To is the address that would answer; invalid: the connection is refused.
	To netip.AddrPort
}

// Route tries where a new connection to remote is sent now: it begins one in the
// network namespace of the calling thread, which must be the opened one, asks
// connection tracking and gives it up. It does not wait for an answer, and a server
// sees at the most a connection that is reset before it is complete.
func (k *Kernel) Route(remote netip.AddrPort) (Route, error) {
	route, err := k.route(remote)
	if err != nil {
		return Route{}, fmt.Errorf("try the way to %v: %w", remote, err)
	}
	return route, nil
}

func (k *Kernel) route(remote netip.AddrPort) (Route, error) {
	family := unix.AF_INET6
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(remote.Port()), Addr: remote.Addr().As16()}
	if remote.Addr().Is4() {
		family = unix.AF_INET
		to = &unix.SockaddrInet4{Port: int(remote.Port()), Addr: remote.Addr().As4()}
	}
	socket, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return Route{}, err
	}
	defer unix.Close(socket)
	// Closed by a reset, should the server have been so quick.
	if err := unix.SetsockoptLinger(socket, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return Route{}, err
	}
	err = unix.Connect(socket, to)
	if isErrno(err, unix.ECONNREFUSED) {
		return Route{Known: true}, nil
	}
	if err != nil && !isErrno(err, unix.EINPROGRESS) {
		return Route{}, err
	}
	from, err := localAddress(socket)
	if err != nil {
		return Route{}, err
	}
	translation, found, err := k.Lookup(from, remote)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return Route{}, nil
	case err != nil:
		return Route{}, err
	case found:
		// Left behind, it would mislead the next one with the same port.
		return Route{Known: true, To: translation.To}, k.Forget(translation)
	}
	// An entry is deleted when its connection is refused.
	number, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ERROR)
	return Route{Known: number == int(unix.ECONNREFUSED)}, err
}

func localAddress(socket int) (netip.AddrPort, error) {
	address, err := unix.Getsockname(socket)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch address := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(address.Addr), uint16(address.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(address.Addr), uint16(address.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("a socket has the address %v", address)
}
