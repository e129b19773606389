package drbd

import "testing"

func TestQuorumIsCountedAsTheRealOneDoes(t *testing.T) {
	for _, test := range []struct {
		name  string
		votes votes
		want  bool
	}{
		{"all of two", votes{present: 2, diskless: 1}, true},
		{"one of two and the tiebreaker keep it", votes{present: 1, unknown: 1, diskless: 1, had: true}, true},
		{"one of two and the tiebreaker do not regain it", votes{present: 1, unknown: 1, diskless: 1}, false},
		{"one of two alone", votes{present: 1, unknown: 1, missingDiskless: 1, had: true}, false},
		{"one of two, half of the clients", votes{present: 1, unknown: 1, diskless: 1, missingDiskless: 1, had: true}, false},
		{"two of three", votes{present: 2, unknown: 1}, true},
		{"one of three", votes{present: 1, unknown: 2, diskless: 1, had: true}, false},
		{"two of four and the tiebreaker", votes{present: 2, unknown: 2, diskless: 1, had: true}, true},
		{"no disk that votes", votes{diskless: 1, had: true}, false},
		{"the only disk", votes{present: 1, missingDiskless: 1}, true},
	} {
		if got := test.votes.quorum(); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}
