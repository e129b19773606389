package reconnector

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// These tests work in network namespaces of their own, on the real kernel, and
// need root as others of this repository do.

// namespace is a network namespace that ends with the test.
type namespace struct {
	t      *testing.T
	handle netns.NsHandle
}

func newNamespace(t *testing.T) namespace {
	t.Helper()
	n := namespace{t: t}
	onThread(func() {
		var err error
		if n.handle, err = netns.New(); err != nil {
			t.Errorf("make a network namespace (needs root): %v", err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { n.handle.Close() })
	// Addresses shall be of use at once, and a SYN repeated after 1, 3 and 7 seconds
	// as by kernels before 6.5.
	n.run(`ip link set lo up
		sysctl -q -w net.ipv6.conf.default.accept_dad=0
		sysctl -q -e -w net.ipv4.tcp_syn_linear_timeouts=0`)
	return n
}

// onThread runs f on a thread that ends with it.
func onThread(f func()) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread must not be used again
		f()
	})
	done.Wait()
}

// do runs f on a thread in the namespace.
func (n namespace) do(f func()) {
	n.t.Helper()
	var err error
	onThread(func() {
		if err = netns.Set(n.handle); err == nil {
			f()
		}
	})
	if err != nil {
		n.t.Fatalf("enter a network namespace: %v", err)
	}
}

// run runs commands, one a line, in the namespace.
func (n namespace) run(commands string) {
	n.t.Helper()
	for line := range strings.Lines(commands) {
		arguments := strings.Fields(line)
		if len(arguments) == 0 {
			continue
		}
		var output []byte
		var err error
		n.do(func() {
			output, err = exec.CommandContext(n.t.Context(), arguments[0], arguments[1:]...).CombinedOutput()
		})
		if err != nil {
			n.t.Fatalf("%s: %v\n%s", strings.TrimSpace(line), err, output)
		}
	}
}

// protocol is one version of IP in the laboratory of these tests.
type protocol struct {
	name     string
	iptables string
	service  netip.AddrPort
	servers  map[string]netip.AddrPort
}

const serverPort = 20490

var protocols = []protocol{
	{"IPv4", "iptables-legacy", netip.MustParseAddrPort("10.96.0.7:2049"), map[string]netip.AddrPort{
		"a": netip.MustParseAddrPort("10.11.0.2:20490"), "b": netip.MustParseAddrPort("10.12.0.2:20490")}},
	{"IPv6", "ip6tables-legacy", netip.MustParseAddrPort("[fd00:96::7]:2049"), map[string]netip.AddrPort{
		"a": netip.MustParseAddrPort("[fd00:11::2]:20490"), "b": netip.MustParseAddrPort("[fd00:12::2]:20490")}},
}

// laboratory is a node with two servers a and b behind one Service.
type laboratory struct {
	protocol
	t       *testing.T
	node    namespace
	servers map[string]namespace
	kernel  *Kernel
}

// newLaboratory connects the namespaces. The Service leads nowhere yet.
func newLaboratory(t *testing.T, p protocol) *laboratory {
	t.Helper()
	l := &laboratory{protocol: p, t: t, node: newNamespace(t), servers: map[string]namespace{}}
	for number, name := range map[int]string{11: "a", 12: "b"} {
		server := newNamespace(t)
		l.servers[name] = server
		l.node.run(fmt.Sprintf("ip link add to-%s type veth peer name %s-end", name, name))
		l.node.do(func() { moveLink(t, name+"-end", server.handle) })
		l.node.run(fmt.Sprintf(`ip link set to-%[2]s up
			ip address add 10.%[1]d.0.1/24 dev to-%[2]s
			ip address add fd00:%[1]d::1/64 dev to-%[2]s nodad`, number, name))
		server.run(fmt.Sprintf(`ip link set %[2]s-end up
			ip address add 10.%[1]d.0.2/24 dev %[2]s-end
			ip address add fd00:%[1]d::2/64 dev %[2]s-end nodad
			ip route add default via 10.%[1]d.0.1
			ip route add default via fd00:%[1]d::1`, number, name))
		l.listen(name)
	}
	// As on a node: the way to a Service's address does not matter.
	l.node.run(`ip route add default via 10.11.0.2
		ip route add default via fd00:11::2`)
	l.node.do(func() {
		var err error
		if l.kernel, err = OpenKernel(); err != nil {
			t.Errorf("open the kernel: %v", err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(l.kernel.Close)
	return l
}

func moveLink(t *testing.T, link string, to netns.NsHandle) {
	output, err := exec.CommandContext(t.Context(), "ip", "link", "set", link, "netns", fmt.Sprintf("/proc/%d/fd/%d", unix.Getpid(), int(to))).CombinedOutput()
	if err != nil {
		t.Errorf("move %s: %v %s", link, err, output)
	}
}

// listen makes the server tell its name to everyone who connects, and answer
// every line with it.
func (l *laboratory) listen(name string) {
	l.t.Helper()
	var listener net.Listener
	var err error
	l.servers[name].do(func() { listener, err = net.Listen("tcp", fmt.Sprintf(":%d", serverPort)) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				fmt.Fprintln(connection, name)
				for lines := bufio.NewScanner(connection); lines.Scan(); {
					fmt.Fprintln(connection, name)
				}
			}()
		}
	}()
}

// lead makes the Service lead to a server, as kube-proxy does.
func (l *laboratory) lead(server string) {
	l.t.Helper()
	l.node.run(fmt.Sprintf("%s -t nat -F OUTPUT\n%s -t nat -A OUTPUT -d %s -p tcp --dport %d -j DNAT --to-destination %s",
		l.iptables, l.iptables, l.service.Addr(), l.service.Port(), l.protocol.servers[server]))
}

// silence makes a server as silent as a dead machine.
func (l *laboratory) silence(server string) {
	l.t.Helper()
	l.servers[server].run(l.iptables + " -I INPUT -p tcp -j DROP")
}

// connection is one that a client on the node has.
type connection struct {
	net.Conn
	lines *bufio.Scanner
}

// connect connects and returns the name of the server that answers.
func (l *laboratory) connect(to netip.AddrPort, patience time.Duration) (c connection, server string, err error) {
	l.t.Helper()
	l.node.do(func() { c.Conn, err = net.DialTimeout("tcp", to.String(), patience) })
	if err != nil {
		return c, "", err
	}
	l.t.Cleanup(func() { c.Close() })
	c.lines = bufio.NewScanner(c.Conn)
	server, err = c.read(patience)
	return c, server, err
}

// mustConnect connects and wants to be answered by a certain server.
func (l *laboratory) mustConnect(to netip.AddrPort, want string) connection {
	l.t.Helper()
	c, server, err := l.connect(to, 5*time.Second)
	if err != nil || server != want {
		l.t.Fatalf("connected to %v: %q, %v; want %q", to, server, err, want)
	}
	return c
}

func (c connection) local() netip.AddrPort {
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

func (c connection) read(patience time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if !c.lines.Scan() {
		return "", c.lines.Err()
	}
	return c.lines.Text(), nil
}

// ask sends a line and returns the answer.
func (c connection) ask() (string, error) {
	if _, err := fmt.Fprintln(c, "?"); err != nil {
		return "", err
	}
	return c.read(5 * time.Second)
}
