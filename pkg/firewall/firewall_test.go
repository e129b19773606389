package firewall

import (
	"context"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
)

func TestAllowedClientsSeemToHaveOneAddress(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		n.newFirewall(t).apply(t, n.export(near, far))
		n.serve(t, "", port)
		for _, member := range []string{near, far} {
			c := n.mustConnect(t, member)
			if c.seen.Addr().Unmap() != n.version.clientAddress() {
				t.Errorf("%s seems to come from %s", member, c.seen)
			}
			ok(t, c.talk(patience))
		}
	})
}

func TestClientsWithTheSamePortDoNotClash(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		n.newFirewall(t).apply(t, n.export(near, far))
		n.serve(t, "", port)
		// From ports as the kernel's NFS client uses them.
		const localPort = 700
		first, err := n.connect(t, near, localPort, port)
		ok(t, err)
		second, err := n.connect(t, far, localPort, port)
		ok(t, err)
		ok(t, first.talk(patience))
		ok(t, second.talk(patience))
		if first.seen == second.seen {
			t.Errorf("both seem to come from %s", first.seen)
		}
		for _, c := range []*client{first, second} {
			if c.seen.Port() < clientPortMin {
				t.Errorf("a client seems to come from %s", c.seen)
			}
		}
	})
}

func TestManyClientsWithTheSamePortAllConnect(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		// More than the kernel could translate to ports below 1024.
		const clients = 600
		n.newFirewall(t).apply(t, n.export(near, far))
		n.serve(t, "", port)
		for i := range clients / 2 {
			for _, member := range []string{near, far} {
				c, err := n.connect(t, member, 600+i, port)
				ok(t, err)
				if c.seen.Addr().Unmap() != n.version.clientAddress() || c.seen.Port() < clientPortMin {
					t.Fatalf("a client seems to come from %s", c.seen)
				}
			}
		}
	})
}

func TestOthersAreRefusedAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		export, nobodys := n.export(near), Export{Port: port + 1}
		others := Export{Port: port + 2, Clients: []netip.Prefix{n.prefixOf(stranger)}}
		n.newFirewall(t).apply(t, export, nobodys, others)
		for _, p := range []int{port, port + 1, port + 2, port + 3} {
			n.serve(t, "", p)
		}
		n.mustBeRefused(t, stranger, port)
		n.mustBeRefused(t, near, port+1)
		n.mustBeRefused(t, near, port+2)
		n.mustBeRefused(t, near, port+3) // no export has it
		n.mustConnect(t, near)
	})
}

func TestPortsOfOthersAreLeftAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		rules := rulesFor(n.export(near))
		ok(t, n.newFirewall(t).try(t, rules))
		for _, p := range []uint16{rules.PortMin - 1, rules.PortMax + 1} {
			n.serve(t, "", int(p))
			c, err := n.connect(t, stranger, 0, int(p))
			ok(t, err)
			if c.seen.Addr().Unmap() != n.prefixOf(stranger).Addr() {
				t.Errorf("the client seems to come from %s", c.seen)
			}
		}
	})
}

func TestPrefixAdmitsWhoIsInIt(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		f := n.newFirewall(t)
		n.serve(t, "", port)
		// The last bit tells far from stranger.
		pair := netip.PrefixFrom(n.prefixOf(far).Addr(), n.prefixOf(far).Bits()-1)
		f.apply(t, Export{Port: port, Clients: []netip.Prefix{pair}})
		n.mustConnect(t, far)
		n.mustConnect(t, stranger)
		n.mustBeRefused(t, near, port)
		all := netip.PrefixFrom(n.prefixOf(far).Addr(), 0)
		f.apply(t, Export{Port: port, Clients: []netip.Prefix{pair, all}})
		n.mustConnect(t, near)
	})
}

func TestRemovedClientLosesItsConnection(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		f := n.newFirewall(t)
		f.apply(t, n.export(near, far))
		n.serve(t, "", port)
		removed, stays := n.mustConnect(t, near), n.mustConnect(t, far)
		f.apply(t, n.export(far))
		if err := removed.talk(patience); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the removed client got %v", err)
		}
		ok(t, stays.talk(patience))
		n.mustBeRefused(t, near, port)
	})
}

func TestSilentPortLetsAClientWaitForTheServer(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		export := n.export(near)
		export.Silent = true
		n.newFirewall(t).apply(t, export)
		connected := make(chan error)
		go func() {
			_, err := n.connect(t, near, 0, port)
			connected <- err
		}()
		select {
		case err := <-connected:
			t.Fatalf("without a server the client got %v", err)
		case <-time.After(500 * time.Millisecond):
		}
		n.serve(t, "", port)
		ok(t, <-connected)
	})
}

func TestSilenceIsOnlyForSilentPortsAndClients(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		silent, loud := n.export(near), n.export(near)
		silent.Silent = true
		loud.Port++
		n.newFirewall(t).apply(t, silent, loud)
		// Nobody listens anywhere.
		n.mustBeRefused(t, near, port+1)
		n.mustBeRefused(t, stranger, port)
		if _, err := n.connectTo(t, near, 0, n.address(pod), port, 1500*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) && !os.IsTimeout(err) {
			t.Errorf("the client got %v", err)
		}
		if _, err := n.connectTo(t, pod, 0, n.loopback(), port, patience); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the pod got %v", err)
		}
	})
}

// A server that is replaced in place: its connections break off unseen, and the
// new one does not know them.
func TestSilentPortResetsConnectionsOfTheServerBefore(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		f := n.newFirewall(t)
		export := n.export(near)
		export.Silent = true
		f.apply(t, export)
		server := n.serve(t, "", port)
		c := n.mustConnect(t, near)

		export.Frozen = true
		f.apply(t, export)
		ok(t, server.last.Load().SetLinger(0))
		ok(t, server.last.Load().Close())
		ok(t, server.Close())
		n.mustNotHear(t, c)

		export.Frozen = false
		f.apply(t, export)
		if err := c.talk(patience); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the client got %v", err)
		}
	})
}

// mustNotHear fails if anything comes from the server.
func (n *network) mustNotHear(t *testing.T, c *client) {
	t.Helper()
	if line, err := c.readLine(500 * time.Millisecond); !os.IsTimeout(err) {
		t.Fatalf("the client got %q, %v", line, err)
	}
}

func TestFrozenPortIsASlowServer(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		f := n.newFirewall(t)
		f.apply(t, n.export(near))
		n.serve(t, "", port)
		c := n.mustConnect(t, near)
		frozen := n.export(near)
		frozen.Frozen = true
		f.apply(t, frozen)
		if err := c.talk(500 * time.Millisecond); !os.IsTimeout(err) {
			t.Errorf("the client got %v", err)
		}
		if _, err := n.connectTo(t, near, 0, n.address(pod), port, 500*time.Millisecond); !os.IsTimeout(err) {
			t.Errorf("a new client got %v", err)
		}
		// A probe in the pod still sees the server.
		_, err := n.connectTo(t, pod, 0, n.loopback(), port, patience)
		ok(t, err)
		f.apply(t, n.export(near))
		line, err := c.readLine(patience)
		if err != nil || line != "hello" {
			t.Errorf("then the client got %q, %v", line, err)
		}
	})
}

func TestPodReachesItsOwnServers(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		// The pod is nobody's client.
		n.newFirewall(t).apply(t, n.export(near))
		n.serve(t, "", port)
		for address, seen := range map[string]string{
			n.address(pod): n.version.clientAddress().String(),
			n.loopback():   n.loopback(),
		} {
			c, err := n.connectTo(t, pod, 0, address, port, patience)
			ok(t, err)
			ok(t, c.talk(patience))
			if c.seen.Addr().Unmap().String() != seen {
				t.Errorf("to %s the pod seems to come from %s", address, c.seen)
			}
		}
	})
}

var changes = flag.Int("changes", 50, "how often the rules change during the transfer")

func TestChangesNeitherDisturbATransferNorOpenAWindow(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		f := n.newFirewall(t)
		f.apply(t, n.export(near))
		n.serve(t, "", port)
		n.serve(t, "", port+1)
		c := n.mustConnect(t, near)

		var wait sync.WaitGroup
		stop := make(chan struct{})
		stopped := func() bool {
			select {
			case <-stop:
				return true
			default:
				return false
			}
		}
		ok(t, c.SetDeadline(time.Now().Add(patience+time.Duration(*changes)*time.Second)))
		var sent, received int64
		wait.Go(func() {
			chunk := make([]byte, 1<<16)
			for !stopped() {
				count, err := c.Write(chunk)
				sent += int64(count)
				if err != nil {
					t.Errorf("send: %v", err)
					return
				}
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("end the transfer: %v", err)
			}
		})
		wait.Go(func() {
			// The server ends when it has repeated everything.
			var err error
			if received, err = io.Copy(io.Discard, c.reader); err != nil {
				t.Errorf("receive: %v", err)
			}
		})
		attempts := 0
		wait.Go(func() {
			for ; !stopped(); attempts++ {
				if _, err := n.connect(t, stranger, 0, port); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("the stranger got %v", err)
					return
				}
			}
		})
		for i := range *changes {
			other := Export{Port: port + 1, Clients: []netip.Prefix{n.prefixOf(far)}, Silent: i%2 == 0, Frozen: i%5 == 0}
			export := n.export(near)
			if i%3 == 0 {
				export = n.export(near, far)
			}
			export.Silent = i%2 == 0
			f.apply(t, []Export{export, other}[:1+i%2]...)
		}
		close(stop)
		wait.Wait()
		t.Logf("%d bytes, %d attempts of the stranger", received, attempts)
		if received != sent || attempts < 10 || sent < 1<<20 {
			t.Errorf("%d of %d bytes came back, while the stranger tried %d times", received, sent, attempts)
		}
	})
}

func TestRestartTakesOverTheRules(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		many := n.export(near)
		many.Silent = true
		n.newFirewall(t).apply(t, many, Export{Port: port + 1, Clients: []netip.Prefix{n.prefixOf(far)}})
		n.serve(t, "", port)
		c := n.mustConnect(t, near)

		again := n.newFirewall(t)
		// The new process has not said anything yet: the old rules hold.
		n.mustBeRefused(t, stranger, port)
		again.apply(t, n.export(near, stranger))
		ok(t, c.talk(patience))
		n.mustConnect(t, stranger)
		n.mustBeRefused(t, far, port)
		if n.backend == "iptables-legacy" {
			rules := n.run(t, program(n.version, "save"))
			if jumps := strings.Count(rules, "-A INPUT -j LINSTOR-RWX-INPUT\n"); jumps != 1 {
				t.Errorf("%d rules lead to ours", jumps)
			}
			if strings.Contains(rules, "CLIENTS-1") || strings.Contains(rules, legacyTryPrefix) {
				t.Errorf("something is left:\n%s", rules)
			}
		}
	})
}

func TestAnotherBackEndTakesOver(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		n.newFirewall(t).apply(t, n.export(near))
		n.serve(t, "", port)
		c := n.mustConnect(t, near)

		other := map[string]string{"nf_tables": "iptables-legacy", "iptables-legacy": "nf_tables"}[n.backend]
		f := n.newFirewallBy(t, candidate(other, utilexec.New()), candidate(n.backend, utilexec.New()))
		if f.firewall.Name() != other {
			t.Fatalf("%s was chosen", f.firewall.Name())
		}
		f.apply(t, n.export(near, stranger))
		ok(t, c.talk(patience))
		if c := n.mustConnect(t, stranger); c.seen.Addr().Unmap() != n.version.clientAddress() {
			t.Errorf("the client seems to come from %s", c.seen)
		}
		n.mustBeRefused(t, far, port)
	})
}

func TestRulesAreWrittenAgainWhenSomebodyRemovedThem(t *testing.T) {
	everywhere(t, func(t *testing.T, n *network) {
		f := n.newFirewall(t)
		f.apply(t, n.export(near))
		n.serve(t, "", port)
		if n.backend == "nf_tables" {
			ok(t, n.in(t, pod, func() error { return (&nfTables{}).remove(t.Context()) }))
		} else {
			n.run(t, strings.TrimSuffix(program(n.version, "save"), "-save"), "--delete", "INPUT", "--jump", "LINSTOR-RWX-INPUT")
		}
		if _, err := n.connect(t, stranger, 0, port); err != nil {
			t.Fatalf("without rules the stranger got %v", err)
		}
		f.apply(t, n.export(near))
		n.mustBeRefused(t, stranger, port)
	})
}
