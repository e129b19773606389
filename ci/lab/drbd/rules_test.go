package drbd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// inLab runs a test in synthetic time; violations fail it.
func inLab(t *testing.T, options ResourceOptions, test func(*lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, options)
		defer l.finish()
		test(l)
	})
}

func (l *lab) wantIO(node string, write bool, want string) {
	l.t.Helper()
	if got := l.io(node, 0, write); got != want {
		l.t.Errorf("request on %s (write %t): %s, want %s", node, write, got, want)
	}
}

func (l *lab) promote(node string) {
	l.t.Helper()
	l.must(l.Promote(l.t.Context(), node, "pvc-a", false))
}

func (l *lab) wantRefusal(err error, code int) {
	l.t.Helper()
	var refused *StateError
	if !errors.As(err, &refused) || refused.Code != code {
		l.t.Errorf("got %v, want refusal %d", err, code)
	}
}

func (l *lab) state(node string) State {
	l.t.Helper()
	s, err := l.State(node, "pvc-a")
	l.must(err)
	return s
}

func TestOnlyThePrimaryReadsAndWrites(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.wantIO("n0", false, "EIO")
		l.promote("n0")
		l.wantIO("n0", true, "ok")
		l.wantIO("n0", false, "ok")
		l.wantIO("n1", false, "EIO")
		l.wantIO("n2", true, "EIO")
	})
}

func TestClientCanBePrimary(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n2")
		l.wantIO("n2", true, "ok")
		l.wantRefusal(l.Promote(l.t.Context(), "n0", "pvc-a", false), codeTwoPrimaries)
	})
}

func TestCutOffPrimaryHangsThenFails(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.wantIO("n0", true, "ok")
		l.Partition([]string{"n1", "n2"})
		l.wantIO("n0", true, "hangs") // nobody acknowledges, nobody noticed
		l.wantIO("n0", false, "ok")   // its own disk is there
		hanging := l.startIO("n0", 0, true)
		l.wait(12 * time.Second)
		if err := <-hanging; err == nil {
			t.Error("write was acknowledged without the peer")
		}
		l.wantIO("n0", true, "EIO")
		l.wantIO("n0", false, "EIO")
		if role := l.state("n0").Role; role != Primary {
			t.Errorf("role is %s, stays Primary in the real one", role)
		}
	})
}

func TestCutOffPrimaryReadsOldDataUntilItNotices(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		read := func(node string) string {
			device, err := l.Export(node, "pvc-a", 0)
			l.must(err)
			p := make([]byte, 2)
			l.must(device.Read(l.t.Context(), p, 0))
			return string(p)
		}
		l.promote("n0")
		l.wantIO("n0", true, "ok")
		l.Partition([]string{"n1", "n2"})
		l.promote("n1")
		l.wantIO("n1", true, "ok")
		if got := read("n1"); got != "n1" {
			t.Errorf("new Primary reads %q", got)
		}
		if got := read("n0"); got != "n0" {
			t.Errorf("old Primary reads %q, which its disk does not have", got)
		}
		l.wait(12 * time.Second)
		l.wantIO("n0", false, "EIO")
	})
}

func TestSuspendedQuorumHangsUntilForcedDemotion(t *testing.T) {
	inLab(t, majoritySuspend, func(l *lab) {
		l.promote("n0")
		l.driver.open("n0", 1000, "mount")
		l.Partition([]string{"n1", "n2"})
		l.wait(12 * time.Second)
		hanging := l.startIO("n0", 0, true)
		l.wait(time.Minute)
		l.wantIO("n0", true, "hangs")
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", true))
		if err := <-hanging; err == nil {
			t.Error("released write succeeded")
		}
		l.wantIO("n0", false, "EIO")
	})
}

func TestSuspendedQuorumGoesOnAfterTheCutHeals(t *testing.T) {
	inLab(t, majoritySuspend, func(l *lab) {
		l.promote("n0")
		l.Partition([]string{"n1", "n2"})
		l.wait(15 * time.Second)
		hanging := l.startIO("n0", 0, true)
		l.Heal()
		l.wait(5 * time.Second)
		select {
		case err := <-hanging:
			l.must(err)
		default:
			t.Error("write hangs although the quorum is back")
		}
	})
}

func TestUserSuspensionStopsAllIOOfTheResource(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.must(l.SuspendIO(l.t.Context(), "pvc-a"))
		l.wantIO("n0", true, "hangs")
		if got := l.io("n0", 1, false); got != "hangs" {
			t.Errorf("other volume: %s", got)
		}
		l.must(l.ResumeIO("pvc-a"))
		l.wantIO("n0", true, "ok")
	})
}

func TestForcedDemotionFailsIOUntilAllHaveClosed(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.driver.open("n0", 1000, "mount")
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", true))
		l.wait(time.Second)
		l.wantIO("n0", false, "EIO")
		l.wantRefusal(l.Promote(l.t.Context(), "n0", "pvc-a", false), codeHeldOpen)
		l.promote("n1")
		l.must(l.Demote(l.t.Context(), "n1", "pvc-a", false))
		l.driver.open("n0", 1000, "")
		l.wait(time.Second)
		l.promote("n0")
		l.wantIO("n0", false, "ok")
		if l.driver.flushed["n0/1000"] != 2 {
			t.Errorf("buffers flushed %d times, want at each promotion", l.driver.flushed["n0/1000"])
		}
	})
}

func TestDetachedPrimaryCarriesOnThroughThePeer(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.must(l.DetachDisk("n0", "pvc-a", 0))
		l.wantIO("n0", true, "ok")
		l.PowerOff("n1")
		l.wantIO("n0", false, "hangs")
		l.wait(12 * time.Second)
		l.wantIO("n0", false, "EIO")
	})
}

func TestAcknowledgedWritesSurviveThePrimary(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.wantIO("n0", true, "ok")
		l.PowerOff("n0")
		start := time.Now()
		l.promote("n1")
		if took := time.Since(start); took < time.Second || took > 1300*time.Millisecond {
			t.Errorf("take-over took %v, measured were 1.04 to 1.27 s", took)
		}
		device, err := l.Export("n1", "pvc-a", 0)
		l.must(err)
		p := make([]byte, 2)
		l.must(device.Read(l.t.Context(), p, 0))
		if string(p) != "n0" {
			t.Errorf("read %q", p)
		}
		l.PowerOn("n0")
		l.must(l.Register(l.t.Context(), "n0", "boot2"))
		resynced := false
		for range 400 {
			l.wait(10 * time.Millisecond)
			resynced = resynced || l.state("n0").Volumes[0].Disk == Inconsistent
		}
		if !resynced {
			t.Error("the returned disk did not resync")
		}
		if disk := l.state("n0").Volumes[0].Disk; disk != UpToDate {
			t.Errorf("resynced disk is %s", disk)
		}
		l.wantIO("n0", false, "EIO") // Secondary after the boot
	})
}

func TestRestartOfTheAgentIsNoReboot(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.must(l.Register(l.t.Context(), "n0", "boot1"))
		if role := l.state("n0").Role; role != Primary {
			t.Errorf("role after the agent's restart: %s", role)
		}
		l.must(l.Register(l.t.Context(), "n0", "boot2"))
		if role := l.state("n0").Role; role != Secondary {
			t.Errorf("role after a reboot: %s", role)
		}
	})
}

func TestPausedPrimaryLearnsFirstThatItIsNoLongerIt(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.Pause("n0")
		hanging := l.startIO("n0", 0, true)
		l.wait(time.Second)
		l.promote("n1")
		l.wantIO("n1", true, "ok")
		l.Unpause("n0")
		if err := <-hanging; err == nil {
			t.Error("a write of the old Primary went through")
		}
		l.wantIO("n0", true, "EIO")
		l.wait(30 * time.Second)
		if l.state("n0").Connections[0].State == stateConnected {
			t.Error("two Primaries are connected")
		}
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", false))
		l.wait(10 * time.Second)
		if disk := l.state("n0").Volumes[0].Disk; disk != UpToDate {
			t.Errorf("disk after return: %s", disk)
		}
	})
}

func TestOutdatedSurvivorIsNotPromoted(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.must(l.Outdate("n1", "pvc-a", 0))
		l.promote("n0")
		l.PowerOff("n0")
		l.wantRefusal(l.Promote(l.t.Context(), "n1", "pvc-a", false), codeNoUpToDateData)
	})
}

func TestBusyResourceIsNotTakenDown(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		if err := l.Deconfigure(l.t.Context(), "n0", "pvc-a"); !errors.Is(err, ErrInUse) {
			t.Errorf("Primary: %v", err)
		}
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", false))
		l.driver.open("n0", 1001, "blkid")
		if err := l.Deconfigure(l.t.Context(), "n0", "pvc-a"); !errors.Is(err, ErrInUse) {
			t.Errorf("open: %v", err)
		}
		l.driver.open("n0", 1001, "")
		for _, node := range []string{"n0", "n1", "n2"} {
			l.must(l.Deconfigure(l.t.Context(), node, "pvc-a"))
			l.must(l.Deconfigure(l.t.Context(), node, "pvc-a"))
		}
		if len(l.driver.devices) > 0 {
			t.Errorf("devices left: %v", l.driver.devices)
		}
	})
}

func TestNewDiskOfAWrittenVolumeResyncs(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		l.wantIO("n0", true, "ok")
		config := ResourceConfig{Name: "pvc-a", NodeID: 2, Options: majority, Volumes: []VolumeConfig{
			{Number: 0, Minor: 1000, SizeBytes: size0, BackingFile: l.files[0]},
			{Number: 1, Minor: 1001, SizeBytes: size1, BackingFile: l.files[1], InitialDiskState: UpToDate},
		}}
		l.must(l.Configure(l.t.Context(), "n2", config))
		s := l.state("n2")
		if s.Volumes[0].Disk != Inconsistent || s.Volumes[1].Disk != UpToDate {
			t.Errorf("new disks: %s, %s", s.Volumes[0].Disk, s.Volumes[1].Disk)
		}
		l.wait(2 * time.Second)
		if disk := l.state("n2").Volumes[0].Disk; disk != UpToDate {
			t.Errorf("after the resync: %s", disk)
		}
	})
}

func TestSubscribersLearnOfUseAndDisks(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		var events []Event
		cancel := l.Subscribe(func(e Event) {
			if e.Node == "n0" && (e.Kind == EventInUse || e.Kind == EventDisk) {
				events = append(events, e)
			}
		})
		defer cancel()
		l.promote("n0")
		l.must(l.DetachDisk("n0", "pvc-a", 1))
		l.PowerOff("n0")
		synctest.Wait()
		if len(events) != 3 || !events[0].Yes || events[1].Disk != Diskless || events[1].Volume != 1 || events[2].Kind != EventInUse || events[2].Yes {
			t.Errorf("events: %+v", events)
		}
	})
}

// Two nodes that have lost each other only, as it happens while connections come
// back one by one: a third one tells them of each other.
func TestPrimaryBehindAnotherNodeRefusesPromotion(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.mu.Lock()
		res := l.resources["pvc-a"]
		for _, pair := range [][2]string{{"n0", "n1"}, {"n1", "n0"}} {
			r := res.replicas[pair[0]]
			l.dropLink(r, r.links[pair[1]])
			r.links[pair[1]].state = stateConnecting
		}
		l.settle(res)
		l.mu.Unlock()
		l.promote("n0")
		l.wantRefusal(l.Promote(l.t.Context(), "n1", "pvc-a", false), codeWeaklyConnected)
	})
}

// wantViolation runs what must be recorded as a violation.
func wantViolation(t *testing.T, options ResourceOptions, text string, test func(*lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, options)
		defer l.Close()
		test(l)
		if found := strings.Join(l.Violations(), "\n"); !strings.Contains(found, text) {
			t.Errorf("violations %q, want %q", found, text)
		}
	})
}

func TestForcedPromotionWithoutQuorumIsAViolation(t *testing.T) {
	wantViolation(t, majority, "split brain", func(l *lab) {
		l.promote("n0")
		l.Partition([]string{"n1", "n2"})
		l.promote("n1")
		l.wait(12 * time.Second)
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", false))
		l.wantRefusal(l.Promote(l.t.Context(), "n0", "pvc-a", false), codeNoQuorum)
		l.must(l.Promote(l.t.Context(), "n0", "pvc-a", true))
	})
}

func TestTwoPrimariesWithoutQuorumAreAViolation(t *testing.T) {
	wantViolation(t, ResourceOptions{Quorum: QuorumOff}, "can both write", func(l *lab) {
		l.promote("n0")
		l.Partition([]string{"n1", "n2"})
		l.wait(12 * time.Second)
		l.promote("n1")
	})
}

func TestPromotionOnOldDataIsAViolation(t *testing.T) {
	wantViolation(t, ResourceOptions{Quorum: QuorumOff}, "old data", func(l *lab) {
		l.promote("n0")
		l.PowerOff("n1")
		l.wait(12 * time.Second)
		l.wantIO("n0", true, "ok")
		l.PowerOff("n0")
		l.PowerOn("n1")
		l.must(l.Register(l.t.Context(), "n1", "boot2"))
		l.wait(5 * time.Second)
		l.promote("n1")
	})
}

func TestEventsFollowTheLossOfThePrimary(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		ctx, cancel := context.WithCancel(l.t.Context())
		var out bytes.Buffer
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Run(ctx, "n1", []string{"events2", "all"}, &out, os.Stderr)
		}()
		synctest.Wait()
		l.PowerOff("n0")
		l.promote("n1")
		l.wait(time.Second)
		cancel()
		<-done
		_, changes, _ := strings.Cut(out.String(), "exists -\n")
		// As recorded on the real one (n1.events, 23:46:15 to 23:46:17), in
		// its order but for volumes, which it orders at random.
		want := `change resource name:pvc-a may_promote:no promotion_score:0
change connection name:pvc-a peer-node-id:0 conn-name:n0 connection:NetworkFailure role:Unknown
change device name:pvc-a volume:1 minor:1001 backing_dev:BACKING disk:Consistent client:no quorum:yes
change device name:pvc-a volume:0 minor:1000 backing_dev:BACKING disk:Consistent client:no quorum:yes
change peer-device name:pvc-a peer-node-id:0 conn-name:n0 volume:1 replication:Off peer-disk:DUnknown peer-client:no
change peer-device name:pvc-a peer-node-id:0 conn-name:n0 volume:0 replication:Off peer-disk:DUnknown peer-client:no
change path name:pvc-a peer-node-id:0 conn-name:n0 local:ipv4:10.99.0.11:PORT peer:ipv4:10.99.0.10:PORT established:no
call helper name:pvc-a peer-node-id:0 conn-name:n0 helper:disconnected
response helper name:pvc-a peer-node-id:0 conn-name:n0 helper:disconnected status:0
change connection name:pvc-a peer-node-id:0 conn-name:n0 connection:Unconnected
change connection name:pvc-a peer-node-id:0 conn-name:n0 connection:Connecting
change resource name:pvc-a may_promote:yes promotion_score:10201
change device name:pvc-a volume:1 minor:1001 backing_dev:BACKING disk:UpToDate client:no quorum:yes
change device name:pvc-a volume:0 minor:1000 backing_dev:BACKING disk:UpToDate client:no quorum:yes
change resource name:pvc-a role:Primary may_promote:no promotion_score:10201
`
		if got := normal(changes); got != want {
			t.Errorf("events:\n%swant\n%s", got, want)
		}
	})
}

func TestEventsFollowTheLossOfQuorumAndForcedDemotion(t *testing.T) {
	inLab(t, majoritySuspend, func(l *lab) {
		l.promote("n0")
		l.driver.open("n0", 1000, "mount")
		ctx, cancel := context.WithCancel(l.t.Context())
		var out bytes.Buffer
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.Run(ctx, "n0", []string{"events2", "pvc-a"}, &out, os.Stderr)
		}()
		synctest.Wait()
		l.Partition([]string{"n1", "n2"})
		l.wait(12 * time.Second)
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", true))
		l.driver.open("n0", 1000, "")
		l.wait(time.Second)
		cancel()
		<-done
		_, changes, _ := strings.Cut(out.String(), "exists -\n")
		// As recorded (n0.events, 23:51:03 to 23:51:18).
		for _, want := range []string{
			"change resource name:pvc-a suspended:quorum may_promote:no promotion_score:0\n",
			"change device name:pvc-a volume:0 minor:1000 backing_dev:BACKING disk:UpToDate client:no quorum:no\n",
			"call helper name:pvc-a volume:0 minor:1000 helper:quorum-lost\n",
			"change connection name:pvc-a peer-node-id:2 conn-name:n2 connection:Connecting\n",
			"change resource name:pvc-a role:Secondary force-io-failures:yes\n",
			"change resource name:pvc-a force-io-failures:no\n",
		} {
			before, after, found := strings.Cut(normal(changes), want)
			if !found {
				t.Errorf("events lack (or have too early) %q:\n%s", want, changes)
			}
			if strings.Contains(before, "role:Secondary") && strings.Contains(want, "suspended") {
				t.Error("demoted before the loss of quorum")
			}
			_ = after
		}
	})
}

func (l *lab) sizes() []int64 {
	l.t.Helper()
	var sizes []int64
	for _, node := range []string{"n0", "n1", "n2"} {
		sizes = append(sizes, l.state(node).Volumes[0].SizeBytes)
	}
	return sizes
}

// Whoever reads the size may use all of it: DRBD tells the size of the device.
func TestSizeIsShownWhenEveryDeviceHasGrown(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.promote("n0")
		old := []int64{size0, size0, size0}
		var grown []string
		l.driver.resized = func(node string, device Device) error {
			if got := l.sizes(); !slices.Equal(got, old) {
				l.t.Errorf("%v are shown before the device of %s has grown", got, node)
			}
			// The kernel may use the new part at once.
			export, err := l.Export("n0", "pvc-a", 0)
			l.must(err)
			l.must(export.Write(l.t.Context(), make([]byte, 4096), 2*size0-4096))
			grown = append(grown, node)
			return nil
		}
		l.must(l.Resize(l.t.Context(), "pvc-a", 0, 2*size0))
		if got := l.sizes(); !slices.Equal(grown, []string{"n0", "n1", "n2"}) || !slices.Equal(got, []int64{2 * size0, 2 * size0, 2 * size0}) {
			t.Errorf("devices of %v have grown, %v are shown", grown, got)
		}
		l.driver.resized = nil
		l.must(l.Resize(l.t.Context(), "pvc-a", 0, size0)) // never shrinks
		if got := l.state("n1").Volumes[0].SizeBytes; got != 2*size0 {
			t.Errorf("%d are shown after a smaller size was asked for", got)
		}
	})
}

func TestSizeIsNotShownWhileADeviceHasNotGrown(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		fails := true
		l.driver.resized = func(node string, _ Device) error {
			if fails && node == "n1" {
				return errors.New("no answer")
			}
			return nil
		}
		if err := l.Resize(l.t.Context(), "pvc-a", 0, 2*size0); err == nil || l.state("n0").Volumes[0].SizeBytes != size0 {
			t.Errorf("got %v and %d", err, l.state("n0").Volumes[0].SizeBytes)
		}
		fails = false
		l.must(l.Resize(l.t.Context(), "pvc-a", 0, 2*size0))
		if got := l.state("n0").Volumes[0].SizeBytes; got != 2*size0 {
			t.Errorf("%d are shown after the second try", got)
		}
	})
}
