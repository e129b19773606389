package drbd

import (
	"testing"
	"time"
)

// threeReplicas puts a third replica in place of the client, and makes n0 Primary.
func (l *lab) threeReplicas() {
	l.t.Helper()
	l.must(l.Deconfigure(l.t.Context(), "n2", "pvc-a"))
	l.AddNode("n3")
	l.must(l.Register(l.t.Context(), "n3", "boot1"))
	l.configure("n3", majority)
	l.wait(20 * time.Second)
	l.promote("n0")
}

// Three nodes are all cut off from each other while one of them, the Primary, had
// a write under way, which a resync has to undo. It meets a node first that alone
// is not good enough to copy from. When that has quorum again, the copy starts.
func TestDiskThatMetNobodyGoodEnoughCopiesLater(t *testing.T) {
	inLab(t, majority, func(l *lab) {
		l.threeReplicas()
		l.Partition()
		hanging := l.startIO("n0", 0, true)
		l.wait(12 * time.Second)
		if err := <-hanging; err == nil {
			t.Fatal("a write without quorum was acknowledged")
		}
		l.must(l.Demote(t.Context(), "n0", "pvc-a", true))

		l.Partition([]string{"n0", "n1"})
		l.wait(10 * time.Second)
		if disk := l.state("n0").Volumes[0].Disk; disk != Outdated {
			t.Errorf("the disk of n0 is %s with nobody to copy from", disk)
		}
		l.Heal()
		l.wait(15 * time.Second)
		for _, node := range []string{"n0", "n1", "n3"} {
			for _, volume := range l.state(node).Volumes {
				if volume.Disk != UpToDate {
					t.Errorf("volume %d of %s is %s after everything has healed", volume.Number, node, volume.Disk)
				}
			}
		}
	})
}

// Of two nodes that lost the Primary, one is promoted before the other has asked
// around. That one has the same data, and stays a vote.
func TestNodeThatIsPromotedEarlyDoesNotOutdateTheOther(t *testing.T) {
	for pause := range 40 {
		inLab(t, majority, func(l *lab) {
			l.threeReplicas()
			l.wait(time.Second)
			l.PowerOff("n0")
			for !l.state("n1").MayPromote {
				l.wait(time.Millisecond)
			}
			l.wait(time.Duration(pause) * 20 * time.Millisecond)
			l.promote("n1")
			l.wait(3 * time.Second)
			for _, node := range []string{"n1", "n3"} {
				for _, volume := range l.state(node).Volumes {
					if volume.Disk != UpToDate || !volume.Quorum {
						t.Errorf("%d ms later volume %d of %s is %s, quorum %v", pause*20, volume.Number, node, volume.Disk, volume.Quorum)
					}
				}
			}
		})
	}
}
