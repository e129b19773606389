//go:build ganesha

package ganeshatest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/ganesha/nfs"
)

func TestFirstStartHasNoGrace(t *testing.T) {
	e := newExport(t)
	e.serve(t)
	if took := e.waitUntilGraceEnds(t, 2*time.Second); took > time.Second {
		t.Errorf("grace ended after %v", took)
	}
	if clients := e.clients(t); len(clients) != 0 {
		t.Errorf("got %q", clients)
	}
}

func TestGraceIsSeenOnTheRecoveryVolume(t *testing.T) {
	e := newExport(t)
	s := e.serve(t)
	e.waitUntilGraceEnds(t, 5*time.Second)
	client(t, s, "client-1").Abandon()
	client(t, s, "client-2").Abandon()
	both := []string{recordOf("client-1"), recordOf("client-2")}
	if clients := e.clients(t); !slices.Equal(clients, both) {
		t.Fatalf("got %q", clients)
	}
	s.Kill(t)
	if clients := e.clients(t); !slices.Equal(clients, both) {
		t.Fatalf("after the crash: %q", clients)
	}

	must(t, ganesha.RemoveOrphans(e.recovery))
	s = e.serve(t) // the probe succeeds in grace
	if grace := e.grace(t); grace != (ganesha.Grace{Active: true, Expected: 2}) {
		t.Fatalf("got %+v", grace)
	}
	client(t, s, "client-1").Abandon()
	if grace := e.grace(t); grace != (ganesha.Grace{Active: true, Expected: 2, Reclaimed: 1}) {
		t.Fatalf("got %+v", grace)
	}
	client(t, s, "a-new-client").Abandon()
	must(t, probe(t, s, "/pvc-1"))
	if grace := e.grace(t); grace != (ganesha.Grace{Active: true, Expected: 2, Reclaimed: 1}) {
		t.Fatalf("a new client and a probe do not count: %+v", grace)
	}
	recorded, err := ganesha.Records(e.recovery)
	must(t, err)
	if !slices.Equal(recorded.Clients, both) || !slices.Equal(recorded.Connected, []string{recordOf("a-new-client"), recordOf("client-1")}) {
		t.Fatalf("got %+v", recorded)
	}

	// It dies in grace: the old records count, what it had begun is an orphan.
	s.Kill(t)
	must(t, ganesha.RemoveOrphans(e.recovery))
	if grace := e.grace(t); grace.Active {
		t.Fatalf("nothing runs: %+v", grace)
	}
	s = e.serve(t)
	if grace := e.grace(t); grace != (ganesha.Grace{Active: true, Expected: 2}) {
		t.Fatalf("got %+v", grace)
	}
	client(t, s, "client-1").Abandon()
	client(t, s, "client-2").Abandon()
	took := e.waitUntilGraceEnds(t, 10*time.Second)
	t.Logf("grace ended %v after the last client, lease %v", took.Round(time.Millisecond), e.config.Lease)
	if clients := e.clients(t); !slices.Equal(clients, both) {
		t.Errorf("got %q", clients)
	}
	if strings.Count(strings.Join(e.entries(t), "\n"), "/node0.") != 3 {
		t.Errorf("something is left of the grace: %q", e.entries(t))
	}
}

// graceOfNext kills a server, lets prepare work on its records and returns how
// long the grace of the next one lasts, after client-1 came back.
func (e *export) graceOfNext(t *testing.T, s *Server, prepare func()) time.Duration {
	t.Helper()
	s.Kill(t)
	must(t, ganesha.RemoveOrphans(e.recovery))
	prepare()
	s = e.serve(t)
	defer s.Kill(t)
	client(t, s, "client-1").Abandon()
	return e.waitUntilGraceEnds(t, e.config.Grace+5*time.Second)
}

func TestAnInterruptedProbeDoesNotHoldGrace(t *testing.T) {
	e := newExport(t)
	e.config.Grace = 12 * time.Second
	interrupted := func() *Server {
		s := e.serve(t)
		e.waitUntilGraceEnds(t, 5*time.Second)
		client(t, s, "client-1").Abandon()
		session, err := nfs.Connect(t.Context(), s.Address)
		must(t, err)
		session.Abandon()
		return s
	}
	s := interrupted()
	if clients := e.clients(t); !slices.Equal(clients, []string{recordOf("client-1")}) {
		t.Errorf("a probe is taken for a client: %q", clients)
	}
	took := e.graceOfNext(t, s, func() {
		if dropped, err := ganesha.DropProbeRecords(e.recovery); err != nil || dropped != 1 {
			t.Errorf("got %d, %v", dropped, err)
		}
	})
	if took > 6*time.Second {
		t.Errorf("grace lasted %v", took)
	}

	// Without that, grace lasts to its end: the test would see it.
	must(t, ganesha.WipeForeign(e.recovery))
	took = e.graceOfNext(t, interrupted(), func() {})
	if took < 8*time.Second {
		t.Errorf("grace lasted only %v", took)
	}
}

func TestADroppedClientDoesNotHoldGrace(t *testing.T) {
	e := newExport(t)
	s := e.serve(t)
	e.waitUntilGraceEnds(t, 5*time.Second)
	long := strings.Repeat("a-client-with-a-long-name/", 20) // over two directories
	client(t, s, "client-1").Abandon()
	client(t, s, "dead").Abandon()
	client(t, s, long).Abandon()
	clients := e.clients(t)
	if len(clients) != 3 {
		t.Fatalf("got %q", clients)
	}
	took := e.graceOfNext(t, s, func() {
		dropped, err := ganesha.DropClients(e.recovery, func(client string) bool { return client != recordOf("client-1") })
		if err != nil || dropped != 2 {
			t.Errorf("got %d, %v", dropped, err)
		}
	})
	if took > 5*time.Second {
		t.Errorf("grace lasted %v", took)
	}
}

func TestWipedVolumeHasNoGrace(t *testing.T) {
	e := newExport(t)
	s := e.serve(t)
	e.waitUntilGraceEnds(t, 5*time.Second)
	client(t, s, "of-another-volume").Abandon()
	s.Kill(t)
	must(t, ganesha.WipeForeign(e.recovery))
	must(t, ganesha.WriteIdentity(e.recovery, ganesha.Identity{ResourceDefinitionUUID: "u", Export: "pvc-1", ExportID: 7}))
	e.serve(t)
	e.waitUntilGraceEnds(t, time.Second)
	if clients := e.clients(t); len(clients) != 0 {
		t.Errorf("got %q", clients)
	}
}

// A client that lost its lease is spoken for: the others do not wait for it, and
// what it held is not taken by others before that.
func TestGraceEndsWhenSomebodySpeaksForALostClient(t *testing.T) {
	e := newExport(t)
	s := e.serve(t)
	e.waitUntilGraceEnds(t, 5*time.Second)
	owner := "Linux NFSv4.2 lost-node"
	client(t, s, owner).Abandon()
	client(t, s, "client-1").Abandon()
	records := e.clients(t)
	if len(records) != 2 {
		t.Fatalf("got %q", records)
	}
	lost := records[slices.IndexFunc(records, func(key string) bool { return ganesha.Owner(key) == owner })]
	if host := ganesha.Hostname(ganesha.Owner(lost)); host != "lost-node" {
		t.Errorf("the record %q is of host %q", lost, host)
	}
	s.Kill(t)
	must(t, ganesha.RemoveOrphans(e.recovery))
	s = e.serve(t)
	client(t, s, "client-1").Abandon()
	time.Sleep(e.config.Lease)
	if grace := e.grace(t); !grace.Active {
		t.Fatal("nobody waited for the lost client")
	}
	must(t, ganesha.SpeakFor(t.Context(), s.Address, ganesha.Owner(lost)))
	if took := e.waitUntilGraceEnds(t, e.config.Grace); took > e.config.Lease {
		t.Errorf("grace ended only %v after that", took)
	}
	if clients := e.clients(t); slices.Contains(clients, lost) {
		t.Errorf("the lost client is still recorded: %q", clients)
	}
}
