package linstor

import (
	"testing"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

// TestInitialDiskState is the table of linstor-server's rules before and since
// 1.33.2 for the first state of a new disk, and for mkfs.
func TestInitialDiskState(t *testing.T) {
	cases := []struct {
		name    string
		facts   initialFacts
		want    drbd.DiskState
		formats bool
	}{
		{"old, thin, first", initialFacts{thin: true, winner: true}, drbd.UpToDate, true},
		{"old, thin, peer", initialFacts{thin: true, initialised: true}, drbd.UpToDate, false},
		{"old, thin, later: UpToDate but no mkfs", initialFacts{thin: true, later: true, winner: true}, drbd.UpToDate, false},
		{"old, thick, first", initialFacts{winner: true}, drbd.UpToDate, true},
		{"old, thick, peer syncs", initialFacts{initialised: true}, "", false},
		{"old, thick, later: never", initialFacts{later: true, winner: true}, drbd.Inconsistent, false},
		{"new, winner", initialFacts{perVolume: true, winner: true}, drbd.UpToDate, true},
		{"new, later winner", initialFacts{perVolume: true, later: true, winner: true}, drbd.UpToDate, true},
		{"new, before the winner", initialFacts{perVolume: true, thin: true}, drbd.Inconsistent, false},
		{"new, thin, after the winner", initialFacts{perVolume: true, thin: true, initialised: true}, drbd.UpToDate, false},
		{"new, thick, after the winner", initialFacts{perVolume: true, initialised: true}, "", false},
		{"joins data", initialFacts{perVolume: true, thin: true, joins: true, initialised: true}, "", false},
		{"restored", initialFacts{perVolume: true, winner: true, copied: true}, drbd.UpToDate, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.facts.diskState(); got != tc.want {
				t.Errorf("state %q, want %q", got, tc.want)
			}
			if got := tc.facts.formats(); got != tc.formats {
				t.Errorf("formats %v, want %v", got, tc.formats)
			}
		})
	}
}

func TestVersionComparison(t *testing.T) {
	for version, want := range map[string]bool{"1.33.1": false, "1.33.2": true, "1.34.0-rc.1": true, "1.9.9": false, "2": true, "1.33": false} {
		if got := laterVolumesInitialised(version); got != want {
			t.Errorf("%s: got %v", version, got)
		}
	}
}
