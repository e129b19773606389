package supervisor

import (
	"testing"
	"time"
)

// However many exports want to start, no more than the bound do at the same
// time, the others do not hold a worker, and each is called when a place is free.
func TestStartsAreBoundedAndEveryoneGetsATurn(t *testing.T) {
	a := NewAgent(Settings{Starts: 1}, Dependencies{})
	t.Cleanup(a.work.ShutDown)

	release, started := make(chan struct{}), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = a.inTurn("first", func() (time.Duration, error) {
			close(started)
			<-release
			return 0, nil
		})
	}()
	<-started

	for range 2 { // asking twice is waiting once
		after, err := a.inTurn("second", func() (time.Duration, error) {
			t.Error("a second start runs beside the first")
			return 0, nil
		})
		if err != nil || after == 0 {
			t.Errorf("waiting returns %v, %v: it must look again by itself", after, err)
		}
	}
	close(release)
	<-ended
	if name, _ := a.work.Get(); name != "second" {
		t.Errorf("%q is called, not the one that waits", name)
	}
	if len(a.waiting) != 0 {
		t.Errorf("%v still wait", a.waiting)
	}
}

func TestDefaultBoundOfStartsLeavesWorkersForFencing(t *testing.T) {
	for _, workers := range []int{1, 2, 3, 8, 64} {
		starts := Settings{Workers: workers}.parallelStarts()
		if starts < 1 || (workers > 2 && starts > workers-2) {
			t.Errorf("%d starts with %d workers", starts, workers)
		}
	}
}
