package firewall

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	utilexec "k8s.io/utils/exec"
)

// manyExports returns 100 exports with 200 clients each, which are the same for
// all, or different for each. Neighbours cannot be joined.
func manyExports(shared bool) []Export {
	var exports []Export
	for i := range 100 {
		export := Export{Port: 20490 + uint16(i), Silent: true}
		for j := range 200 {
			address := netip.AddrFrom4([4]byte{172, 16, byte(i), byte(j)})
			if shared {
				address = netip.AddrFrom4([4]byte{172, 16, byte(j), 0})
			}
			export.Clients = append(export.Clients, netip.PrefixFrom(address, 32-j%2))
		}
		exports = append(exports, export)
	}
	return exports
}

func BenchmarkApply(b *testing.B) {
	for _, name := range []string{"nf_tables", "iptables-legacy"} {
		for _, clients := range []string{"shared", "different"} {
			for _, call := range []string{"changed", "unchanged"} {
				b.Run(fmt.Sprintf("%s/%s clients/%s", name, clients, call), func(b *testing.B) {
					n := newNetwork(b)
					n.backend = name
					f := n.newFirewallBy(b, candidate(name, utilexec.New()))
					exports := manyExports(clients == "shared")
					f.apply(b, exports...)
					start := time.Now()
					b.ResetTimer()
					for i := range b.N {
						if call == "changed" {
							exports[50].Frozen = i%2 == 0
						}
						f.apply(b, exports...)
					}
					b.Logf("%d exports with %d %s clients each, %s: %v", len(exports), len(exports[0].Clients), clients, call,
						time.Since(start)/time.Duration(b.N))
				})
			}
		}
	}
}
