package firewall

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func prefixes(t *testing.T, text string) []netip.Prefix {
	t.Helper()
	var list []netip.Prefix
	for _, word := range strings.Fields(text) {
		prefix, err := netip.ParsePrefix(word)
		ok(t, err)
		list = append(list, prefix)
	}
	return list
}

func TestPlanSaysTheSameForTheSameRules(t *testing.T) {
	for name, test := range map[string]struct {
		exports []Export
		want    map[ipVersion]plan
	}{
		"nothing is served": {
			want: map[ipVersion]plan{4: {}, 6: {}},
		},
		"exports with the same clients are one group": {
			exports: []Export{
				{Port: 20493, Clients: prefixes(t, "10.0.0.2/32 10.0.0.1/32"), Frozen: true},
				{Port: 20490, Clients: prefixes(t, "10.0.0.1/32 10.0.0.2/32"), Silent: true},
				{Port: 20491, Clients: prefixes(t, "10.0.0.1/32")},
				{Port: 20492},
			},
			want: map[ipVersion]plan{
				4: {
					groups: []group{
						{ports: []uint16{20490, 20493}, clients: prefixes(t, "10.0.0.1/32 10.0.0.2/32")},
						{ports: []uint16{20491}, clients: prefixes(t, "10.0.0.1/32")},
					},
					silent: []uint16{20490}, frozen: []uint16{20493},
				},
				// Nobody may connect by IPv6: a freeze changes nothing there.
				6: {},
			},
		},
		"each client belongs to its version": {
			exports: []Export{{Port: 20490, Clients: prefixes(t, "fd00::/64 10.0.0.0/8 ::ffff:192.0.2.1/128")}},
			want: map[ipVersion]plan{
				4: {groups: []group{{ports: []uint16{20490}, clients: prefixes(t, "10.0.0.0/8 192.0.2.1/32")}}},
				6: {groups: []group{{ports: []uint16{20490}, clients: prefixes(t, "fd00::/64")}}},
			},
		},
		"what is said twice or is part of a larger prefix counts once": {
			exports: []Export{{Port: 20490, Clients: prefixes(t, "10.1.2.3/32 10.1.2.3/32 10.1.0.9/16 10.1.0.0/16 10.2.0.0/32 fd00::1/128 ::/0")}},
			want: map[ipVersion]plan{
				4: {groups: []group{{ports: []uint16{20490}, clients: prefixes(t, "10.1.0.0/16 10.2.0.0/32")}}},
				6: {groups: []group{{ports: []uint16{20490}, clients: prefixes(t, "::/0")}}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			plans, err := makePlans(rulesFor(test.exports...), ipVersions)
			ok(t, err)
			if len(plans) != len(test.want) {
				t.Fatalf("got %d plans", len(plans))
			}
			for _, got := range plans {
				want := test.want[got.version]
				want.version, want.portMin, want.portMax = got.version, 20490, 20589
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s: got %+v, want %+v", got.version, got, want)
				}
			}
		})
	}
}

func TestRulesThatContradictThemselvesAreRefused(t *testing.T) {
	for name, rules := range map[string]Rules{
		"no range":             {},
		"range from the end":   {PortMin: 2, PortMax: 1},
		"port below the range": {PortMin: 10, PortMax: 20, Exports: []Export{{Port: 9}}},
		"port above the range": {PortMin: 10, PortMax: 20, Exports: []Export{{Port: 21}}},
		"two with one port":    {PortMin: 10, PortMax: 20, Exports: []Export{{Port: 11}, {Port: 12}, {Port: 11}}},
		"client without value": {PortMin: 10, PortMax: 20, Exports: []Export{{Port: 11, Clients: make([]netip.Prefix, 1)}}},
	} {
		t.Run(name, func(t *testing.T) {
			if plans, err := makePlans(rules, ipVersions); err == nil {
				t.Errorf("got %+v", plans)
			}
		})
	}
}

func TestNeighboursAreJoined(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"10.0.0.1/32 10.0.0.2/31 10.0.0.4/30": "10.0.0.1-10.0.0.7",
		"10.0.0.1/32 10.0.0.3/32":             "10.0.0.1-10.0.0.1 10.0.0.3-10.0.0.3",
		"0.0.0.0/0":                           "0.0.0.0-255.255.255.255",
		"0.0.0.0/1 128.0.0.0/1":               "0.0.0.0-255.255.255.255",
		"fd00::/64 fd00:0:0:1::/64":           "fd00::-fd00::1:ffff:ffff:ffff:ffff",
		"ff00::/8":                            "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	} {
		var got []string
		for _, i := range intervalsOf(prefixes(t, text)) {
			got = append(got, fmt.Sprintf("%s-%s", i.first, i.last))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
