package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// legacyTable is our part of one of the kernel's legacy tables, in the words of
// iptables-save: what is written can be compared with what is read.
type legacyTable struct {
	name   string
	chains []legacyChain
	// jumps lead from the kernel's own chains to ours.
	jumps []string
}

type legacyChain struct {
	name  string
	rules []string
}

// multiport takes so many ports.
const portsPerRule = 15

// legacyRules returns the tables of a plan. What they say is in the comment of
// addRules; "return" takes the place of "accept" there, so that other rules of
// the namespace still have their say. Each packet of an export passes all clients
// of one group at most.
//
// nat comes first, because the kernel looks there at the first packet of a
// connection only: nobody may be let in before it is there.
func legacyRules(p plan, prefix string) []legacyTable {
	return []legacyTable{legacyNAT(p, prefix), legacyFilter(p, prefix)}
}

func legacyNAT(p plan, prefix string) legacyTable {
	source := legacyChain{name: prefix + "SOURCE"}
	address := p.version.clientAddress().String()
	if p.version == 6 {
		address = "[" + address + "]"
	}
	source.add("! -s %s -p tcp -m tcp --dport %s -j SNAT --to-source %s:%d-%d",
		p.version.loopback(), portRange(p), address, clientPortMin, clientPortMax)
	return legacyTable{
		name:   "nat",
		chains: []legacyChain{source},
		jumps:  []string{"-A INPUT -j " + source.name, "-A POSTROUTING -o lo -j " + source.name},
	}
}

func legacyFilter(p plan, prefix string) legacyTable {
	input := legacyChain{name: prefix + "INPUT"}
	exports := legacyChain{name: prefix + "EXPORTS"}
	output := legacyChain{name: prefix + "OUTPUT"}
	silent := legacyChain{name: prefix + "SILENT"}

	input.add("-i lo -j RETURN")
	// Where a chain was reached by "-g", return leads back to where the chain before
	// it was called from: here, out of our rules.
	input.add("-p tcp -m tcp --dport %s -g %s", portRange(p), exports.name)

	var clients []legacyChain
	for i, g := range p.groups {
		chain := legacyChain{name: fmt.Sprintf("%sCLIENTS-%d", prefix, i)}
		for _, client := range g.clients {
			if client.Bits() == 0 {
				chain.add("-j RETURN")
			} else {
				chain.add("-s %s -j RETURN", client)
			}
		}
		chain.add("-p tcp -j REJECT --reject-with tcp-reset")
		clients = append(clients, chain)
		for ports := range slices.Chunk(g.ports, portsPerRule) {
			exports.add("-p tcp -m multiport --dports %s -g %s", portList(ports), chain.name)
		}
	}
	exports.add("-p tcp -j REJECT --reject-with tcp-reset")

	output.add("-d %s -j RETURN", p.version.loopback())
	for ports := range slices.Chunk(p.frozen, portsPerRule) {
		output.add("-p tcp -m multiport --sports %s -j DROP", portList(ports))
	}
	output.add(`-p tcp -m tcp --tcp-flags RST,ACK RST,ACK -m u32 --u32 "%s" -m conntrack ! --ctstate RELATED -j %s`,
		sequenceZero(p.version), silent.name)
	for ports := range slices.Chunk(p.silent, portsPerRule) {
		silent.add("-p tcp -m multiport --sports %s -j DROP", portList(ports))
	}

	return legacyTable{
		name:   "filter",
		chains: slices.Concat([]legacyChain{input, exports, output, silent}, clients),
		jumps:  []string{"-A INPUT -j " + input.name, "-A OUTPUT -j " + output.name},
	}
}

func (c *legacyChain) add(format string, args ...any) {
	c.rules = append(c.rules, fmt.Sprintf("-A %s "+format, append([]any{c.name}, args...)...))
}

func portRange(p plan) string {
	if p.portMin == p.portMax {
		return fmt.Sprint(p.portMin)
	}
	return fmt.Sprintf("%d:%d", p.portMin, p.portMax)
}

func portList(ports []uint16) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ","), "[]")
}

// sequenceZero is a match of u32 for TCP's sequence number 0, which is 4 bytes
// behind the start of TCP's header.
func sequenceZero(version ipVersion) string {
	if version == 4 {
		// The length of IP's header is in the low half of its first byte, in words.
		return "0x0>>0x16&0x3c@0x4=0x0"
	}
	// IPv6's header has 40 bytes. Headers may follow it, but not in a reset that this
	// kernel has made.
	return "0x2c=0x0"
}

// noLegacyRules is what the tables hold when nothing of ours is there.
func noLegacyRules() []legacyTable { return []legacyTable{{name: "nat"}, {name: "filter"}} }

// parseLegacy returns our part of what iptables-save printed: the chains with this
// prefix and the jumps to them, by table.
func parseLegacy(text, prefix string) map[string]legacyTable {
	tables := map[string]legacyTable{}
	var table legacyTable
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case strings.HasPrefix(line, "*"):
			table = legacyTable{name: line[1:]}
		case strings.HasPrefix(line, ":"+prefix):
			table.chains = append(table.chains, legacyChain{name: words[0][1:]})
		case words[0] == "-A" && strings.HasPrefix(words[1], prefix):
			// iptables-save prints all chains of a table before the rules.
			for i := range table.chains {
				if table.chains[i].name == words[1] {
					table.chains[i].rules = append(table.chains[i].rules, line)
				}
			}
		case words[0] == "-A" && strings.HasPrefix(words[len(words)-1], prefix):
			table.jumps = append(table.jumps, line)
		case line == "COMMIT":
			tables[table.name] = table
		}
	}
	return tables
}

// legacyChange returns the text for iptables-restore that makes the wanted tables
// of those that are there; "" if there is nothing to do.
func legacyChange(there map[string]legacyTable, wanted []legacyTable) string {
	var text strings.Builder
	for _, table := range wanted {
		if lines := tableChange(there[table.name], table); len(lines) > 0 {
			fmt.Fprintf(&text, "*%s\n%s\nCOMMIT\n", table.name, strings.Join(lines, "\n"))
		}
	}
	return text.String()
}

func tableChange(there, wanted legacyTable) []string {
	if sameChains(there.chains, wanted.chains) && slices.Equal(sorted(there.jumps), sorted(wanted.jumps)) {
		return nil
	}
	var lines, deletions []string
	// A chain that is named is emptied, or made.
	for _, chain := range wanted.chains {
		lines = append(lines, ":"+chain.name+" - [0:0]")
	}
	for _, chain := range there.chains {
		if !slices.ContainsFunc(wanted.chains, func(c legacyChain) bool { return c.name == chain.name }) {
			lines = append(lines, ":"+chain.name+" - [0:0]")
			deletions = append(deletions, "-X "+chain.name)
		}
	}
	for _, chain := range wanted.chains {
		lines = append(lines, chain.rules...)
	}
	// One that is there stays where it is; of two, one goes.
	missing := slices.Clone(wanted.jumps)
	for _, jump := range there.jumps {
		if i := slices.Index(missing, jump); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
		} else {
			lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
		}
	}
	for _, jump := range missing {
		// At the start of the kernel's chain: what others accept there would be let in.
		chain, rest, _ := strings.Cut(strings.TrimPrefix(jump, "-A "), " ")
		lines = append(lines, "-I "+chain+" 1 "+rest)
	}
	return append(lines, deletions...)
}

func sameChains(a, b []legacyChain) bool {
	byName := func(a, b legacyChain) int { return strings.Compare(a.name, b.name) }
	return slices.EqualFunc(slices.SortedFunc(slices.Values(a), byName), slices.SortedFunc(slices.Values(b), byName),
		func(a, b legacyChain) bool { return a.name == b.name && slices.Equal(a.rules, b.rules) })
}

func sorted(lines []string) []string { return slices.Sorted(slices.Values(lines)) }
