package reconnector

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMovementsAreFollowed: each step is an endpoint that is seen, a letter or "-"
// for none, each a second after the one before.
func TestMovementsAreFollowed(t *testing.T) {
	endpoints := map[rune]netip.AddrPort{
		'-': {},
		'a': netip.MustParseAddrPort("10.244.1.5:20490"),
		'b': netip.MustParseAddrPort("10.244.2.6:20490"),
		'c': netip.MustParseAddrPort("10.244.3.7:20490"),
	}
	for _, test := range []struct {
		seen   string
		news   bool // the last step is one
		moved  bool
		former string
	}{
		{seen: "a", news: true},
		{seen: "-", news: false},
		{seen: "aa", news: false},
		{seen: "a-", news: true},
		{seen: "ab", news: true, moved: true, former: "a"},
		{seen: "a-b", news: true, moved: true, former: "a"},
		{seen: "a-a", news: true, moved: false},
		{seen: "abc", news: true, moved: true, former: "ab"},
		{seen: "aba", news: true, moved: true, former: "b"},
		{seen: "ab-", news: true, former: "a"},
		{seen: "ab-a", news: true, moved: true, former: "b"},
		{seen: "a-b-c", news: true, moved: true, former: "ab"},
		{seen: "ab" + strings.Repeat(" ", 20) + "c", news: true, moved: true, former: "b"}, // a is forgotten
	} {
		t.Run(test.seen, func(t *testing.T) {
			now := time.Now()
			var m, last *movement
			for _, step := range test.seen {
				now = now.Add(time.Second)
				if step == ' ' {
					continue
				}
				if last = follow(m, endpoints[step], now); last != nil {
					m = last
				}
			}
			if (last != nil) != test.news {
				t.Fatalf("news: %+v", last)
			}
			if last == nil {
				return
			}
			var former []netip.AddrPort
			for _, letter := range test.former {
				former = append(former, endpoints[letter])
			}
			got := slices.SortedFunc(maps.Keys(m.former), netip.AddrPort.Compare)
			if m.moved != test.moved || !slices.Equal(got, former) || !m.changed.Equal(now) {
				t.Errorf("got %+v", m)
			}
		})
	}
}

func TestLooksBecomeRareAndEnd(t *testing.T) {
	changed := time.Now()
	served := movement{endpoint: netip.MustParseAddrPort("10.244.1.5:20490"), changed: changed}
	for after, want := range map[time.Duration]time.Duration{
		0:                       100 * time.Millisecond,
		2900 * time.Millisecond: 100 * time.Millisecond,
		3 * time.Second:         time.Second,
		14 * time.Second:        time.Second,
		15 * time.Second:        0,
		time.Hour:               0,
	} {
		if got := served.pause(changed.Add(after)); got != want {
			t.Errorf("after %v: pause of %v, want %v", after, got, want)
		}
	}
	served.misled = true
	for after, want := range map[time.Duration]time.Duration{
		2 * time.Second:   100 * time.Millisecond,
		15 * time.Second:  time.Second,
		119 * time.Second: time.Second,
		2 * time.Minute:   0,
	} {
		if got := served.pause(changed.Add(after)); got != want {
			t.Errorf("waiting for kube-proxy, after %v: pause of %v, want %v", after, got, want)
		}
	}
	if nowhere := (&movement{changed: changed}).pause(changed); nowhere != 0 {
		t.Errorf("an export without a server is looked at")
	}
}
