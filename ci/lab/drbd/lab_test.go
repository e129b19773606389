package drbd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// fakeDriver is a node side without nodes: tests say who has a device open.
type fakeDriver struct {
	mu      sync.Mutex
	openers map[string][]Opener // node/minor
	flushed map[string]int
	devices map[string]bool
	silent  map[string]bool // nodes whose agent does not answer
	resized func(node string, device Device) error
}

func newFakeDriver() *fakeDriver {
	return &fakeDriver{openers: map[string][]Opener{}, flushed: map[string]int{}, devices: map[string]bool{}, silent: map[string]bool{}}
}

func deviceKey(node string, minor int) string { return fmt.Sprintf("%s/%d", node, minor) }

func (f *fakeDriver) Attach(_ context.Context, node string, device Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices[deviceKey(node, device.Minor)] = true
	return nil
}

func (f *fakeDriver) Detach(_ context.Context, node string, device Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.devices, deviceKey(node, device.Minor))
	return nil
}

func (f *fakeDriver) Resize(_ context.Context, node string, device Device) error {
	if f.resized == nil {
		return nil
	}
	return f.resized(node, device)
}

func (f *fakeDriver) Openers(_ context.Context, node string, device Device) ([]Opener, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silent[node] {
		return nil, errors.New("no answer")
	}
	return f.openers[deviceKey(node, device.Minor)], nil
}

func (f *fakeDriver) Flush(_ context.Context, node string, device Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushed[deviceKey(node, device.Minor)]++
	return nil
}

// open makes a process appear that has the device open; no name closes it.
func (f *fakeDriver) open(node string, minor int, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == "" {
		delete(f.openers, deviceKey(node, minor))
		return
	}
	f.openers[deviceKey(node, minor)] = []Opener{{Name: name, PID: 273}}
}

// openReading is the same for a process that only reads.
func (f *fakeDriver) openReading(node string, minor int, name string) {
	f.open(node, minor, name)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.openers[deviceKey(node, minor)][0].ReadOnly = true
}

// silence makes the node's agent silent, or lets it answer again.
func (f *fakeDriver) silence(node string, silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent[node] = silent
}

// lab is the arrangement of the transcripts: two diskful nodes and a diskless
// tiebreaker with the resource pvc-a of two volumes.
type lab struct {
	*Cluster
	t      *testing.T
	driver *fakeDriver
	files  [2]string
}

const (
	size0 = 65484 << 10
	size1 = 16344 << 10
)

func newLab(t *testing.T, options ResourceOptions) *lab {
	t.Helper()
	l := &lab{t: t, driver: newFakeDriver()}
	l.Cluster = New(Options{Driver: l.driver, Address: func(node string) string { return "10.99.0.1" + node[1:] }})
	for i := range l.files {
		l.files[i] = filepath.Join(t.TempDir(), fmt.Sprintf("volume%d", i))
		if err := os.WriteFile(l.files[i], nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"n0", "n1", "n2"} {
		l.AddNode(name)
		l.must(l.Register(t.Context(), name, "boot1"))
		l.configure(name, options)
	}
	return l
}

func (l *lab) configure(node string, options ResourceOptions) {
	l.t.Helper()
	l.must(l.Configure(l.t.Context(), node, ResourceConfig{
		Name: "pvc-a", NodeID: int(node[1] - '0'), Options: options,
		Volumes: []VolumeConfig{
			{Number: 0, Minor: 1000, SizeBytes: size0, BackingFile: l.files[0], Diskless: node == "n2"},
			{Number: 1, Minor: 1001, SizeBytes: size1, BackingFile: l.files[1], Diskless: node == "n2"},
		},
	}))
}

var majority = ResourceOptions{Quorum: QuorumMajority, OnNoQuorum: OnNoQuorumIOError}

var majoritySuspend = ResourceOptions{Quorum: QuorumMajority, OnNoQuorum: OnNoQuorumSuspendIO}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// finish ends the lab; what must never happen fails the test.
func (l *lab) finish() {
	l.t.Helper()
	for _, violation := range l.Violations() {
		l.t.Errorf("violation: %s", violation)
	}
	l.Close()
}

// wait lets (synctest's) time pass.
func (l *lab) wait(d time.Duration) { time.Sleep(d) }

// io is one block request's outcome: "ok", "EIO" or "hangs".
func (l *lab) io(node string, volume int, write bool) string {
	l.t.Helper()
	done := l.startIO(node, volume, write)
	select {
	case err := <-done:
		if err != nil {
			return "EIO"
		}
		return "ok"
	case <-time.After(50 * time.Millisecond):
		return "hangs"
	}
}

// startIO starts a request of 4 KiB and returns where its outcome comes.
func (l *lab) startIO(node string, volume int, write bool) <-chan error {
	l.t.Helper()
	device, err := l.Export(node, "pvc-a", volume)
	l.must(err)
	done := make(chan error, 1)
	go func() {
		p := make([]byte, 4096)
		if write {
			copy(p, node)
			done <- device.Write(context.Background(), p, 0)
			return
		}
		done <- device.Read(context.Background(), p, 0)
	}()
	return done
}
