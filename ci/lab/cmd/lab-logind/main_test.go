package main

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func newManager(delay time.Duration) (*manager, chan string) {
	happened := make(chan string, 2)
	return &manager{
		delay:    delay,
		emit:     func(_ dbus.ObjectPath, name string, _ ...any) error { happened <- name; return nil },
		powerOff: func() error { happened <- "off"; return nil },
	}, happened
}

// inhibit returns what a program gets by the answer: a copy of the file.
func inhibit(t *testing.T, m *manager) *os.File {
	t.Helper()
	given, failure := m.Inhibit("shutdown", "kubelet", "pods", "delay")
	if failure != nil {
		t.Fatal(failure)
	}
	received, err := syscall.Dup(int(given))
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(received), "inhibitor")
}

func TestShutdownIsAnnouncedAndWaitsForItsInhibitors(t *testing.T) {
	m, happened := newManager(time.Minute)
	inhibitor := inhibit(t, m)
	time.Sleep(answerTime + 100*time.Millisecond) // ours is closed by now
	if failure := m.PowerOff(false); failure != nil {
		t.Fatal(failure)
	}
	if failure := m.PowerOff(false); failure == nil {
		t.Error("a second shutdown began")
	}
	if first := <-happened; first != management+".PrepareForShutdown" {
		t.Fatalf("first came %s", first)
	}
	select {
	case <-happened:
		t.Fatal("the node went off while it was inhibited")
	case <-time.After(100 * time.Millisecond):
	}
	inhibitor.Close()
	if then := <-happened; then != "off" {
		t.Errorf("then came %s", then)
	}
}

func TestShutdownDoesNotWaitForEver(t *testing.T) {
	m, happened := newManager(50 * time.Millisecond)
	defer inhibit(t, m).Close()
	if failure := m.PowerOff(false); failure != nil {
		t.Fatal(failure)
	}
	<-happened
	if then := <-happened; then != "off" {
		t.Errorf("then came %s", then)
	}
}

func TestOnlyADelayOfAShutdownIsGranted(t *testing.T) {
	m, _ := newManager(time.Minute)
	for _, asked := range [][2]string{{"sleep", "delay"}, {"shutdown", "block"}} {
		if _, failure := m.Inhibit(asked[0], "somebody", "", asked[1]); failure == nil {
			t.Errorf("%v was granted", asked)
		}
	}
}
