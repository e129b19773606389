package firewall

import (
	"context"
	"errors"
	"slices"
	"testing"

	utilexec "k8s.io/utils/exec"
)

// kernel is a back end that works for some IP versions.
type kernel struct {
	called  string
	able    []ipVersion
	broken  bool
	applied []plan
	rules   bool
}

var errUnable = errors.New("not in this kernel")

func (k *kernel) name() string { return k.called }

func (k *kernel) try(_ context.Context, version ipVersion) error {
	if !slices.Contains(k.able, version) {
		return errUnable
	}
	return nil
}

func (k *kernel) apply(_ context.Context, plans []plan) error {
	if k.broken {
		return errUnable
	}
	k.applied = plans
	return nil
}

func (k *kernel) remove(context.Context) error {
	k.rules = false
	return nil
}

func TestFirstBackEndThatDoesWhatIsNeededIsChosen(t *testing.T) {
	none, four, six, both := []ipVersion{}, []ipVersion{4}, []ipVersion{6}, []ipVersion{4, 6}
	for name, test := range map[string]struct {
		first, second, needed []ipVersion
		want                  string
		able                  []ipVersion
	}{
		"all of it works":                       {both, both, both, "first", both},
		"the first cannot do IP":                {none, both, both, "second", both},
		"the first cannot do IPv6":              {four, both, both, "second", both},
		"IPv6 is not needed":                    {four, both, four, "first", four},
		"IPv4 is not needed":                    {six, both, six, "first", six},
		"what is not needed is done if it can":  {both, both, four, "first", both},
		"no kernel does IPv6, nor is it needed": {none, four, four, "second", four},
		"no kernel does IPv6":                   {four, four, both, "", nil},
		"no kernel does anything":               {none, none, both, "", nil},
		"there are no addresses yet":            {four, both, none, "first", four},
		"neither addresses nor rules":           {none, none, none, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			candidates := []backend{&kernel{called: "first", able: test.first}, &kernel{called: "second", able: test.second}}
			f, err := choose(t.Context(), candidates, test.needed)
			if test.want == "" {
				if err == nil {
					t.Errorf("%s was chosen", f.Name())
				}
				return
			}
			ok(t, err)
			if f.Name() != test.want || !slices.Equal(f.able, test.able) {
				t.Errorf("%s was chosen for %v", f.Name(), f.able)
			}
		})
	}
}

func TestOldRulesOfAnotherBackEndHoldUntilTheNewOnesDo(t *testing.T) {
	chosen := &kernel{called: "chosen", able: ipVersions, broken: true}
	other := &kernel{called: "other", able: ipVersions, rules: true}
	f, err := choose(t.Context(), []backend{chosen, other}, ipVersions)
	ok(t, err)
	if err := f.Apply(t.Context(), rulesFor()); !errors.Is(err, errUnable) || !other.rules {
		t.Errorf("got %v, old rules %v", err, other.rules)
	}
	chosen.broken = false
	ok(t, f.Apply(t.Context(), rulesFor()))
	if other.rules || len(chosen.applied) != 2 {
		t.Errorf("old rules %v, new ones %+v", other.rules, chosen.applied)
	}
}

// Rules for one version only would let everybody in by the other.
func TestAddressWithoutRulesIsAnError(t *testing.T) {
	n := newNetwork(t)
	four := &kernel{called: "IPv4 only", able: []ipVersion{4}}
	ok(t, n.in(t, pod, func() error {
		if f, err := choose(t.Context(), []backend{four}, ipVersions); err == nil {
			t.Errorf("%s was chosen", f.Name())
		}
		// It was chosen before the pod had an address of IPv6.
		f := &firewall{backend: four, able: []ipVersion{4}}
		if err := f.Apply(t.Context(), rulesFor()); err == nil || four.applied != nil {
			t.Errorf("got %v, applied %+v", err, four.applied)
		}
		return nil
	}))
	// A pod with no IPv6 at all can do without rules for it.
	ip(t, n.prefix+pod, "address flush dev eth0 to ::/0")
	f := &podFirewall{n, &firewall{backend: four, able: []ipVersion{4}}}
	f.apply(t, n.export(near))
	if len(four.applied) != 1 {
		t.Errorf("applied %+v", four.applied)
	}
}

func TestNFTablesIsPreferred(t *testing.T) {
	n := newNetwork(t)
	ok(t, n.in(t, pod, func() error {
		f, err := New(t.Context(), utilexec.New())
		if err == nil && f.Name() != "nf_tables" {
			t.Errorf("%s was chosen", f.Name())
		}
		return err
	}))
}
