package reconnector

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// answerTimeout bounds one request to the kernel, which answers at once.
const answerTimeout = 5 // seconds

// Kernel reads and destroys the TCP sockets of one network namespace (sock_diag),
// and reads and deletes what its connection tracking translates (ctnetlink). Both
// need CAP_NET_ADMIN there. Its methods may be called from several goroutines.
type Kernel struct {
	handles map[int]*nl.SocketHandle
}

// OpenKernel opens the network namespace of the calling thread. Close it.
func OpenKernel() (*Kernel, error) {
	k := &Kernel{handles: map[int]*nl.SocketHandle{}}
	for _, protocol := range []int{unix.NETLINK_INET_DIAG, unix.NETLINK_NETFILTER} {
		socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), protocol)
		if err != nil && protocol == unix.NETLINK_NETFILTER && errors.Is(err, unix.EPROTONOSUPPORT) {
			continue // without netfilter nothing is translated
		}
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("open netlink protocol %d: %w", protocol, err)
		}
		k.handles[protocol] = &nl.SocketHandle{Socket: socket}
		timeout := unix.Timeval{Sec: answerTimeout}
		if err := errors.Join(socket.SetSendTimeout(&timeout), socket.SetReceiveTimeout(&timeout)); err != nil {
			k.Close()
			return nil, fmt.Errorf("bound netlink protocol %d: %w", protocol, err)
		}
	}
	return k, nil
}

// Close ends the use of the kernel.
func (k *Kernel) Close() {
	for _, handle := range k.handles {
		handle.Close()
	}
}

// Check says what this kernel, or the rights of this process, cannot do:
// errors.ErrUnsupported or EPERM. Without destruction a connection stays until
// TCP gives up; without connection tracking it is not known where one leads.
func (k *Kernel) Check() error {
	var errs []error
	if err := k.checkDestroy(); err != nil {
		errs = append(errs, fmt.Errorf("destroy sockets: %w", err))
	}
	if err := k.checkConntrack(); err != nil {
		errs = append(errs, fmt.Errorf("read translations: %w", err))
	}
	return errors.Join(errs...)
}

// request sends one request and returns the kernel's messages.
func (k *Kernel) request(protocol, kind, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	if k.handles[protocol] == nil {
		return nil, errors.ErrUnsupported
	}
	request := nl.NewNetlinkRequest(kind, flags)
	request.Sockets = k.handles
	for _, part := range data {
		request.AddData(part)
	}
	messages, err := request.Execute(protocol, 0)
	if errors.Is(err, nl.ErrDumpInterrupted) {
		err = nil // what was missed is found by the next look
	}
	return messages, err
}

// raw is a part of a request that is ready to be sent.
type raw []byte

// Len implements nl.NetlinkRequestData.
func (r raw) Len() int { return len(r) }

// Serialize implements nl.NetlinkRequestData.
func (r raw) Serialize() []byte { return r }

func isErrno(err error, numbers ...syscall.Errno) bool {
	for _, number := range numbers {
		if errors.Is(err, number) {
			return true
		}
	}
	return false
}
