package linstor

import (
	"net/http"
	"slices"
	"testing"

	"github.com/linbit/linstor-rwx/pkg/names"
)

func TestWhatIsNotUpToDateIsNamed(t *testing.T) {
	no := false
	replica := func(node, data, recovery string) Replica {
		return Replica{Node: node, InUse: &no, Volumes: map[int]ReplicaVolume{0: {DiskState: data}, 1: {DiskState: recovery}}}
	}
	with := func(r Replica, change func(*Replica)) Replica {
		change(&r)
		return r
	}
	for name, test := range map[string]struct {
		replicas []Replica
		want     []string
	}{
		"all UpToDate":    {[]Replica{replica("n1", "UpToDate", "UpToDate"), replica("n2", "UpToDate", "UpToDate")}, nil},
		"one Outdated":    {[]Replica{replica("n1", "UpToDate", "UpToDate"), replica("n2", "Outdated", "UpToDate")}, []string{"volume 0 on node n2 is Outdated"}},
		"recovery volume": {[]Replica{replica("n1", "UpToDate", "Inconsistent")}, []string{"volume 1 on node n1 is Inconsistent"}},
		"state missing":   {[]Replica{replica("n1", "UpToDate", "")}, []string{"the state of volume 1 on node n1 is not known"}},
		"offline":         {[]Replica{with(replica("n3", "", ""), func(r *Replica) { r.InUse = nil })}, []string{"node n3 is offline in LINSTOR"}},
		"several": {[]Replica{with(replica("n3", "", ""), func(r *Replica) { r.InUse = nil }), replica("n1", "Failed", "Failed")},
			[]string{"node n3 is offline in LINSTOR", "volume 0 on node n1 is Failed", "volume 1 on node n1 is Failed"}},
		"tiebreaker":    {[]Replica{with(replica("n3", "Diskless", "Diskless"), func(r *Replica) { r.Diskless = true })}, nil},
		"being deleted": {[]Replica{with(replica("n3", "Failed", "Failed"), func(r *Replica) { r.Deleting = true })}, nil},
	} {
		if got := NotUpToDate(test.replicas); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestRetryOfAGrowthChangesTheVolumeDefinitionEachTime(t *testing.T) {
	client, controller := newClient(t)
	if err := controller.Place("pvc-1", group, 1024, 2); err != nil {
		t.Fatal(err)
	}
	var last string
	for range 2 {
		if err := client.RetryGrowth(t.Context(), "pvc-1"); err != nil {
			t.Fatal(err)
		}
		state := controller.State("pvc-1")
		tried := state.VolumeProps[0][names.GrowthRetriedProperty]
		if tried == "" || tried == last || state.SizeKiB[0] != 1024 {
			t.Errorf("tried at %q after %q, %d KiB", tried, last, state.SizeKiB[0])
		}
		last = tried
	}
	if err := client.RetryGrowth(t.Context(), "absent"); err != nil {
		t.Errorf("a volume that is gone: %v", err)
	}
	controller.Before(func(string) int { return http.StatusInternalServerError })
	if err := client.RetryGrowth(t.Context(), "pvc-1"); err == nil || err.Error() != "grow volume 0 of pvc-1: LINSTOR answers: injected" {
		t.Errorf("got %v", err)
	}
}
