package reconnector

import (
	"net/netip"
	"testing"
	"time"
)

func TestOnlyWhatLeadsToAFormerServerIsStale(t *testing.T) {
	service := netip.MustParseAddrPort("10.96.0.7:2049")
	former := netip.MustParseAddrPort("10.244.1.5:20490")
	current := netip.MustParseAddrPort("10.244.2.6:20490")
	samePod := netip.MustParseAddrPort("10.244.2.6:20491")
	nowhere := netip.AddrPort{}
	keep := decision{}
	destroy := decision{Destroy: true, Forget: true, Reason: Translated}

	for _, test := range []struct {
		name     string
		remote   netip.AddrPort
		state    State
		repeats  time.Duration
		leadsTo  netip.AddrPort
		endpoint netip.AddrPort
		misled   bool
		older    bool
		since    time.Duration
		want     decision
	}{
		{name: "established to the current server", remote: service, state: Established, leadsTo: current, endpoint: current, want: keep},
		{name: "established to the former server", remote: service, state: Established, leadsTo: former, endpoint: current, want: destroy},
		{name: "established to another port of the same pod", remote: service, state: Established, leadsTo: samePod, endpoint: current, want: destroy},
		{name: "sent to the Service itself, before there was a rule", remote: service, state: Established, leadsTo: service, endpoint: current, want: destroy},
		{name: "closing towards the former server", remote: service, state: FinWait1, leadsTo: former, endpoint: current, want: destroy},
		{name: "retransmitting to the former server", remote: service, state: Established, repeats: time.Second, leadsTo: former, endpoint: current, want: destroy},
		{name: "new connections still go to the former server", remote: service, state: Established, leadsTo: former, endpoint: current, misled: true, want: keep},
		{name: "connecting, and the next SYN would go there, too", remote: service, state: SynSent, repeats: time.Second, leadsTo: former, endpoint: current, misled: true, want: keep},
		{name: "no server", remote: service, state: Established, leadsTo: former, endpoint: nowhere, want: keep},
		{name: "no server, connecting", remote: service, state: SynSent, repeats: time.Second, leadsTo: former, endpoint: nowhere, want: keep},

		{name: "connecting to the current server", remote: service, state: SynSent, repeats: time.Second, leadsTo: current, endpoint: current, want: keep},
		{name: "connecting to the current server for long", remote: service, state: SynSent, repeats: 8 * time.Second, leadsTo: current, endpoint: current, want: keep},
		{name: "connecting to the former server, SYN repeated late", remote: service, state: SynSent, repeats: 3900 * time.Millisecond, leadsTo: former, endpoint: current, want: destroy},
		{name: "connecting to the former server, SYN repeated soon", remote: service, state: SynSent, repeats: 900 * time.Millisecond, leadsTo: former, endpoint: current,
			want: decision{Forget: true, Reason: Translated}},
		{name: "connecting to the former server, SYN not repeated", remote: service, state: SynSent, leadsTo: former, endpoint: current, want: destroy},

		{name: "connected to the former endpoint itself", remote: former, state: Established, endpoint: current, want: decision{Destroy: true, Reason: FormerEndpoint}},
		{name: "connecting to the former endpoint itself", remote: former, state: SynSent, repeats: time.Second, endpoint: current, want: decision{Destroy: true, Reason: FormerEndpoint}},
		{name: "connected to the former endpoint itself, no server", remote: former, state: Established, endpoint: nowhere, want: keep},
		{name: "connected to the current endpoint itself", remote: current, state: Established, endpoint: current, want: keep},

		{name: "unknown, just moved", remote: service, state: Established, endpoint: current, older: true, since: 900 * time.Millisecond, want: keep},
		{name: "unknown, moved a second ago", remote: service, state: Established, endpoint: current, older: true, since: time.Second, want: decision{Destroy: true, Reason: EndpointChanged}},
		{name: "unknown, connected since", remote: service, state: Established, endpoint: current, since: 5 * time.Second, want: keep},
		{name: "unknown, connecting", remote: service, state: SynSent, endpoint: current, older: true, since: 5 * time.Second, want: keep},
		{name: "unknown, no server", remote: service, state: Established, endpoint: nowhere, older: true, since: 5 * time.Second, want: keep},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := decide(facts{
				Socket:   Socket{Remote: test.remote, State: test.state, Repeats: test.repeats},
				Endpoint: test.endpoint, AtService: test.remote == service, LeadsTo: test.leadsTo, Misled: test.misled, Older: test.older, SinceMove: test.since,
			})
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
