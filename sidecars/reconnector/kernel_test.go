package reconnector

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKernelCanDestroyAndTranslate(t *testing.T) {
	l := newLaboratory(t, protocols[0])
	if err := l.kernel.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestSocketsAreFoundByTheirRemote(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			l := newLaboratory(t, p)
			l.lead("a")
			wanted := l.mustConnect(l.service, "a")
			direct := l.mustConnect(p.servers["b"], "b")
			l.mustConnect(p.servers["a"], "a") // not asked for

			remotes := []netip.AddrPort{l.service}
			for port := range uint16(2500) { // more than one request holds
				remotes = append(remotes, netip.AddrPortFrom(l.service.Addr(), 3000+port))
			}
			remotes = append(remotes, p.servers["b"])
			sockets, err := l.kernel.List(remotes)
			if err != nil {
				t.Fatal(err)
			}
			found := map[netip.AddrPort]Socket{}
			for _, socket := range sockets {
				found[socket.Local] = socket
			}
			if len(sockets) != 2 || found[wanted.local()].Remote != l.service || found[direct.local()].Remote != p.servers["b"] {
				t.Fatalf("found %+v", sockets)
			}
			for _, socket := range sockets {
				if socket.State != Established || socket.Cookie == 0 {
					t.Errorf("got %+v", socket)
				}
			}
			// As the Services of many exports: one port, many addresses.
			services := []netip.AddrPort{l.service}
			for range 30 {
				services = append([]netip.AddrPort{netip.AddrPortFrom(services[0].Addr().Next(), l.service.Port())}, services...)
			}
			if sockets, err := l.kernel.List(services); err != nil || len(sockets) != 1 || sockets[0].Local != wanted.local() {
				t.Errorf("of the Services: %+v, %v", sockets, err)
			}
			if sockets, err := l.kernel.List(services[:30]); err != nil || len(sockets) != 0 {
				t.Errorf("of the other Services: %+v, %v", sockets, err)
			}
			if sockets, err := l.kernel.List(nil); err != nil || len(sockets) != 0 {
				t.Errorf("nothing asked: %+v, %v", sockets, err)
			}
		})
	}
}

// A socket of family IPv6 may have an IPv4 peer.
func TestIPv4MappedSocketIsFoundAndDestroyed(t *testing.T) {
	l := newLaboratory(t, protocols[0])
	l.lead("a")
	var descriptor int
	var err error
	l.node.do(func() {
		if descriptor, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0); err == nil {
			err = unix.Connect(descriptor, &unix.SockaddrInet6{Port: int(l.service.Port()), Addr: l.service.Addr().As16()})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(descriptor)
	sockets, err := l.kernel.List([]netip.AddrPort{l.service})
	if err != nil || len(sockets) != 1 || sockets[0].Remote != l.service || !sockets[0].Local.Addr().Is4() {
		t.Fatalf("found %+v, %v", sockets, err)
	}
	if translation, found, err := l.kernel.Lookup(sockets[0].Local, sockets[0].Remote); err != nil || !found || translation.To != l.protocol.servers["a"] {
		t.Errorf("translation %+v %v %v", translation, found, err)
	}
	if err := l.kernel.Destroy(sockets[0]); err != nil {
		t.Fatal(err)
	}
	if number, err := unix.GetsockoptInt(descriptor, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || number != int(unix.ECONNABORTED) {
		t.Errorf("the socket's error is %v, %v", unix.Errno(number), err)
	}
	if err := l.kernel.Destroy(sockets[0]); err != nil {
		t.Errorf("destroy again: %v", err)
	}
}

func TestTranslationIsForgottenOnlyOnce(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			l := newLaboratory(t, p)
			l.lead("a")
			c := l.mustConnect(l.service, "a")
			old, found, err := l.kernel.Lookup(c.local(), l.service)
			if err != nil || !found || old.To != p.servers["a"] {
				t.Fatalf("got %+v %v %v", old, found, err)
			}
			// The client has a new connection with the same ports when the old
			// one's translation is deleted.
			if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			from := c.local()
			c.Close()
			l.lead("b")
			var again net.Conn
			l.node.do(func() {
				again, err = (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: 5 * time.Second}).Dial("tcp", l.service.String())
			})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if err := l.kernel.Forget(old); err != nil {
				t.Fatal(err)
			}
			now, found, err := l.kernel.Lookup(from, l.service)
			if err != nil || !found || now.To != p.servers["b"] {
				t.Fatalf("the new connection's translation: %+v %v %v", now, found, err)
			}
			for range 2 {
				if err := l.kernel.Forget(now); err != nil {
					t.Fatal(err)
				}
			}
			if _, found, err := l.kernel.Lookup(from, l.service); err != nil || found {
				t.Errorf("found after it was deleted: %v %v", found, err)
			}
		})
	}
}

// An answer that is cut short or foreign must not be read beyond its end.
func TestGarbageIsNoAnswer(t *testing.T) {
	for length := range 80 {
		garbage := make([]byte, length)
		for i := range garbage {
			garbage[i] = 0xff
		}
		if _, ok := parseTranslation(garbage); ok {
			t.Errorf("%d bytes of garbage are a translation", length)
		}
		if _, ok := parseSocket(garbage); ok != (length >= diagMessageSize) {
			t.Errorf("%d bytes are a socket: %v", length, ok)
		}
	}
}

func TestKernelWithoutNetfilterIsUnsupported(t *testing.T) {
	k := &Kernel{}
	if _, _, err := k.Lookup(protocols[0].service, protocols[0].service); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}
