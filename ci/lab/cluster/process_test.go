package cluster

import "testing"

func TestStartTimeOfAProcess(t *testing.T) {
	const tail = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	tests := []struct {
		name, stat, want string
		fails            bool
	}{
		{name: "running", stat: "42 (etcd) S" + tail, want: "4711"},
		{name: "command with spaces and parentheses", stat: "42 (a b) (c) d) R" + tail, want: "4711"},
		{name: "zombie", stat: "42 (etcd) Z" + tail, fails: true},
		{name: "no command", stat: "42", fails: true},
		{name: "cut off", stat: "42 (etcd) S 1 2", fails: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStartTime(test.stat)
			if (err != nil) != test.fails || got != test.want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestOnlyProcessesOfThisLaboratoryCarryItsMark(t *testing.T) {
	mark := []byte(markVariable + "=/run/one")
	for environment, want := range map[string]bool{
		"A=b\x00" + markVariable + "=/run/one\x00":   true,
		markVariable + "=/run/one":                   true,
		markVariable + "=/run/one-more\x00":          false,
		"OTHER_" + markVariable + "=/run/one\x00":    false,
		"A=" + markVariable + "=/run/one\x00B=c\x00": false,
		"": false,
	} {
		if got := hasVariable([]byte(environment), mark); got != want {
			t.Errorf("%q: %v", environment, got)
		}
	}
}
