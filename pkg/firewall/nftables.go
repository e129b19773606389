package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	nftTable    = "linstor-rwx"
	nftTryTable = "linstor-rwx-try"
)

// nfTables writes the rules to the kernel's nf_tables over netlink, all of them
// in one transaction. Each IP version has a table of its own, for which a kernel
// needs less than for one that both share.
type nfTables struct {
	// applied is what this process wrote last; nil: not known. The number of the
	// last transaction in the network namespace is generation, unless somebody
	// changed something since.
	applied    []plan
	generation uint32
}

func (n *nfTables) name() string { return "nf_tables" }

func (n *nfTables) try(ctx context.Context, version ipVersion) error {
	// Asked first: a kernel without nf_tables would not answer to each message of a
	// transaction.
	if _, err := readGeneration(ctx); err != nil {
		return err
	}
	connection, err := connect(ctx)
	if err != nil {
		return err
	}
	if err := writeTables(connection, nftTryTable, []plan{samplePlan(version)}); err != nil {
		return err
	}
	connection.DelTable(newTable(version, nftTryTable))
	return connection.Flush()
}

func (n *nfTables) apply(ctx context.Context, plans []plan) error {
	before, err := readGeneration(ctx)
	if err != nil {
		return err
	}
	if n.applied != nil && before == n.generation && reflect.DeepEqual(n.applied, plans) {
		return nil
	}
	n.applied = nil
	connection, err := connect(ctx)
	if err != nil {
		return err
	}
	if err := writeTables(connection, nftTable, plans); err != nil {
		return err
	}
	// Somebody else's transaction in between may have changed ours: then the next
	// call writes the rules again.
	if after, err := readGeneration(ctx); err == nil && after == before+1 {
		n.applied, n.generation = plans, after
	}
	return nil
}

func (n *nfTables) remove(ctx context.Context) error {
	n.applied = nil
	connection, err := connect(ctx)
	if err != nil {
		return err
	}
	tables, err := connection.ListTables()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		// A kernel without nf_tables has no rules in them.
		return nil
	}
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, table := range tables {
		if table.Name == nftTable || table.Name == nftTryTable {
			connection.DelTable(table)
		}
	}
	return connection.Flush()
}

// How long the kernel may take. It answers at once, but if it refuses a
// transaction as a whole, the answers that are waited for never come.
const netlinkTimeout = 10 * time.Second

// netlinkBuffer has to hold a transaction, and an answer to each of its messages,
// of which the kernel counts about a KiB.
const netlinkBuffer = 32 << 20

// connect returns a connection that opens a socket for each operation.
func connect(ctx context.Context) (*nftables.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nftables.New(nftables.WithSockOptions(func(socket *netlink.Conn) error {
		return errors.Join(
			socket.SetDeadline(netlinkDeadline(ctx)),
			socket.SetReadBuffer(netlinkBuffer),
			socket.SetWriteBuffer(netlinkBuffer),
		)
	}))
}

func netlinkDeadline(ctx context.Context) time.Time {
	deadline := time.Now().Add(netlinkTimeout)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		return end
	}
	return deadline
}

// readGeneration returns the number of the last transaction in the network
// namespace, for which the library has no call.
func readGeneration(ctx context.Context) (uint32, error) {
	generation, err := askGeneration(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the generation of the rules: %w", err)
	}
	return generation, nil
}

func askGeneration(ctx context.Context) (uint32, error) {
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer socket.Close()
	if err := socket.SetDeadline(netlinkDeadline(ctx)); err != nil {
		return 0, err
	}
	answers, err := socket.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, nfgenmsgLength),
	})
	if err != nil {
		return 0, err
	}
	for _, answer := range answers {
		if len(answer.Data) < nfgenmsgLength {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(answer.Data[nfgenmsgLength:])
		if err != nil {
			return 0, err
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), attributes.Err()
			}
		}
	}
	return 0, errors.New("the kernel did not say it")
}

// nfgenmsgLength is the length of the header of nf_tables' messages.
const nfgenmsgLength = 4

// writeTables puts the plans in place of all that tables of this name had, in one
// transaction.
func writeTables(connection *nftables.Conn, name string, plans []plan) error {
	for _, p := range plans {
		table := newTable(p.version, name)
		// Adding a table that exists changes nothing; without it there might be none
		// to delete.
		connection.AddTable(table)
		connection.DelTable(table)
		connection.AddTable(table)
		if err := addRules(connection, table, p); err != nil {
			return fmt.Errorf("build the rules for %s: %w", p.version, err)
		}
	}
	if err := connection.Flush(); err != nil {
		return fmt.Errorf("write the rules: %w", err)
	}
	return nil
}

func newTable(version ipVersion, name string) *nftables.Table {
	family := nftables.TableFamilyIPv4
	if version == 6 {
		family = nftables.TableFamilyIPv6
	}
	return &nftables.Table{Name: name, Family: family}
}

// addRules fills a table that is empty. In nft's own words it becomes:
//
//	map exports { type inet_service : verdict; elements = { 20490 : goto clients-0, ... } }
//	set clients-0 { type ipv4_addr; flags interval; elements = { 192.0.2.1-192.0.2.9, ... } }
//	set silent { type inet_service; elements = { 20490, ... } }
//	set frozen { type inet_service; elements = { ... } }
//	chain input {
//	    type filter hook input priority filter
//	    iifname "lo" accept
//	    tcp dport 20490-24585 goto exports
//	}
//	chain exports {
//	    tcp dport vmap @exports
//	    reject with tcp reset
//	}
//	chain clients-0 {
//	    ip saddr @clients-0 accept
//	    reject with tcp reset
//	}
//	chain output {
//	    type filter hook output priority filter
//	    ip daddr 127.0.0.0/8 accept
//	    tcp sport @frozen drop
//	    tcp flags & (rst | ack) == rst | ack tcp sequence 0 ct state & related == 0 tcp sport @silent drop
//	}
//	chain source-input {
//	    type nat hook input priority srcnat
//	    tcp dport 20490-24585 ip saddr != 127.0.0.0/8 snat to 169.254.77.1:1024-65535
//	}
//	chain source-loopback {
//	    type nat hook postrouting priority srcnat
//	    oifname "lo" tcp dport 20490-24585 ip saddr != 127.0.0.0/8 snat to 169.254.77.1:1024-65535
//	}
//
// The reset with which a packet is rejected is related to a connection, the one
// by which the kernel says that nobody listens belongs to it: only that is silenced.
//
// What goes over the loopback interface has passed postrouting when it reaches
// input, and its source is settled then.
func addRules(connection *nftables.Conn, table *nftables.Table, p plan) error {
	b := &tableBuilder{connection: connection, table: table, version: p.version}

	verdicts := b.addMap("exports", nftables.TypeInetService)
	silent := b.addSet("silent", nftables.TypeInetService, false, portElements(p.silent))
	frozen := b.addSet("frozen", nftables.TypeInetService, false, portElements(p.frozen))

	exports := b.addChain("exports")
	b.addRule(exports, b.isTCP(), destinationPort(), lookUpVerdict(verdicts))
	b.addRule(exports, reject())

	var targets []nftables.SetElement
	for i, g := range p.groups {
		name := fmt.Sprintf("clients-%d", i)
		clients := b.addSet(name, b.addressType(), true, clientElements(g.clients))
		chain := b.addChain(name)
		b.addRule(chain, b.sourceAddress(), lookUp(clients), accept())
		b.addRule(chain, reject())
		for _, port := range g.ports {
			targets = append(targets, nftables.SetElement{Key: portKey(port), VerdictData: goTo(name)})
		}
	}
	b.addElements(verdicts, targets)

	// The hooks come last, for they refer to the rest.
	input := b.addHook("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	b.addRule(input, inputInterface("lo"), accept())
	b.addRule(input, b.isTCP(), destinationPort(), between(p.portMin, p.portMax), verdict(goTo("exports")))

	output := b.addHook("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	b.addRule(output, b.destinationIn(p.version.loopback()), accept())
	b.addRule(output, b.isTCP(), sourcePort(), lookUp(frozen), drop())
	b.addRule(output, b.isTCP(), answersSYN(), notRelated(), sourcePort(), lookUp(silent), drop())

	translate := []expressions{b.isTCP(), destinationPort(), between(p.portMin, p.portMax),
		b.sourceNotIn(p.version.loopback()), b.sourceNAT()}
	sourceInput := b.addHook("source-input", nftables.ChainTypeNAT, nftables.ChainHookInput, nftables.ChainPriorityNATSource)
	b.addRule(sourceInput, translate...)
	sourceLoopback := b.addHook("source-loopback", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.addRule(sourceLoopback, slices.Concat([]expressions{outputInterface("lo")}, translate)...)
	return b.err
}

func portElements(ports []uint16) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, port := range ports {
		elements = append(elements, nftables.SetElement{Key: portKey(port)})
	}
	return elements
}

// clientElements returns each interval as its first address and the first address
// after it.
func clientElements(clients []netip.Prefix) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, i := range intervalsOf(clients) {
		elements = append(elements, nftables.SetElement{Key: i.first.AsSlice()})
		if after := i.last.Next(); after.IsValid() {
			elements = append(elements, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}
