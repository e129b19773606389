package reconnector

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// serviceInterface is where kube-proxy in its IPVS mode keeps the addresses of
// all Services. They are not this node's.
const serviceInterface = "kube-ipvs0"

// HostInterfaces are the network interfaces of one network namespace.
type HostInterfaces struct {
	handle *netlink.Handle
}

// OpenInterfaces opens the network namespace of the calling thread. Close it.
func OpenInterfaces() (*HostInterfaces, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open network interfaces: %w", err)
	}
	return &HostInterfaces{handle}, nil
}

// Close ends the use of the interfaces.
func (h *HostInterfaces) Close() { h.handle.Close() }

// Addresses implements Interfaces.
func (h *HostInterfaces) Addresses() ([]netip.Addr, error) {
	services := -1
	link, err := h.handle.LinkByName(serviceInterface)
	switch {
	case err == nil:
		services = link.Attrs().Index
	case !errors.As(err, &netlink.LinkNotFoundError{}):
		return nil, fmt.Errorf("find interface %s: %w", serviceInterface, err)
	}
	found, err := h.handle.AddrList(nil, netlink.FAMILY_ALL)
	for range 3 {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		found, err = h.handle.AddrList(nil, netlink.FAMILY_ALL) // they changed meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var addresses []netip.Addr
	for _, one := range found {
		address, ok := netip.AddrFromSlice(one.IP)
		if address = address.Unmap(); ok && one.LinkIndex != services && reachesOthers(address) {
			addresses = append(addresses, address)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), nil
}

// reachesOthers says whether a packet from the address can come to another node.
func reachesOthers(address netip.Addr) bool {
	return address.IsGlobalUnicast() // neither loopback, link-local, multicast nor unspecified
}

// Watch implements Interfaces. It has to be called in the namespace that was
// opened.
func (h *HostInterfaces) Watch(ctx context.Context, changed func()) error {
	updates := make(chan netlink.AddrUpdate)
	var broken error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := netlink.AddrSubscribeWithOptions(updates, ctx.Done(), netlink.AddrSubscribeOptions{
		ErrorCallback: func(err error) { broken = err },
	})
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	changed() // what was missed until now
	for update := range updates {
		// Interfaces of pods come and go with link-local addresses all the time.
		if address, ok := netip.AddrFromSlice(update.LinkAddress.IP); ok && reachesOthers(address.Unmap()) {
			changed()
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return fmt.Errorf("watch addresses: %w", broken)
}
