package firewall

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	utilexec "k8s.io/utils/exec"
)

// These tests work on real network namespaces and need root, iproute2 and
// iptables: a fake could not show what the kernel does with the rules.

// network is a pod and some nodes on one bridge, each a network namespace.
type network struct {
	prefix  string
	version ipVersion
	backend string
}

const (
	pod      = "pod"
	near     = "near"
	far      = "far"
	stranger = "stranger"
)

// members are the last part of the members' addresses.
var members = map[string]int{pod: 2, near: 11, far: 12, stranger: 13}

var networks atomic.Int32

// address is the member's address of the network's IP version.
func (n *network) address(member string) string {
	if n.version == 4 {
		return fmt.Sprintf("10.77.0.%d", members[member])
	}
	return fmt.Sprintf("fd77::%d", members[member])
}

func (n *network) loopback() string { return map[ipVersion]string{4: "127.0.0.1", 6: "::1"}[n.version] }

func (n *network) prefixOf(member string) netip.Prefix {
	address := netip.MustParseAddr(n.address(member))
	return netip.PrefixFrom(address, address.BitLen())
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root, for network namespaces")
	}
	n := &network{prefix: fmt.Sprintf("rwx-firewall-%d-%d-", os.Getpid(), networks.Add(1)), version: 4}
	bridge := n.prefix + "bridge"
	script := []string{"netns add " + bridge}
	for member := range members {
		script = append(script, "netns add "+n.prefix+member)
	}
	t.Cleanup(func() {
		for member := range members {
			_ = exec.Command("ip", "netns", "delete", n.prefix+member).Run()
		}
		_ = exec.Command("ip", "netns", "delete", bridge).Run()
	})
	ip(t, "", script...)
	ip(t, bridge,
		"link add bridge type bridge", "link set bridge up",
		"address add 10.77.0.1/24 dev bridge", "address add fd77::1/64 dev bridge nodad")
	for member, last := range members {
		namespace := n.prefix + member
		ip(t, bridge,
			fmt.Sprintf("link add to%d type veth peer name eth0 netns %s", last, namespace),
			fmt.Sprintf("link set to%d master bridge up", last))
		ip(t, namespace,
			"link set lo up", "link set eth0 up",
			fmt.Sprintf("address add 10.77.0.%d/24 dev eth0", last),
			fmt.Sprintf("address add fd77::%d/64 dev eth0 nodad", last),
			"route add default via 10.77.0.1", "route add ::/0 via fd77::1")
	}
	return n
}

// ip runs commands of ip(8) in the namespace.
func ip(t testing.TB, namespace string, commands ...string) {
	t.Helper()
	args := []string{"-batch", "-"}
	if namespace != "" {
		args = append([]string{"-netns", namespace}, args...)
	}
	command := exec.Command("ip", args...)
	command.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("ip in %q: %v\n%s\n%s", namespace, err, strings.Join(commands, "\n"), output)
	}
}

// in runs f in the network namespace of the member.
func (n *network) in(t testing.TB, member string, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		namespace, err := os.Open("/run/netns/" + n.prefix + member)
		if err != nil {
			done <- err
			return
		}
		defer namespace.Close()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", namespace.Name(), err)
			return
		}
		done <- f()
	}()
	return <-done
}

// run runs a program in the pod.
func (n *network) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	var output []byte
	ok(t, n.in(t, pod, func() error {
		var err error
		output, err = exec.Command(program, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %v: %w: %s", program, args, err, output)
		}
		return nil
	}))
	return string(output)
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// podFirewall is a firewall in the pod's namespace.
type podFirewall struct {
	n        *network
	firewall *firewall
}

// candidate returns the back end of this name.
func candidate(name string, programs utilexec.Interface) backend {
	if name == "nf_tables" {
		return &nfTables{}
	}
	return &legacyTables{programs: programs}
}

// newFirewall returns a firewall of the network's back end, as New would if the
// kernel had no other.
func (n *network) newFirewall(t testing.TB) *podFirewall {
	t.Helper()
	return n.newFirewallBy(t, candidate(n.backend, utilexec.New()))
}

func (n *network) newFirewallBy(t testing.TB, candidates ...backend) *podFirewall {
	t.Helper()
	var f *firewall
	ok(t, n.in(t, pod, func() error {
		needed, err := neededVersions()
		if err != nil {
			return err
		}
		f, err = choose(t.Context(), candidates, needed)
		return err
	}))
	return &podFirewall{n, f}
}

func (f *podFirewall) try(t testing.TB, rules Rules) error {
	t.Helper()
	return f.n.in(t, pod, func() error { return f.firewall.Apply(t.Context(), rules) })
}

func (f *podFirewall) apply(t testing.TB, exports ...Export) {
	t.Helper()
	ok(t, f.try(t, rulesFor(exports...)))
}

func rulesFor(exports ...Export) Rules {
	return Rules{PortMin: 20490, PortMax: 20589, Exports: exports}
}

// port is that of the export in most tests.
const port = 20500

func (n *network) export(members ...string) Export {
	export := Export{Port: port}
	for _, member := range members {
		export.Clients = append(export.Clients, n.prefixOf(member))
	}
	return export
}

// everywhere runs a test for both back ends and both IP versions.
func everywhere(t *testing.T, test func(t *testing.T, n *network)) {
	for _, name := range []string{"nf_tables", "iptables-legacy"} {
		for _, version := range ipVersions {
			t.Run(fmt.Sprintf("%s/%s", name, version), func(t *testing.T) {
				n := newNetwork(t)
				n.version, n.backend = version, name
				test(t, n)
			})
		}
	}
}

// serve listens in the pod. To each client it says from which address the client
// seems to come, and then repeats what the client says until the client ends.
func (n *network) serve(t *testing.T, address string, port int) *server {
	t.Helper()
	s := &server{}
	ok(t, n.in(t, pod, func() error {
		var err error
		s.Listener, err = net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
		return err
	}))
	t.Cleanup(func() { s.Close() })
	go func() {
		for {
			connection, err := s.Accept()
			if err != nil {
				return
			}
			s.last.Store(connection.(*net.TCPConn))
			go func() {
				defer connection.Close()
				fmt.Fprintln(connection, connection.RemoteAddr())
				_, _ = io.Copy(connection, connection)
			}()
		}
	}()
	return s
}

type server struct {
	net.Listener
	// last is the connection that was accepted last.
	last atomic.Pointer[net.TCPConn]
}

// client is one end of a connection to the server.
type client struct {
	*net.TCPConn
	reader *bufio.Reader
	// seen is the address from which the server saw it come.
	seen netip.AddrPort
}

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// connect connects to the pod's address. localPort 0 is any.
func (n *network) connect(t *testing.T, member string, localPort, port int) (*client, error) {
	t.Helper()
	return n.connectTo(t, member, localPort, n.address(pod), port, patience)
}

func (n *network) connectTo(t *testing.T, member string, localPort int, address string, port int, timeout time.Duration) (*client, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	c := &client{}
	err := n.in(t, member, func() error {
		connection, err := (&net.Dialer{LocalAddr: &net.TCPAddr{Port: localPort}}).DialContext(ctx, "tcp", net.JoinHostPort(address, fmt.Sprint(port)))
		if err == nil {
			c.TCPConn = connection.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	c.reader = bufio.NewReader(c)
	line, err := c.readLine(timeout)
	if err != nil {
		return nil, err
	}
	c.seen, err = netip.ParseAddrPort(line)
	return c, err
}

func (c *client) readLine(timeout time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	line, err := c.reader.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// talk says something and waits for the answer.
func (c *client) talk(timeout time.Duration) error {
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	answer, err := c.readLine(timeout)
	if err == nil && answer != "hello" {
		return fmt.Errorf("the answer was %q", answer)
	}
	return err
}

func (n *network) mustConnect(t *testing.T, member string) *client {
	t.Helper()
	c, err := n.connect(t, member, 0, port)
	ok(t, err)
	return c
}

// mustBeRefused fails unless the member is told at once that it cannot connect.
func (n *network) mustBeRefused(t *testing.T, member string, port int) {
	t.Helper()
	start := time.Now()
	_, err := n.connect(t, member, 0, port)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("%s at port %d got %v", member, port, err)
	}
	// Without an answer the kernel would have asked again after a second.
	if took := time.Since(start); took > 900*time.Millisecond {
		t.Errorf("%s at port %d was refused after %v", member, port, took)
	}
}
