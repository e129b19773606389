package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// ipVersion is 4 or 6.
type ipVersion int

var ipVersions = []ipVersion{4, 6}

func (v ipVersion) String() string { return fmt.Sprintf("IPv%d", int(v)) }

// has says whether the address belongs to this version.
func (v ipVersion) has(address netip.Addr) bool { return address.Unmap().Is4() == (v == 4) }

// clientAddress is the address from which all clients seem to come.
func (v ipVersion) clientAddress() netip.Addr {
	if v == 4 {
		return ClientAddress4
	}
	return ClientAddress6
}

// loopback is where the loopback addresses are.
func (v ipVersion) loopback() netip.Prefix {
	if v == 4 {
		return netip.MustParsePrefix("127.0.0.0/8")
	}
	return netip.MustParsePrefix("::1/128")
}

// The ports from which clients seem to connect. They have to be given: by itself
// the kernel translates a port below 1024, as kernel clients use, only to another
// one below 1024, and soon has none left.
const clientPortMin, clientPortMax = 1024, 65535

// plan is what shall hold for one IP version, in a form that says the same for
// the same rules. The back ends only translate it.
type plan struct {
	version          ipVersion
	portMin, portMax uint16
	// groups are the exports' ports by who may connect, which is mostly the same
	// for all of them. Each port is in one group at most.
	groups []group
	// silent and frozen are ports, sorted, to which somebody may connect.
	silent, frozen []uint16
}

// group is the ports that have the same clients.
type group struct {
	ports []uint16
	// clients are sorted and do not overlap.
	clients []netip.Prefix
}

// makePlans returns a plan per version, or an error for rules that contradict
// themselves.
func makePlans(rules Rules, versions []ipVersion) ([]plan, error) {
	if rules.PortMin == 0 || rules.PortMin > rules.PortMax {
		return nil, fmt.Errorf("%d to %d is no range of ports", rules.PortMin, rules.PortMax)
	}
	exports := slices.SortedFunc(slices.Values(rules.Exports), func(a, b Export) int { return int(a.Port) - int(b.Port) })
	for i, export := range exports {
		if export.Port < rules.PortMin || export.Port > rules.PortMax {
			return nil, fmt.Errorf("port %d is not in the range %d to %d", export.Port, rules.PortMin, rules.PortMax)
		}
		if i > 0 && export.Port == exports[i-1].Port {
			return nil, fmt.Errorf("two exports have port %d", export.Port)
		}
		for _, client := range export.Clients {
			if !client.IsValid() {
				return nil, fmt.Errorf("a client of port %d is no prefix", export.Port)
			}
		}
	}
	var plans []plan
	for _, version := range versions {
		plans = append(plans, makePlan(rules, exports, version))
	}
	return plans, nil
}

// makePlan takes exports that are sorted by port.
func makePlan(rules Rules, exports []Export, version ipVersion) plan {
	p := plan{version: version, portMin: rules.PortMin, portMax: rules.PortMax}
	groupOf := map[string]int{}
	var clients []netip.Prefix
	for i, export := range exports {
		// Mostly all have the same list, which then is sorted once.
		if i == 0 || !slices.Equal(export.Clients, exports[i-1].Clients) {
			clients = clientsOf(export, version)
		}
		if len(clients) == 0 {
			// Nobody has a connection there, so nothing has to be kept from anybody: what
			// changes for the other version need not be written for this one.
			continue
		}
		if export.Silent {
			p.silent = append(p.silent, export.Port)
		}
		if export.Frozen {
			p.frozen = append(p.frozen, export.Port)
		}
		key := keyOf(clients)
		index, known := groupOf[key]
		if !known {
			index = len(p.groups)
			groupOf[key] = index
			p.groups = append(p.groups, group{clients: clients})
		}
		p.groups[index].ports = append(p.groups[index].ports, export.Port)
	}
	return p
}

// clientsOf returns the export's clients of this version, sorted, none inside of
// another.
func clientsOf(export Export, version ipVersion) []netip.Prefix {
	var clients []netip.Prefix
	for _, client := range export.Clients {
		client = unmap(client).Masked()
		if version.has(client.Addr()) {
			clients = append(clients, client)
		}
	}
	slices.SortFunc(clients, func(a, b netip.Prefix) int {
		if order := a.Addr().Compare(b.Addr()); order != 0 {
			return order
		}
		return a.Bits() - b.Bits()
	})
	// Prefixes never overlap in part: in this order, one that is inside of another
	// comes after it.
	distinct := clients[:0]
	for _, client := range clients {
		if len(distinct) == 0 || !distinct[len(distinct)-1].Contains(client.Addr()) {
			distinct = append(distinct, client)
		}
	}
	return distinct
}

// unmap returns an IPv4 prefix that is written as IPv6 in its own form.
func unmap(prefix netip.Prefix) netip.Prefix {
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		return netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix
}

func keyOf(clients []netip.Prefix) string {
	var key []byte
	for _, client := range clients {
		key = append(key, client.Addr().AsSlice()...)
		key = binary.BigEndian.AppendUint16(key, uint16(client.Bits()))
	}
	return string(key)
}

// interval is the addresses from first to last, both included.
type interval struct{ first, last netip.Addr }

// intervalsOf joins prefixes, sorted and without overlaps, that are neighbours.
func intervalsOf(prefixes []netip.Prefix) []interval {
	var intervals []interval
	for _, prefix := range prefixes {
		if end := len(intervals) - 1; end >= 0 && intervals[end].last.Next() == prefix.Addr() {
			intervals[end].last = lastOf(prefix)
			continue
		}
		intervals = append(intervals, interval{prefix.Addr(), lastOf(prefix)})
	}
	return intervals
}

// lastOf returns the last address of a prefix.
func lastOf(prefix netip.Prefix) netip.Addr {
	address := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < 8*len(address); bit++ {
		address[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(address)
	return last
}

// samplePlan has everything that a plan can have, for a port that nobody uses.
func samplePlan(version ipVersion) plan {
	return plan{
		version: version,
		portMin: 1, portMax: 1,
		groups: []group{{ports: []uint16{1}, clients: []netip.Prefix{version.loopback()}}},
		silent: []uint16{1},
		frozen: []uint16{1},
	}
}
