package firewall

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
)

// tables returns which tables there are in the pod, and how many chains and sets
// ours have beside the hooks.
func (n *network) tables(t *testing.T) (names []string, ours contents) {
	t.Helper()
	ok(t, n.in(t, pod, func() error {
		connection, err := connect(t.Context())
		if err != nil {
			return err
		}
		tables, err := connection.ListTables()
		if err != nil {
			return err
		}
		for _, table := range tables {
			names = append(names, table.Name)
		}
		ours, err = listContents(connection, nftTable)
		return err
	}))
	slices.Sort(names)
	return names, ours
}

func TestNFTablesKeepsOneEditionAndLeavesTablesOfOthersAlone(t *testing.T) {
	n := newNetwork(t)
	n.backend = "nf_tables"
	ok(t, n.in(t, pod, func() error {
		connection, err := connect(t.Context())
		if err != nil {
			return err
		}
		connection.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyIPv4})
		return connection.Flush()
	}))
	f := n.newFirewall(t)
	two := Export{Port: port + 1, Clients: n.export(far).Clients, Silent: true}
	for range 3 {
		f.apply(t, n.export(near), two)
		f.apply(t, n.export(near))
	}
	names, ours := n.tables(t)
	if want := []string{"linstor-rwx", "linstor-rwx", "others"}; !slices.Equal(names, want) {
		t.Errorf("the tables are %v", names)
	}
	// For IPv4 one chain of clients, and for each version exports and answers; sets
	// for the same, and silent and frozen in place of answers.
	if len(ours.chains) != 5 || len(ours.sets) != 7 {
		t.Errorf("there are %d chains and %d sets", len(ours.chains), len(ours.sets))
	}
	ok(t, n.in(t, pod, func() error { return f.firewall.backend.remove(t.Context()) }))
	if names, _ := n.tables(t); !slices.Equal(names, []string{"others"}) {
		t.Errorf("at the end the tables are %v", names)
	}
}

func TestNFTablesInForceAreNotWrittenAgain(t *testing.T) {
	n := newNetwork(t)
	n.backend = "nf_tables"
	f := n.newFirewall(t)
	generation := func() (number uint32) {
		ok(t, n.in(t, pod, func() (err error) {
			number, err = readGeneration(t.Context())
			return err
		}))
		return number
	}
	f.apply(t, n.export(near, far))
	first := generation()
	f.apply(t, n.export(far, near))
	if second := generation(); second != first {
		t.Errorf("%d transactions for the same rules", second-first)
	}
	f.apply(t, n.export(near))
	if third := generation(); third == first {
		t.Error("no transaction for other rules")
	}
}

// A set's elements need more than one message, and a message more than one
// element.
func TestNFTablesTakesThousandsOfClients(t *testing.T) {
	n := newNetwork(t)
	n.backend = "nf_tables"
	export := n.export(near)
	for i := range 3000 {
		// Every second address: neighbours would be joined.
		export.Clients = append(export.Clients,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 7), byte(i << 1)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 7), 15: byte(i << 1)}), 128))
	}
	n.newFirewall(t).apply(t, export)
	n.serve(t, "", port)
	for _, n.version = range ipVersions {
		n.mustBeRefused(t, far, port)
	}
	n.version = 4
	n.mustConnect(t, near)
}

func TestContextBoundsNFTables(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&nfTables{}).apply(ctx, nil); err == nil {
		t.Error("rules were written")
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if wait := time.Until(netlinkDeadline(ctx)); wait > netlinkTimeout {
		t.Errorf("it waits %v", wait)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if wait := time.Until(netlinkDeadline(ctx)); wait > time.Second {
		t.Errorf("it waits %v", wait)
	}
}
