package linstor

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	lapi "github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/pkg/linstor/fake"
	"github.com/linbit/linstor-rwx/pkg/names"
)

func newClient(t *testing.T) (*Client, *fake.Controller) {
	t.Helper()
	controller := fake.New()
	client, err := New(4, lapi.BaseURL(controller.Start(t)))
	if err != nil {
		t.Fatal(err)
	}
	return client, controller
}

const group = "rwx-0123456789abcdef0123456789abcdef"

var wanted = Wanted{Name: "pvc-1", Export: "pvc-1", ResourceGroup: group, FSType: "xfs", MkfsParams: "-m reflink=0"}

func TestEnsureIsIdempotent(t *testing.T) {
	client, controller := newClient(t)
	for range 2 {
		if err := client.EnsureDefinition(t.Context(), wanted); err != nil {
			t.Fatal(err)
		}
		if err := client.EnsureRecoveryVolume(t.Context(), "pvc-1", "pvc-1", 65536); err != nil {
			t.Fatal(err)
		}
	}
	state := controller.State("pvc-1")
	if state.SizeKiB[1] != 65536 || state.Group != group || state.Props[names.MarkerProperty] != "pvc-1" {
		t.Errorf("got %+v", state)
	}
	// linstor-csi 1.11 sets these only on a definition that it makes itself.
	if state.Props["FileSystem/Type"] != "xfs" || state.Props["FileSystem/MkfsParams"] != "-m reflink=0" {
		t.Errorf("properties of the definition: %v", state.Props)
	}
	// And VolNr 1 must not inherit them.
	if p := state.VolumeProps[1]; p["FileSystem/Type"] != "ext4" || p["FileSystem/MkfsParams"] == "" || p["Aux/csi-volume-name"] != "" {
		t.Errorf("properties of VolNr 1: %v", p)
	}
}

func TestForeignDefinitionsAreRefused(t *testing.T) {
	for name, prepare := range map[string]func(*fake.Controller){
		"is not from linstor-rwx": func(c *fake.Controller) { _ = c.Place("pvc-1", "sc-x", 1024, 1) },
		"belongs to export pvc-2": func(c *fake.Controller) {
			_ = c.Place("pvc-1", group, 1024, 1)
			c.SetProperty("pvc-1", names.MarkerProperty, "pvc-2")
		},
		"in resource group sc-x": func(c *fake.Controller) {
			_ = c.Place("pvc-1", "sc-x", 1024, 1)
			c.SetProperty("pvc-1", names.MarkerProperty, "pvc-1")
		},
		"still being deleted": func(c *fake.Controller) {
			_ = c.Place("pvc-1", group, 1024, 1)
			c.SetDeleting("pvc-1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, controller := newClient(t)
			prepare(controller)
			before := controller.Leftovers()
			err := client.EnsureDefinition(t.Context(), wanted)
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want %q", err, name)
			}
			if gone, err := client.RemoveUnused(t.Context(), "pvc-1", "pvc-1"); gone || err != nil {
				t.Errorf("RemoveUnused: %v, %v; want it kept", gone, err)
			}
			if after := controller.Leftovers(); len(after) < len(before) {
				t.Errorf("before %v, after %v", before, after)
			}
		})
	}
}

func TestStrangersRecoveryVolumeIsRefused(t *testing.T) {
	client, controller := newClient(t)
	if err := controller.Place("pvc-1", "g", 1024, 1); err != nil {
		t.Fatal(err)
	}
	// linstor-csi's own ReadWriteMany support makes VolNr 1 too.
	if err := client.EnsureRecoveryVolume(t.Context(), "pvc-1", "", 65536); err != nil {
		t.Fatal(err)
	}
	err := client.EnsureRecoveryVolume(t.Context(), "pvc-1", "pvc-1", 65536)
	if err == nil || !strings.Contains(err.Error(), "no recovery volume of linstor-rwx") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyEmptyDefinitionsOfOursAreRemoved(t *testing.T) {
	client, controller := newClient(t)
	if err := client.EnsureDefinition(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if err := client.EnsureRecoveryVolume(t.Context(), "pvc-1", "pvc-1", 65536); err != nil {
		t.Fatal(err)
	}
	if gone, err := client.RemoveUnused(t.Context(), "pvc-1", "other"); gone || err != nil {
		t.Errorf("other export: %v, %v", gone, err)
	}
	if gone, err := client.RemoveUnused(t.Context(), "pvc-1", "pvc-1"); !gone || err != nil {
		t.Errorf("empty: %v, %v", gone, err)
	}
	if left := controller.Leftovers(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if gone, err := client.RemoveUnused(t.Context(), "pvc-1", "pvc-1"); !gone || err != nil {
		t.Errorf("absent: %v, %v", gone, err)
	}

	if err := client.EnsureDefinition(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if err := controller.Place("pvc-1", group, 1024, 2); err != nil {
		t.Fatal(err)
	}
	if gone, err := client.RemoveUnused(t.Context(), "pvc-1", "pvc-1"); gone || err != nil {
		t.Errorf("with data: %v, %v", gone, err)
	}
	if controller.State("pvc-1") == nil {
		t.Error("a volume with data was removed")
	}
}

func TestOnlyEmptyGroupsOfOursAreFound(t *testing.T) {
	client, controller := newClient(t)
	if err := client.EnsureDefinition(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if groups, err := client.EmptyGroups(t.Context()); err != nil || len(groups) != 0 {
		t.Errorf("group in use: %v, %v", groups, err)
	}
	if err := client.RemoveGroup(t.Context(), group); err != nil {
		t.Errorf("remove group in use: %v", err)
	}
	if state := controller.State("pvc-1"); state == nil || state.Group != group {
		t.Error("a group in use was removed")
	}
	if err := controller.Place("pvc-2", "rwx-of-a-user", 1024, 1); err != nil {
		t.Fatal(err)
	}
	if err := controller.Drop("pvc-2"); err != nil {
		t.Fatal(err)
	}
	if err := controller.Drop("pvc-1"); err != nil {
		t.Fatal(err)
	}
	groups, err := client.EmptyGroups(t.Context())
	if err != nil || !slices.Equal(groups, []string{group}) {
		t.Errorf("got %v, %v", groups, err)
	}
}

func TestVanishingGroupIsMadeAgain(t *testing.T) {
	client, controller := newClient(t)
	tries := 0
	controller.Before(func(request string) int {
		// As if another volume's deletion had taken the group away just now.
		if request == "POST /v1/resource-definitions" {
			if tries++; tries == 1 {
				return http.StatusNotFound
			}
		}
		return 0
	})
	if err := client.EnsureDefinition(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if tries != 2 {
		t.Errorf("%d tries, want 2", tries)
	}
}

func TestErrorsAreSentencesThatDoNotChange(t *testing.T) {
	client, controller := newClient(t)
	controller.Before(func(string) int { return http.StatusInternalServerError })
	_, err := client.Definition(t.Context(), "pvc-1")
	if err == nil || err.Error() != "read resource definition pvc-1: LINSTOR answers: injected" {
		t.Errorf("got %v", err)
	}

	nobody, err := url.Parse("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if client, err = New(1, lapi.BaseURL(nobody)); err != nil {
		t.Fatal(err)
	}
	_, err = client.Definition(t.Context(), "pvc-1")
	if !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("got %v", err)
	}
}

func TestServableNeedsBothVolumesOnOneNode(t *testing.T) {
	both := func(data, recovery string) map[int]ReplicaVolume {
		return map[int]ReplicaVolume{0: {DiskState: data}, 1: {DiskState: recovery}}
	}
	for name, test := range map[string]struct {
		replicas []Replica
		want     bool
	}{
		"none":                    {nil, false},
		"both UpToDate":           {[]Replica{{Volumes: both("UpToDate", "UpToDate")}}, true},
		"one is enough":           {[]Replica{{Volumes: both("", "")}, {Volumes: both("UpToDate", "UpToDate")}}, true},
		"on different nodes":      {[]Replica{{Volumes: both("UpToDate", "Inconsistent")}, {Volumes: both("Inconsistent", "UpToDate")}}, false},
		"recovery volume missing": {[]Replica{{Volumes: map[int]ReplicaVolume{0: {DiskState: "UpToDate"}}}}, false},
		"diskless":                {[]Replica{{Diskless: true, Volumes: both("UpToDate", "UpToDate")}}, false},
		"being deleted":           {[]Replica{{Deleting: true, Volumes: both("UpToDate", "UpToDate")}}, false},
	} {
		if got := Servable(test.replicas); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestUnknownUseIsNotUnused(t *testing.T) {
	yes, no := true, false
	replicas := []Replica{{Node: "c", InUse: &yes}, {Node: "b", InUse: &no}, {Node: "a"}}
	if users := UsedBy(replicas); !slices.Equal(users, []string{"c"}) {
		t.Errorf("used by %v", users)
	}
	if KnownUnused(replicas[1:]) {
		t.Error("an offline node counts as unused")
	}
	if !KnownUnused(replicas[1:2]) {
		t.Error("an unused replica does not count as unused")
	}
}

func TestOldControllersCannotAddVolumesOnThickPools(t *testing.T) {
	for version, want := range map[string]bool{
		"1.31.3": false, "1.33.1": false, "1.33.2": false, "1.33.3": true, "1.34.0": true, "1.34.0-rc.1": true, "2.0.0": true, "": false, "x.y.z": false,
	} {
		if got := AddsVolumesSafely(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
