package drbd

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var autoMajority = ResourceOptions{Quorum: QuorumMajority, OnNoQuorum: OnNoQuorumIOError, AutoPromote: true}

func (l *lab) wantRole(node, want string) {
	l.t.Helper()
	if role := l.state(node).Role; role != want {
		l.t.Errorf("%s is %s, want %s", node, role, want)
	}
}

func TestSecondaryReadsWhileNobodyIsPrimary(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		for _, node := range []string{"n0", "n1", "n2"} {
			l.wantIO(node, false, "ok")
			l.wantRole(node, Secondary)
		}
		l.promote("n0")
		l.wantIO("n1", false, "EIO")
		l.wantIO("n2", false, "EIO")
	})
}

func TestSecondaryReadsOnlyWhatCannotBeOld(t *testing.T) {
	tests := map[string]struct {
		harm func(*lab)
		want string // on n1
	}{
		"outdated, the peer has data": {func(l *lab) { l.must(l.Outdate("n1", "pvc-a", 0)) }, "ok"},
		"no data":                     {func(l *lab) { l.must(l.Outdate("n0", "pvc-a", 0)); l.must(l.Outdate("n1", "pvc-a", 0)) }, "EIO"},
		"peers silent":                {func(l *lab) { l.Partition() }, "hangs"},
		"no quorum":                   {func(l *lab) { l.Partition(); l.wait(15 * time.Second) }, "EIO"},
		"suspended":                   {func(l *lab) { l.must(l.SuspendIO(l.t.Context(), "pvc-a")) }, "hangs"},
		"cut off, the other side wrote": {func(l *lab) {
			l.Partition([]string{"n0", "n2"})
			l.wait(15 * time.Second)
			l.wantIO("n0", true, "ok")
		}, "EIO"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inLab(t, autoMajority, func(l *lab) {
				test.harm(l)
				l.wantIO("n1", false, test.want)
			})
		})
	}
}

func TestWritePromotesAndTheLastCloseDemotes(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		var uses []bool
		cancel := l.Subscribe(func(e Event) {
			if e.Node == "n2" && e.Kind == EventInUse {
				uses = append(uses, e.Yes)
			}
		})
		defer cancel()
		l.driver.open("n2", 1000, "mount")
		l.wantIO("n2", true, "ok")
		l.wantRole("n2", Primary)
		l.wait(time.Minute)
		l.wantRole("n2", Primary)
		l.driver.open("n2", 1000, "")
		l.wait(2 * autoPoll)
		l.wantRole("n2", Secondary)
		if l.driver.flushed["n2/1000"] != 1 {
			t.Errorf("buffers flushed %d times, want once, at the demotion", l.driver.flushed["n2/1000"])
		}
		synctest.Wait()
		if len(uses) != 2 || !uses[0] || uses[1] {
			t.Errorf("uses told: %v", uses)
		}
	})
}

func TestConcurrentWritesPromoteOnce(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.driver.open("n0", 1000, "mkfs.ext4")
		var writes []<-chan error
		for range 16 {
			writes = append(writes, l.startIO("n0", 0, true))
		}
		for _, done := range writes {
			l.must(<-done)
		}
		l.wantRole("n0", Primary)
	})
}

func TestFlushDoesNotPromote(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		device, err := l.Export("n0", "pvc-a", 0)
		l.must(err)
		l.must(device.Flush(l.t.Context()))
		l.wantRole("n0", Secondary)
		l.must(device.Zero(l.t.Context(), 0, 4096))
		l.wantRole("n0", Primary)
	})
}

func TestRefusedWriteLeavesNoTrace(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.promote("n0")
		l.driver.open("n1", 1000, "dd")
		start := time.Now()
		if err := <-l.startIO("n1", 0, true); err == nil {
			t.Error("a second node wrote")
		}
		if took := time.Since(start); took < 2*time.Second || took > 2500*time.Millisecond {
			t.Errorf("refused after %v, measured was 2.1 s", took)
		}
		l.driver.open("n1", 1000, "")
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", false))
		l.wait(time.Second)
		for _, node := range []string{"n0", "n1"} {
			if disk := l.state(node).Volumes[0].Disk; disk != UpToDate {
				t.Errorf("disk of %s is %s", node, disk)
			}
		}
		l.wantRole("n1", Secondary)
		l.promote("n1")
	})
}

func TestWriteWaitsForThePrimaryToClose(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.driver.open("n0", 1000, "mount")
		l.wantIO("n0", true, "ok")
		write := l.startIO("n1", 0, true)
		l.wait(time.Second)
		l.driver.open("n0", 1000, "")
		l.must(<-write)
		l.wantRole("n0", Secondary)
		l.wantRole("n1", Primary)
	})
}

func TestPeerNeedNotWaitForThePoll(t *testing.T) {
	used := func(l *lab) {
		l.driver.open("n0", 1000, "mount")
		l.wantIO("n0", true, "ok")
		l.driver.open("n0", 1000, "")
	}
	inLab(t, autoMajority, func(l *lab) {
		used(l)
		l.wantIO("n1", false, "ok")
		l.wantRole("n0", Secondary)
		used(l)
		start := time.Now()
		l.promote("n1")
		if took := time.Since(start); took > 0 {
			t.Errorf("promotion took %v although nobody used the device", took)
		}
		l.must(l.Demote(l.t.Context(), "n1", "pvc-a", false))
		used(l)
		l.must(l.Deconfigure(l.t.Context(), "n0", "pvc-a"))
	})
}

func TestUseOfASilentNodeIsNotTakenAway(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.wantIO("n0", true, "ok")
		l.driver.silence("n0", true)
		l.wait(10 * time.Second)
		l.wantRole("n0", Primary)
		l.wantRefusal(l.Promote(l.t.Context(), "n1", "pvc-a", false), codeTwoPrimaries)
	})
}

func TestExplicitPromotionOutlastsTheClose(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.driver.open("n0", 1000, "mount")
		l.wantIO("n0", true, "ok")
		l.wantRefusal(l.Demote(l.t.Context(), "n0", "pvc-a", false), codeHeldOpen)
		l.promote("n0")
		l.driver.open("n0", 1000, "")
		l.wait(time.Minute)
		l.wantRole("n0", Primary)
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", false))
		l.wantRole("n0", Secondary)
	})
}

func TestExplicitPromotionDuringAnAutomaticOneStays(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.promote("n1")
		write := l.startIO("n0", 0, true)
		l.wait(10 * time.Millisecond)
		l.must(l.Demote(l.t.Context(), "n1", "pvc-a", false))
		l.promote("n0")
		l.must(<-write)
		l.wait(time.Minute)
		l.wantRole("n0", Primary)
	})
}

func TestForcedDemotionEndsAutoPromotionUntilAllHaveClosed(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.driver.open("n0", 1000, "mount")
		l.wantIO("n0", true, "ok")
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", true))
		l.wantIO("n0", true, "EIO")
		l.wantIO("n0", false, "EIO")
		l.wantRole("n0", Secondary)
		l.driver.open("n0", 1000, "")
		l.wait(time.Second)
		l.wantIO("n0", true, "ok")
	})
}

func TestWriteOfAnEarlierPrimaryTimeDoesNotPromote(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.Cluster.driver = nil // nobody knows that the device is still open
		l.promote("n0")
		l.must(l.SuspendIO(l.t.Context(), "pvc-a"))
		hanging := l.startIO("n0", 0, true)
		l.wait(time.Second)
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", true))
		if err := <-hanging; err == nil {
			t.Error("a write from before the demotion went through")
		}
		l.wantRole("n0", Secondary)
	})
}

func TestSurvivorIsPromotedByItsMount(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.driver.open("n0", 1000, "mount")
		l.wantIO("n0", true, "ok")
		l.PowerOff("n0")
		start := time.Now()
		l.driver.open("n1", 1000, "mount")
		l.must(<-l.startIO("n1", 0, false))
		if took := time.Since(start); took < time.Second || took > 1300*time.Millisecond {
			t.Errorf("mount took %v, measured were 1.07 s", took)
		}
	})
}

// A node that had the device open, unknown to the one that was promoted, must
// not go on with what it read before.
func TestOldBuffersAreNotUsed(t *testing.T) {
	inLab(t, autoMajority, func(l *lab) {
		l.driver.openReading("n1", 1000, "reader")
		l.wantIO("n1", false, "ok")
		l.driver.silence("n1", true)
		l.promote("n0")
		l.wantIO("n0", true, "ok")
		l.must(l.Demote(l.t.Context(), "n0", "pvc-a", false))
		l.wantIO("n1", false, "EIO")
		l.driver.silence("n1", false)
		l.wait(time.Second)
		l.wantIO("n1", false, "EIO")
		if err := <-l.startIO("n1", 0, true); err == nil {
			t.Error("wrote on the ground of what was read before another wrote")
		}
		l.driver.open("n1", 1000, "")
		l.wait(time.Second)
		l.wantIO("n1", false, "ok")
		l.wantIO("n1", true, "ok")
	})
}

func TestTwoPrimariesWhereTheyAreAllowed(t *testing.T) {
	options := autoMajority
	options.TwoPrimaries = true
	inLab(t, options, func(l *lab) {
		for _, node := range []string{"n0", "n1"} {
			l.driver.open(node, 1000, "qemu")
			l.wantIO(node, true, "ok")
		}
		l.wantIO("n0", false, "ok")
		l.wantRole("n0", Primary)
		l.wantRole("n1", Primary)
	})
	wantViolation(t, ResourceOptions{Quorum: QuorumOff, TwoPrimaries: true}, "can both write", func(l *lab) {
		l.promote("n0")
		l.Partition([]string{"n1", "n2"})
		l.wait(12 * time.Second)
		l.promote("n1")
	})
}

func TestShowTellsWhereAutoPromotionIsOff(t *testing.T) {
	for options, want := range map[ResourceOptions]bool{majority: true, autoMajority: false} {
		inLab(t, options, func(l *lab) {
			var out, diag strings.Builder
			if code := l.Run(l.t.Context(), "n0", []string{"show", "pvc-a"}, &out, &diag); code != 0 {
				l.t.Fatal(errors.New(diag.String()))
			}
			if shown := strings.Contains(out.String(), "auto-promote"); shown != want {
				l.t.Errorf("auto-promote %t, shown %t:\n%s", options.AutoPromote, shown, out.String())
			}
		})
	}
}
