// Command lab-logind stands in for systemd-logind on the laboratory's nodes,
// which have no systemd. It knows what a shutdown needs: programs inhibit it for a
// while, as kubelet does to end its pods (shutdownGracePeriod), PowerOff tells
// them, waits for them, and then powers the node off.
//
//	lab-logind READY    READY is a unix socket that answers when logind can be asked
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

const (
	service    = "org.freedesktop.login1"
	object     = dbus.ObjectPath("/org/freedesktop/login1")
	management = service + ".Manager"
	// inhibitDelay is InhibitDelayMaxSec of logind.conf. Debian's 5 s would be too
	// short for kubelet, which then sets it itself, with the help of systemd.
	inhibitDelay = 2 * time.Minute
	// answerTime is by when an answer has surely been sent.
	answerTime = time.Second
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab-logind:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 1 {
		return fmt.Errorf("read the command line: want one argument, have %q", arguments)
	}
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return fmt.Errorf("connect to the system bus: %w", err)
	}
	defer bus.Close()
	m := &manager{emit: bus.Emit, delay: inhibitDelay, powerOff: exec.Command("/k8s/lab-agent", "poweroff").Run}
	if err := bus.Export(m, object, management); err != nil {
		return fmt.Errorf("export the manager: %w", err)
	}
	properties := prop.Map{management: {"InhibitDelayMaxUSec": {Value: uint64(inhibitDelay.Microseconds())}}}
	if _, err := prop.Export(bus, object, properties); err != nil {
		return fmt.Errorf("export the manager's properties: %w", err)
	}
	reply, err := bus.RequestName(service, dbus.NameFlagDoNotQueue)
	if err != nil {
		return fmt.Errorf("take the name %s: %w", service, err)
	}
	if reply != dbus.RequestNameReplyPrimaryOwner {
		return fmt.Errorf("take the name %s: another program has it", service)
	}
	// One that was killed has left it.
	if err := os.Remove(arguments[0]); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	ready, err := net.Listen("unix", arguments[0])
	if err != nil {
		return fmt.Errorf("say that it can be asked: %w", err)
	}
	for {
		visitor, err := ready.Accept()
		if err != nil {
			return fmt.Errorf("say that it can be asked: %w", err)
		}
		_ = visitor.Close()
	}
}

// manager is what org.freedesktop.login1(5) calls so, as far as a shutdown needs
// it. Its exported methods are called by the bus.
type manager struct {
	emit     func(path dbus.ObjectPath, name string, values ...any) error
	delay    time.Duration
	powerOff func() error

	inhibitors sync.WaitGroup
	goingOff   atomic.Bool
}

// Inhibit returns a file: the shutdown waits until it is closed.
func (m *manager) Inhibit(what, who, _, mode string) (dbus.UnixFD, *dbus.Error) {
	if !strings.Contains(what, "shutdown") || mode != "delay" {
		return 0, dbus.MakeFailedError(fmt.Errorf("inhibit %s with mode %s for %s: only the delay of a shutdown is known here", what, mode, who))
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(fmt.Errorf("inhibit the shutdown for %s: %w", who, err))
	}
	m.inhibitors.Add(1)
	// The answer carries a copy of the writer; only then may ours be closed.
	time.AfterFunc(answerTime, func() { _ = writer.Close() })
	go func() {
		defer m.inhibitors.Done()
		defer reader.Close()
		_, _ = reader.Read(make([]byte, 1)) // ends when nobody has the writer any more
	}()
	return dbus.UnixFD(writer.Fd()), nil
}

// PowerOff begins a shutdown.
func (m *manager) PowerOff(bool) *dbus.Error {
	if m.goingOff.Swap(true) {
		return dbus.MakeFailedError(errors.New("a shutdown is in progress"))
	}
	go m.shutDown()
	return nil
}

func (m *manager) shutDown() {
	if err := m.emit(object, management+".PrepareForShutdown", true); err != nil {
		fmt.Fprintln(os.Stderr, "lab-logind: announce the shutdown:", err)
	}
	released := make(chan struct{})
	go func() {
		m.inhibitors.Wait()
		close(released)
	}()
	select {
	case <-released:
	case <-time.After(m.delay):
		fmt.Fprintln(os.Stderr, "lab-logind: the shutdown was inhibited for too long")
	}
	if err := m.powerOff(); err != nil {
		fmt.Fprintln(os.Stderr, "lab-logind: power off:", err)
	}
}
