package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/nbd"
)

// firstMinor is the DRBD minor whose device is nbd0.
const firstMinor = 1000

// devices are the block devices of this node.
type devices struct {
	node, blocks string

	mu       sync.Mutex
	attached map[int]*attachment // by minor
}

// attachment watches the socket of one device, which the kernel uses.
type attachment struct {
	device drbd.Device
	stop   context.CancelFunc
}

func newDevices(node, blocks string) *devices {
	return &devices{node: node, blocks: blocks, attached: map[int]*attachment{}}
}

func index(d drbd.Device) int { return d.Minor - firstMinor }

// deviceNumber is what stat(2) tells of the device.
func deviceNumber(d drbd.Device) uint64 { return unix.Mkdev(nbd.Major, uint32(index(d))) }

func path(d drbd.Device) string { return fmt.Sprintf("/dev/drbd%d", d.Minor) }

// attach connects the device and makes its node; done already, it only takes
// over the size.
func (s *devices) attach(ctx context.Context, d drbd.Device) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index(d) < 0 {
		return fmt.Errorf("minor %d is below %d", d.Minor, firstMinor)
	}
	if nbd.Connected(index(d)) {
		if err := nbd.Resize(index(d), d.SizeBytes); err != nil {
			return err
		}
		return ensureNode(d)
	}
	socket, size, err := s.dial(ctx, d)
	if err != nil {
		return err
	}
	if err := nbd.Connect(index(d), size, socket); err != nil {
		_ = socket.Close()
		return err
	}
	watching, stop := context.WithCancel(context.Background())
	if old := s.attached[d.Minor]; old != nil {
		old.stop()
	}
	s.attached[d.Minor] = &attachment{device: d, stop: stop}
	go s.watch(watching, d, socket)
	return ensureNode(d)
}

// dial connects to the device's export and says hello.
func (s *devices) dial(ctx context.Context, d drbd.Device) (*os.File, int64, error) {
	// Keep-alive probes would make a request that hangs fail when the
	// network is cut for longer than they last.
	conn, err := (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: -1}).DialContext(ctx, "tcp", s.blocks)
	if err != nil {
		return nil, 0, fmt.Errorf("connect to block exports: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	size, err := nbd.Hello(conn, fmt.Sprintf("%s %s %d", s.node, d.Resource, d.Volume))
	if err != nil {
		return nil, 0, err
	}
	_ = conn.SetDeadline(time.Time{})
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, 0, errors.New("block connection is not TCP")
	}
	socket, err := tcp.File() // our own reference; closing conn leaves it
	if err != nil {
		return nil, 0, fmt.Errorf("take socket: %w", err)
	}
	return socket, size, nil
}

// watch replaces the device's socket when it dies, for as long as the device
// is attached. Requests that were under way are sent again by the kernel.
func (s *devices) watch(ctx context.Context, d drbd.Device, socket *os.File) {
	for {
		waitDead(ctx, socket)
		_ = socket.Close()
		for {
			if ctx.Err() != nil {
				return
			}
			next, _, err := s.dial(ctx, d)
			if err == nil {
				if err = nbd.Reconnect(index(d), next); err == nil {
					socket = next
					klog.InfoS("Reconnected", "device", path(d))
					break
				}
				_ = next.Close()
			}
			klog.V(2).InfoS("Block connection is dead", "device", path(d), "err", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
		}
	}
}

// waitDead blocks until the other end has closed the connection, or ctx ends.
func waitDead(ctx context.Context, socket *os.File) {
	poll := []unix.PollFd{{Fd: int32(socket.Fd()), Events: unix.POLLRDHUP}}
	for ctx.Err() == nil {
		n, err := unix.Poll(poll, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0 {
			return
		}
	}
}

// detach removes the device; not attached is fine.
func (s *devices) detach(d drbd.Device) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.attached[d.Minor]; a != nil {
		a.stop()
		delete(s.attached, d.Minor)
	}
	if err := os.Remove(path(d)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove device node: %w", err)
	}
	if !nbd.Connected(index(d)) {
		return nil
	}
	return nbd.Disconnect(index(d))
}

func (s *devices) resize(d drbd.Device) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return nbd.Resize(index(d), d.SizeBytes)
}

// ensureNode makes /dev/drbd<minor> the nbd device.
func ensureNode(d drbd.Device) error {
	number := deviceNumber(d)
	var stat unix.Stat_t
	if err := unix.Stat(path(d), &stat); err == nil && stat.Rdev == number {
		return nil
	}
	_ = os.Remove(path(d))
	if err := unix.Mknod(path(d), unix.S_IFBLK|0o660, int(number)); err != nil {
		return fmt.Errorf("make %s: %w", path(d), err)
	}
	return nil
}

// flush drops the kernel's buffers of the device, so that nothing read in an
// earlier Primary time is served again.
func flush(d drbd.Device) error {
	fd, err := unix.Open(path(d), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path(d), err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("flush buffers of %s: %w", path(d), err)
	}
	return nil
}
