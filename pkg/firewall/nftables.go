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
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	nftTable    = "linstor-rwx"
	nftTryTable = "linstor-rwx-try"
)

// nfTables writes the rules to the kernel's nf_tables over netlink. Each IP version has a table of its own, for which a kernel
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
	generation, err := readGeneration(ctx)
	if err != nil {
		return err
	}
	connection, err := connect(ctx)
	if err != nil {
		return err
	}
	_, err = replaceRules(connection, nftTryTable, []plan{samplePlan(version)}, generation)
	// Also what a failure left half done.
	table := newTable(version, nftTryTable)
	connection.AddTable(table)
	connection.DelTable(table)
	if removed := flush(connection); err == nil {
		err = removed
	}
	return err
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
	transactions, err := replaceRules(connection, nftTable, plans, before+1)
	if err != nil {
		return err
	}
	// Somebody else's transaction in between may have changed ours: then the next
	// call writes the rules again.
	if after, err := readGeneration(ctx); err == nil && after == before+transactions {
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
	return flush(connection)
}

// How long the kernel may take. It answers at once, but if it refuses a
// transaction as a whole, the answers that are waited for never come.
const netlinkTimeout = 10 * time.Second

// netlinkBuffer has to hold a transaction, and an answer to each of its messages,
// of which the kernel counts about a KiB.
const netlinkBuffer = 32 << 20

// connect returns a connection that opens a socket for each operation, and closes
// it, for which replaceRules has a use.
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

// replaceRules puts the plans in place of all that tables of this name hold. It
// returns how many transactions that took.
//
// A transaction is not quite atomic for packets: one that is under way while it
// takes effect may go on in the old rules, but finds the sets as they are after
// it, for instance gone. Here that resets a connection, as was seen on Linux 6.18.
// So first everything is made anew, under names that end in the number of the
// edition, then only the rules of the hooks change, and at last what was there
// before is removed, when no packet is in it any more: the kernel frees the rules
// that a transaction has deleted after such packets, and the transaction's socket
// waits for that when it is closed (nft_rcv_nl_event).
func replaceRules(connection *nftables.Conn, name string, plans []plan, edition uint32) (uint32, error) {
	old, err := listContents(connection, name)
	if err != nil {
		return 0, err
	}
	for _, p := range plans {
		if err := addEdition(connection, newTable(p.version, name), p, edition); err != nil {
			return 0, fmt.Errorf("build the rules for %s: %w", p.version, err)
		}
	}
	if err := flush(connection); err != nil {
		return 0, fmt.Errorf("add new rules: %w", err)
	}
	for _, p := range plans {
		setHooks(connection, newTable(p.version, name), p, edition)
	}
	if err := flush(connection); err != nil {
		return 0, fmt.Errorf("change to the new rules: %w", err)
	}
	if len(old.chains) == 0 {
		return 2, nil
	}
	old.remove(connection)
	if err := flush(connection); err != nil {
		return 0, fmt.Errorf("remove the old rules: %w", err)
	}
	return 3, nil
}

// flush carries a transaction out. Of its many errors the first one says why it
// failed.
func flush(connection *nftables.Conn) error {
	err := connection.Flush()
	var many interface{ Unwrap() []error }
	for errors.As(err, &many) {
		err = many.Unwrap()[0]
	}
	return err
}

// contents is what tables hold beside hooks.
type contents struct {
	chains []*nftables.Chain
	sets   []*nftables.Set
}

// listContents returns what the tables of this name hold now.
func listContents(connection *nftables.Conn, name string) (contents, error) {
	var c contents
	for _, version := range ipVersions {
		table := newTable(version, name)
		chains, err := connection.ListChainsOfTableFamily(table.Family)
		if err != nil {
			return c, fmt.Errorf("list chains: %w", err)
		}
		chains = slices.DeleteFunc(chains, func(chain *nftables.Chain) bool { return chain.Table.Name != name })
		if len(chains) == 0 {
			continue
		}
		sets, err := connection.GetSets(table)
		if err != nil {
			return c, fmt.Errorf("list sets: %w", err)
		}
		c.sets = append(c.sets, sets...)
		for _, chain := range chains {
			if chain.Hooknum == nil {
				c.chains = append(c.chains, chain)
			}
		}
	}
	return c, nil
}

// remove removes what refers to something before what it refers to.
func (c contents) remove(connection *nftables.Conn) {
	for _, chain := range c.chains {
		connection.FlushChain(chain)
	}
	for _, set := range c.sets {
		connection.DelSet(set)
	}
	for _, chain := range c.chains {
		connection.DelChain(chain)
	}
}

func newTable(version ipVersion, name string) *nftables.Table {
	family := nftables.TableFamilyIPv4
	if version == 6 {
		family = nftables.TableFamilyIPv6
	}
	return &nftables.Table{Name: name, Family: family}
}

// In nft's own words, a table becomes:
//
//	map exports-1 { type inet_service : verdict; elements = { 20490 : goto clients-1-0, ... } }
//	set clients-1-0 { type ipv4_addr; flags interval; elements = { 192.0.2.1-192.0.2.9, ... } }
//	set silent-1 { type inet_service; elements = { 20490, ... } }
//	set frozen-1 { type inet_service; elements = { ... } }
//	chain exports-1 {
//	    tcp dport vmap @exports-1
//	    reject with tcp reset
//	}
//	chain clients-1-0 {
//	    ip saddr @clients-1-0 accept
//	    reject with tcp reset
//	}
//	chain answers-1 {
//	    tcp sport @frozen-1 drop
//	    tcp flags & (rst | ack) == rst | ack tcp sequence 0 ct state & related == 0 tcp sport @silent-1 drop
//	}
//	chain input {
//	    type filter hook input priority filter
//	    iifname "lo" accept
//	    tcp dport 20490-24585 goto exports-1
//	}
//	chain output {
//	    type filter hook output priority filter
//	    ip daddr 127.0.0.0/8 accept
//	    tcp sport 20490-24585 goto answers-1
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

// addEdition adds all but the hooks, to which nothing leads yet.
func addEdition(connection *nftables.Conn, table *nftables.Table, p plan, edition uint32) error {
	connection.AddTable(table)
	b := &tableBuilder{connection: connection, table: table, version: p.version}
	named := func(name string) string { return fmt.Sprintf("%s-%d", name, edition) }

	targets := b.addMap(named("exports"), nftables.TypeInetService)
	exports := b.addChain(named("exports"))
	b.addRule(exports, b.isTCP(), destinationPort(), lookUpVerdict(targets))
	b.addRule(exports, reject())
	for i, g := range p.groups {
		name := fmt.Sprintf("%s-%d", named("clients"), i)
		clients := b.addSet(name, b.addressType(), true, clientElements(g.clients))
		chain := b.addChain(name)
		b.addRule(chain, b.sourceAddress(), lookUp(clients), accept())
		b.addRule(chain, reject())
		b.addElements(targets, targetElements(g.ports, name))
	}

	silent := b.addSet(named("silent"), nftables.TypeInetService, false, portElements(p.silent))
	frozen := b.addSet(named("frozen"), nftables.TypeInetService, false, portElements(p.frozen))
	answers := b.addChain(named("answers"))
	b.addRule(answers, b.isTCP(), sourcePort(), lookUp(frozen), drop())
	b.addRule(answers, b.isTCP(), answersSYN(), notRelated(), sourcePort(), lookUp(silent), drop())
	return b.err
}

// setHooks has the hooks lead to the edition.
func setHooks(connection *nftables.Conn, table *nftables.Table, p plan, edition uint32) {
	b := &tableBuilder{connection: connection, table: table, version: p.version}
	named := func(name string) string { return fmt.Sprintf("%s-%d", name, edition) }

	input := b.emptyHook("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	b.addRule(input, inputInterface("lo"), accept())
	b.addRule(input, b.isTCP(), destinationPort(), between(p.portMin, p.portMax), goTo(named("exports")))

	output := b.emptyHook("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	b.addRule(output, b.destinationIn(p.version.loopback()), accept())
	b.addRule(output, b.isTCP(), sourcePort(), between(p.portMin, p.portMax), goTo(named("answers")))

	translate := slices.Concat(b.isTCP(), destinationPort(), between(p.portMin, p.portMax),
		b.sourceNotIn(p.version.loopback()), b.sourceNAT())
	sourceInput := b.emptyHook("source-input", nftables.ChainTypeNAT, nftables.ChainHookInput, nftables.ChainPriorityNATSource)
	b.addRule(sourceInput, translate)
	sourceLoopback := b.emptyHook("source-loopback", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.addRule(sourceLoopback, outputInterface("lo"), translate)
}

// targetElements map each port to a chain.
func targetElements(ports []uint16, chain string) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, port := range ports {
		elements = append(elements, nftables.SetElement{Key: portKey(port), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}})
	}
	return elements
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
