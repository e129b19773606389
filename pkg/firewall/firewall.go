// Package firewall writes the rules of the ganesha pod's network namespace: who
// may connect to which export, from which address clients seem to come, and what
// a client gets to see of a server that is being replaced. It knows neither
// Kubernetes nor ganesha.
//
// It works on the network namespace of the process. Never run it in the host's.
//
// The rules are about TCP to and from a range of ports that belongs to exports:
//
//   - A packet to one of these ports is let in if its port is an export's and its
//     source one of the export's clients, or if it comes over the loopback
//     interface. Everything else is answered with a reset. That holds for each
//     packet: a client that is not allowed any more loses its connections.
//   - All connections that are let in seem to come from one address. ganesha makes
//     the client's address part of the key under which a client reclaims its
//     locks after a fail-over, and the address by which a client arrives differs
//     between a server on its own node and one on another. The port changes, too:
//     the clients of all nodes connect from the same few ports. Connections
//     between loopback addresses are left alone; those from the pod to its own
//     address are translated.
//   - From the port of a silent export no answer leaves to a client that connects
//     while nobody listens, and from that of a frozen export nothing at all.
//     Loopback addresses are excepted, so that a probe in the pod sees the truth.
//
// Two back ends can write them: nf_tables, and iptables-legacy for kernels that
// have no nf_tables for IP. Both touch nothing but a table, or chains, of their
// own.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"k8s.io/utils/exec"
)

// The addresses from which all clients seem to come. They exist nowhere: the
// answers to them are translated back before they leave the pod, which therefore
// needs a route to them, as its default route is.
var (
	ClientAddress4 = netip.MustParseAddr("169.254.77.1")
	ClientAddress6 = netip.MustParseAddr("fd6c:696e:7374:6f72::1")
)

// Rules is everything that shall be in force.
type Rules struct {
	// PortMin and PortMax are the first and the last port that belong to exports.
	// The range must lie outside of net.ipv4.ip_local_port_range: answers to a
	// connection that the pod itself made from such a port would be rejected.
	PortMin, PortMax uint16
	// Exports are the exports that are served. To the other ports of the range
	// nobody can connect.
	Exports []Export
}

// Export is one served export in the pod.
type Export struct {
	// Port is the TCP port of its ganesha in the pod. No two exports share one.
	Port uint16
	// Clients is who may connect, IPv4 and IPv6; empty: nobody.
	Clients []netip.Prefix
	// Silent leaves a client that connects while nobody listens without an answer,
	// instead of a reset: it repeats its SYN after a second, but tries again only
	// three seconds after a reset. Resets of connections that the kernel does not
	// know still leave. Right only where the server comes back at this address.
	Silent bool
	// Frozen lets nothing at all leave from the port: clients wait, as for a slow
	// server.
	Frozen bool
}

// Firewall keeps the rules of a network namespace.
type Firewall interface {
	// Apply puts the rules in force, in place of all that were there before,
	// including those of an earlier process. Nobody who was allowed before and
	// after is disturbed, and at no moment anybody is let in who was allowed
	// neither before nor after. When a call fails, the rules of one IP version or
	// of one table may already be the new ones; the next call completes them.
	//
	// A change takes some ten milliseconds: nf_tables waits for packets that are
	// under way, and iptables-legacy runs a program per IP version. Rules that the
	// last call put in force already are checked, and repaired if somebody else
	// changed them, which takes a millisecond by nf_tables and one run of a program
	// per IP version by iptables-legacy. A change by iptables-legacy does not check:
	// call again with the same rules now and then.
	//
	// It fails without a change if the rules contradict themselves, and if the pod
	// has an address of an IP version for which the kernel has no rules. It is safe
	// for concurrent use.
	Apply(ctx context.Context, rules Rules) error
	// Name returns which back end was chosen: "nf_tables" or "iptables-legacy".
	Name() string
}

// backend is a way to tell the kernel its rules.
type backend interface {
	name() string
	// try proves that the kernel takes such rules for this IP version. It leaves
	// nothing behind and disturbs nothing.
	try(ctx context.Context, version ipVersion) error
	// apply puts the plans in force, one per IP version.
	apply(ctx context.Context, plans []plan) error
	// remove takes away whatever apply has made, in this process or an earlier one.
	remove(ctx context.Context) error
}

// New chooses the back end for this network namespace by trying them: nf_tables
// is preferred, iptables-legacy is run through programs. It fails if neither can
// make rules for all IP versions of which the pod has addresses. It does not
// change the rules that are in force.
func New(ctx context.Context, programs exec.Interface) (Firewall, error) {
	needed, err := neededVersions()
	if err != nil {
		return nil, fmt.Errorf("choose a firewall: %w", err)
	}
	chosen, err := choose(ctx, []backend{&nfTables{}, &legacyTables{programs: programs}}, needed)
	if err != nil {
		return nil, fmt.Errorf("choose a firewall: %w", err)
	}
	return chosen, nil
}

// choose returns a firewall with the first candidate that can do what is needed.
func choose(ctx context.Context, candidates []backend, needed []ipVersion) (*firewall, error) {
	var failures []error
	for i, candidate := range candidates {
		f := &firewall{backend: candidate, others: slices.Delete(slices.Clone(candidates), i, i+1)}
		var failed []error
		for _, version := range ipVersions {
			if err := candidate.try(ctx, version); err == nil {
				f.able = append(f.able, version)
			} else if slices.Contains(needed, version) {
				failed = append(failed, fmt.Errorf("%s for %s: %w", candidate.name(), version, err))
			}
		}
		if len(failed) == 0 && len(f.able) > 0 {
			return f, nil
		}
		failures = append(failures, failed...)
	}
	if len(failures) == 0 {
		return nil, errors.New("the kernel takes rules for no version of IP")
	}
	return nil, errors.Join(failures...)
}

// neededVersions returns the IP versions by which somebody can reach this network
// namespace. A link-local address is enough: every pod on the same bridge has one.
func neededVersions() ([]ipVersion, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("read the pod's addresses: %w", err)
	}
	var needed []ipVersion
	for _, version := range ipVersions {
		if slices.ContainsFunc(addresses, func(address net.Addr) bool {
			prefix, err := netip.ParsePrefix(address.String())
			return err == nil && !prefix.Addr().IsLoopback() && version.has(prefix.Addr())
		}) {
			needed = append(needed, version)
		}
	}
	return needed, nil
}

// firewall is the chosen back end, and what has to be known around it.
type firewall struct {
	backend backend
	// able are the IP versions for which the back end can make rules.
	able []ipVersion

	lock sync.Mutex
	// others are back ends whose rules, made by an earlier process that chose
	// differently, are still to be removed.
	others []backend
}

func (f *firewall) Name() string { return f.backend.name() }

func (f *firewall) Apply(ctx context.Context, rules Rules) error {
	f.lock.Lock()
	defer f.lock.Unlock()
	if err := f.apply(ctx, rules); err != nil {
		return fmt.Errorf("write the rules of the firewall: %w", err)
	}
	return nil
}

func (f *firewall) apply(ctx context.Context, rules Rules) error {
	plans, err := makePlans(rules, f.able)
	if err != nil {
		return err
	}
	if err := f.checkAddresses(); err != nil {
		return err
	}
	if err := f.backend.apply(ctx, plans); err != nil {
		return fmt.Errorf("by %s: %w", f.backend.name(), err)
	}
	// Only now: the old rules have to hold until the new ones do.
	for len(f.others) > 0 {
		if err := f.others[0].remove(ctx); err != nil {
			return fmt.Errorf("remove what %s left: %w", f.others[0].name(), err)
		}
		f.others = f.others[1:]
	}
	return nil
}

// checkAddresses fails if the pod got an address of an IP version that would have
// no rules: everybody would be let in there.
func (f *firewall) checkAddresses() error {
	needed, err := neededVersions()
	if err != nil {
		return err
	}
	for _, version := range needed {
		if !slices.Contains(f.able, version) {
			return fmt.Errorf("the pod has an address of %s, for which the kernel takes no rules by %s", version, f.backend.name())
		}
	}
	return nil
}
