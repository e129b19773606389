package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const namespaceDirectory = "/run/netns"

// NamespacePath returns the file that stands for the network namespace.
func NamespacePath(name string) string { return namespaceDirectory + "/" + name }

// InNamespace runs f on a thread that is in the network namespace. Processes
// that f starts and sockets that it opens belong to the namespace; goroutines
// that it starts do not.
func InNamespace(name string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread stays locked and ends with this goroutine, so nobody ever
		// inherits a thread in the wrong namespace.
		runtime.LockOSThread()
		handle, err := netns.GetFromPath(NamespacePath(name))
		if err != nil {
			result <- fmt.Errorf("open network namespace %s: %w", name, err)
			return
		}
		defer handle.Close()
		if err := netns.Set(handle); err != nil {
			result <- fmt.Errorf("enter network namespace %s: %w", name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// Dialer returns a dial function for connections inside the namespace. It takes
// IP addresses only: a name would be resolved outside.
func Dialer(name string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var connection net.Conn
		err := InNamespace(name, func() (err error) {
			connection, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return connection, err
	}
}

// ensureNamespace makes the network namespace with its bridges.
func ensureNamespace(name string) error {
	if err := ensureNamed(name); err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return InNamespace(name, func() error {
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find loopback: %w", err)
		}
		if err := netlink.LinkSetUp(loopback); err != nil {
			return fmt.Errorf("bring loopback up: %w", err)
		}
		if err := ensureBridge(kubernetesBridge, HostAddress); err != nil {
			return err
		}
		if err := ensureBridge(controlBridge, ControlAddress); err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
	})
}

func ensureNamed(name string) error {
	if _, err := netns.GetFromPath(NamespacePath(name)); err == nil {
		return nil
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: NewNamed moves the thread into the namespace.
		runtime.LockOSThread()
		handle, err := netns.NewNamed(name)
		if err == nil {
			err = handle.Close()
		}
		result <- err
	}()
	return <-result
}

func ensureBridge(name, address string) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	parsed, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", address, prefixLength))
	if err != nil {
		return fmt.Errorf("parse address of bridge %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", name, err)
	}
	if err := netlink.AddrReplace(link, parsed); err != nil {
		return fmt.Errorf("address bridge %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring bridge %s up: %w", name, err)
	}
	return nil
}

// removeNamespace removes the namespace and, with its last process, all
// interfaces in it.
func removeNamespace(name string) error {
	path := NamespacePath(name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

// ensureTaps makes the host's ends of a node's interfaces and the route to its
// pods.
func ensureTaps(namespace string, node Node) error {
	return InNamespace(namespace, func() error {
		if err := ensureTap(node.kubernetesTap(), kubernetesBridge); err != nil {
			return err
		}
		if err := ensureTap(node.controlTap(), controlBridge); err != nil {
			return err
		}
		_, pods, err := net.ParseCIDR(node.PodNetwork())
		if err != nil {
			return err
		}
		route := &netlink.Route{Dst: pods, Gw: net.ParseIP(node.Address())}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to the pods of %s: %w", node.Name, err)
		}
		return nil
	})
}

func ensureTap(name, bridge string) error {
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_DEFAULTS}
	if _, err := netlink.LinkByName(name); err != nil {
		if err := netlink.LinkAdd(tap); err != nil {
			return fmt.Errorf("make interface %s: %w", name, err)
		}
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	if err := netlink.LinkSetMaster(link, master); err != nil {
		return fmt.Errorf("put interface %s into bridge %s: %w", name, bridge, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring interface %s up: %w", name, err)
	}
	return nil
}

// Bridge port states (linux/if_bridge.h).
const (
	portDisabled   = 0
	portForwarding = 3
)

// setKubernetesLink connects a node to the Kubernetes network or cuts it off, by
// its port of the bridge. The guest's interface keeps its carrier: the node does
// not know. The host's end of it must stay up: a guest that cannot write to it
// gives its interface up, and no healing would bring that back.
func setKubernetesLink(namespace string, node Node, connected bool) error {
	return InNamespace(namespace, func() error {
		link, err := netlink.LinkByName(node.kubernetesTap())
		if err != nil {
			return fmt.Errorf("find interface of %s: %w", node.Name, err)
		}
		state := portDisabled
		if connected {
			state = portForwarding
		}
		err = setPortState(link, byte(state))
		if connected && errors.Is(err, unix.ENETDOWN) {
			return nil // no guest holds the other end; when one does, the port forwards
		}
		if err != nil {
			return fmt.Errorf("switch the network of %s: %w", node.Name, err)
		}
		return nil
	})
}

// setPortState sets the state of an interface that is a port of a bridge.
func setPortState(link netlink.Link, state byte) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_BRIDGE)
	message.Index = int32(link.Attrs().Index)
	request.AddData(message)
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{state})
	request.AddData(port)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// routeServices sends the host's connections to Services through a node, whose
// kube-proxy translates them.
func routeServices(namespace string, through Node) error {
	return InNamespace(namespace, func() error {
		_, services, err := net.ParseCIDR(ServiceNetwork)
		if err != nil {
			return err
		}
		route := &netlink.Route{Dst: services, Gw: net.ParseIP(through.Address())}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route services through %s: %w", through.Name, err)
		}
		return nil
	})
}

// interfaces lists the interfaces of the namespace, for status and tests.
func interfaces(namespace string) (string, error) {
	var names []string
	err := InNamespace(namespace, func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			names = append(names, link.Attrs().Name+"="+link.Attrs().OperState.String())
		}
		return err
	})
	return strings.Join(names, " "), err
}
