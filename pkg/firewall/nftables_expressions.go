package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableBuilder adds to a table, and remembers the first error.
type tableBuilder struct {
	connection *nftables.Conn
	table      *nftables.Table
	version    ipVersion
	err        error
}

// expressions is one statement or match of a rule, as the kernel's small machine
// runs it: a match loads something into a register and ends the rule if it is not
// what it should be.
type expressions []expr.Any

// emptyHook returns the chain, which it makes or empties.
func (b *tableBuilder) emptyHook(name string, chainType nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	chain := b.connection.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: chainType, Hooknum: hook, Priority: priority})
	b.connection.FlushChain(chain)
	return chain
}

func (b *tableBuilder) addChain(name string) *nftables.Chain {
	return b.connection.AddChain(&nftables.Chain{Name: name, Table: b.table})
}

func (b *tableBuilder) addRule(chain *nftables.Chain, parts ...expressions) {
	b.connection.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: slices.Concat(parts...)})
}

func (b *tableBuilder) addSet(name string, key nftables.SetDatatype, interval bool, elements []nftables.SetElement) *nftables.Set {
	set := &nftables.Set{Table: b.table, Name: name, KeyType: key, Interval: interval}
	b.keep(b.connection.AddSet(set, nil))
	b.addElements(set, elements)
	return set
}

// addMap adds a map from keys to verdicts.
func (b *tableBuilder) addMap(name string, key nftables.SetDatatype) *nftables.Set {
	set := &nftables.Set{Table: b.table, Name: name, KeyType: key, IsMap: true, DataType: nftables.TypeVerdict}
	b.keep(b.connection.AddSet(set, nil))
	return set
}

// A message has room for 64 KiB of elements, each of which takes up to 60 bytes.
// The number is even, to keep the two elements of an interval together.
const elementsPerMessage = 1000

func (b *tableBuilder) addElements(set *nftables.Set, elements []nftables.SetElement) {
	for chunk := range slices.Chunk(elements, elementsPerMessage) {
		b.keep(b.connection.SetAddElements(set, chunk))
	}
}

func (b *tableBuilder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}

func portKey(port uint16) []byte { return binaryutil.BigEndian.PutUint16(port) }

// The values are loaded into this register, one after the other.
const register = 1

func load(base expr.PayloadBase, offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func compare(op expr.CmpOp, value []byte) *expr.Cmp {
	return &expr.Cmp{Op: op, Register: register, Data: value}
}

func mask(length int, ones []byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(length), Mask: ones, Xor: make([]byte, length)}
}

// The headers of TCP and IP: RFC 9293 3.1, RFC 791 3.1, RFC 8200 3.
func sourcePort() expressions      { return expressions{load(expr.PayloadBaseTransportHeader, 0, 2)} }
func destinationPort() expressions { return expressions{load(expr.PayloadBaseTransportHeader, 2, 2)} }

const flagRST, flagACK = 0x04, 0x10

// answersSYN matches the reset by which the kernel answers a SYN that meets no
// listener. It alone has the sequence number 0.
func answersSYN() expressions {
	flags := []byte{flagRST | flagACK}
	return expressions{
		load(expr.PayloadBaseTransportHeader, 13, 1),
		mask(1, flags),
		compare(expr.CmpOpEq, flags),
		load(expr.PayloadBaseTransportHeader, 4, 4),
		compare(expr.CmpOpEq, []byte{0, 0, 0, 0}),
	}
}

func (b *tableBuilder) sourceAddress() expressions {
	if b.version == 4 {
		return expressions{load(expr.PayloadBaseNetworkHeader, 12, 4)}
	}
	return expressions{load(expr.PayloadBaseNetworkHeader, 8, 16)}
}

func (b *tableBuilder) destinationAddress() expressions {
	if b.version == 4 {
		return expressions{load(expr.PayloadBaseNetworkHeader, 16, 4)}
	}
	return expressions{load(expr.PayloadBaseNetworkHeader, 24, 16)}
}

func (b *tableBuilder) addressType() nftables.SetDatatype {
	if b.version == 4 {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

func (b *tableBuilder) destinationIn(prefix netip.Prefix) expressions {
	return append(b.destinationAddress(), comparePrefix(expr.CmpOpEq, prefix)...)
}

func (b *tableBuilder) sourceNotIn(prefix netip.Prefix) expressions {
	return append(b.sourceAddress(), comparePrefix(expr.CmpOpNeq, prefix)...)
}

func comparePrefix(op expr.CmpOp, prefix netip.Prefix) expressions {
	length := prefix.Addr().BitLen() / 8
	ones := make([]byte, length)
	for bit := range prefix.Bits() {
		ones[bit/8] |= 0x80 >> (bit % 8)
	}
	return expressions{mask(length, ones), compare(op, prefix.Masked().Addr().AsSlice())}
}

func (b *tableBuilder) isTCP() expressions {
	return expressions{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		compare(expr.CmpOpEq, []byte{unix.IPPROTO_TCP}),
	}
}

func between(first, last uint16) expressions {
	return expressions{&expr.Range{Op: expr.CmpOpEq, Register: register, FromData: portKey(first), ToData: portKey(last)}}
}

func inputInterface(name string) expressions {
	return expressions{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, compare(expr.CmpOpEq, interfaceName(name))}
}

func outputInterface(name string) expressions {
	return expressions{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, compare(expr.CmpOpEq, interfaceName(name))}
}

func interfaceName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

// notRelated matches if the packet is not related to another connection.
func notRelated() expressions {
	return expressions{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		mask(4, binary.NativeEndian.AppendUint32(nil, expr.CtStateBitRELATED)),
		compare(expr.CmpOpEq, []byte{0, 0, 0, 0}),
	}
}

func lookUp(set *nftables.Set) expressions {
	return expressions{&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID}}
}

// lookUpVerdict ends with the verdict of the map; without one, the rules go on.
func lookUpVerdict(set *nftables.Set) expressions {
	// Register 0 is the verdict.
	return expressions{&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID, IsDestRegSet: true, DestRegister: 0}}
}

// sourceNAT gives the connection the constant source address.
func (b *tableBuilder) sourceNAT() expressions {
	family := uint32(unix.NFPROTO_IPV4)
	if b.version == 6 {
		family = unix.NFPROTO_IPV6
	}
	const address, portMin, portMax = 1, 2, 3
	return expressions{
		&expr.Immediate{Register: address, Data: b.version.clientAddress().AsSlice()},
		&expr.Immediate{Register: portMin, Data: portKey(clientPortMin)},
		&expr.Immediate{Register: portMax, Data: portKey(clientPortMax)},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: family, RegAddrMin: address, RegProtoMin: portMin, RegProtoMax: portMax},
	}
}

func reject() expressions {
	return expressions{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
}

// goTo goes on in another chain, and does not come back.
func goTo(chain string) expressions {
	return verdict(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

func verdict(v *expr.Verdict) expressions { return expressions{v} }

// accept ends the chain. The chains of other tables go on.
func accept() expressions { return verdict(&expr.Verdict{Kind: expr.VerdictAccept}) }

func drop() expressions { return verdict(&expr.Verdict{Kind: expr.VerdictDrop}) }
