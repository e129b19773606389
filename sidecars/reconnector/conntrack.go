package reconnector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Translation is what connection tracking does to the packets of one connection.
type Translation struct {
	// To is where they go: the address that answers.
	To netip.AddrPort

	// reply are the addresses and ports of the answers, as the kernel gave them.
	reply []byte
}

// Lookup returns the translation of a connection, with found false if connection
// tracking does not know it. It asks for this one entry: the table may have
// hundreds of thousands. The error is errors.ErrUnsupported if there is no
// connection tracking. Entries in zones are not seen.
func (k *Kernel) Lookup(from, remote netip.AddrPort) (translation Translation, found bool, err error) {
	messages, err := k.conntrack(nl.IPCTNL_MSG_CT_GET, from.Addr(), originalTuple(from, remote))
	if isErrno(err, unix.ENOENT) {
		return Translation{}, false, nil
	}
	if err != nil {
		return Translation{}, false, fmt.Errorf("look up translation of %v to %v: %w", from, remote, err)
	}
	for _, message := range messages {
		if t, ok := parseTranslation(message); ok {
			return t, true, nil
		}
	}
	return Translation{}, false, nil
}

// Forget deletes the translation, so that the connection's next packet is
// translated anew. A client may have connected meanwhile from the same port: its
// new translation stays if it leads elsewhere, because the entry is found by who
// answers. The kernel's number of an entry would not do: it is given again. A
// translation that is gone is no error.
func (k *Kernel) Forget(t Translation) error {
	// A request without addresses would delete the whole table.
	if len(t.reply) == 0 {
		return errors.New("delete translation: it has no addresses")
	}
	_, err := k.conntrack(nl.IPCTNL_MSG_CT_DELETE, t.To.Addr(), nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_REPLY, t.reply))
	if err != nil && !isErrno(err, unix.ENOENT) {
		return fmt.Errorf("delete translation to %v: %w", t.To, err)
	}
	return nil
}

// checkConntrack looks for a connection that cannot exist.
func (k *Kernel) checkConntrack() error {
	nowhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	_, _, err := k.Lookup(nowhere, nowhere)
	return err
}

func (k *Kernel) conntrack(kind int, address netip.Addr, tuple *nl.RtAttr) ([][]byte, error) {
	family := uint8(unix.AF_INET6)
	if address.Is4() {
		family = unix.AF_INET
	}
	// The acknowledgement ends the answer, which the kernel marks as one of many.
	messages, err := k.request(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_CTNETLINK<<8|kind, unix.NLM_F_ACK,
		&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0}, tuple)
	// Our requests are well formed: invalid is what nfnetlink calls them when
	// nobody in the kernel understands them.
	if isErrno(err, unix.EINVAL) {
		err = errors.ErrUnsupported
	}
	return messages, err
}

// originalTuple are a TCP connection's addresses and ports as its socket has them.
func originalTuple(from, remote netip.AddrPort) *nl.RtAttr {
	source, destination := nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	if from.Addr().Is4() {
		source, destination = nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	}
	port := func(number uint16) []byte { return binary.BigEndian.AppendUint16(nil, number) }
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	address := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	address.AddRtAttr(source, from.Addr().AsSlice())
	address.AddRtAttr(destination, remote.Addr().AsSlice())
	protocol := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	protocol.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_TCP})
	protocol.AddRtAttr(nl.CTA_PROTO_SRC_PORT, port(from.Port()))
	protocol.AddRtAttr(nl.CTA_PROTO_DST_PORT, port(remote.Port()))
	return tuple
}

// parseTranslation reads an entry of connection tracking.
func parseTranslation(message []byte) (Translation, bool) {
	if len(message) < nl.SizeofNfgenmsg {
		return Translation{}, false
	}
	for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
		if kind == nl.CTA_TUPLE_REPLY {
			to := tupleSource(value)
			return Translation{To: to, reply: value}, to.IsValid()
		}
	}
	return Translation{}, false
}

// tupleSource returns the source of the packets that a tuple describes.
func tupleSource(tuple []byte) netip.AddrPort {
	var address netip.Addr
	var port uint16
	for part, value := range attributes(tuple) {
		for kind, value := range attributes(value) {
			switch {
			case part == nl.CTA_TUPLE_IP && (kind == nl.CTA_IP_V4_SRC || kind == nl.CTA_IP_V6_SRC):
				address, _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_PROTO && kind == nl.CTA_PROTO_SRC_PORT && len(value) == 2:
				port = binary.BigEndian.Uint16(value)
			}
		}
	}
	return netip.AddrPortFrom(address, port)
}

// attributes iterates over a sequence of netlink attributes.
func attributes(data []byte) func(yield func(kind int, value []byte) bool) {
	return func(yield func(kind int, value []byte) bool) {
		for len(data) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(data))
			kind := int(binary.NativeEndian.Uint16(data[2:]) & nl.NLA_TYPE_MASK)
			if length < unix.SizeofNlAttr || length > len(data) {
				return
			}
			if !yield(kind, data[unix.SizeofNlAttr:length]) {
				return
			}
			data = data[min(len(data), (length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
		}
	}
}
