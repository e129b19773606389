package reconnector

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// State is the state of a TCP socket as the kernel numbers it
// (include/net/tcp_states.h).
type State uint8

// The states in which a socket has a peer. Others have none (LISTEN, CLOSE) or
// are not in anyone's way (TIME_WAIT).
const (
	Established State = 1
	SynSent     State = 2
	FinWait1    State = 4
	FinWait2    State = 5
	CloseWait   State = 8
	LastAck     State = 9
	Closing     State = 11
)

var stateNames = map[State]string{
	Established: "ESTABLISHED", SynSent: "SYN_SENT", FinWait1: "FIN_WAIT1", FinWait2: "FIN_WAIT2",
	CloseWait: "CLOSE_WAIT", LastAck: "LAST_ACK", Closing: "CLOSING",
}

// String is the state's name in netstat(8).
func (s State) String() string { return stateNames[s] }

// Socket is a TCP socket. Addresses are never IPv4-mapped ones.
type Socket struct {
	Local, Remote netip.AddrPort
	State         State
	// Repeats is when the kernel sends again what was not acknowledged, such as a
	// SYN; 0: it waits for no acknowledgement.
	Repeats time.Duration
	// Cookie is the kernel's name of the socket, never used for another one.
	Cookie uint64

	identity identity
}

// identity is struct inet_diag_sockid with the socket's family: by it the kernel
// finds the socket again.
type identity struct {
	family byte
	id     [48]byte
}

// Layouts of include/uapi/linux/inet_diag.h.
const (
	diagMessageSize   = 72   // struct inet_diag_msg
	diagCondition     = 8    // INET_DIAG_BC_D_COND
	diagJump          = 1    // INET_DIAG_BC_JMP
	diagBytecode      = 1    // INET_DIAG_REQ_BYTECODE
	timerRetransmits  = 1    // idiag_timer
	remotesPerRequest = 1000 // a filter has at most 64 KiB
)

// List returns the sockets with one of the remotes, in a state in which they have
// a peer. The kernel filters: what is not asked for costs it a comparison and us
// nothing.
func (k *Kernel) List(remotes []netip.AddrPort) ([]Socket, error) {
	var found []Socket
	for part := range slices.Chunk(remotes, remotesPerRequest) {
		four := slices.DeleteFunc(slices.Clone(part), func(remote netip.AddrPort) bool { return remote.Addr().Is6() })
		// A socket of family IPv6 may have an IPv4 peer, so it is asked for all.
		for family, remotes := range map[byte][]netip.AddrPort{unix.AF_INET: four, unix.AF_INET6: part} {
			if len(remotes) == 0 {
				continue
			}
			sockets, err := k.dump(family, remotes)
			if err != nil {
				return nil, fmt.Errorf("list TCP sockets: %w", err)
			}
			found = append(found, sockets...)
		}
	}
	return found, nil
}

func (k *Kernel) dump(family byte, remotes []netip.AddrPort) ([]Socket, error) {
	request := make(raw, 8, 56)
	request[0], request[1] = family, unix.IPPROTO_TCP
	var states uint32
	for state := range stateNames {
		states |= 1 << state
	}
	binary.NativeEndian.PutUint32(request[4:], states)
	request = request[:cap(request)] // any identity
	messages, err := k.request(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP,
		request, nl.NewRtAttr(diagBytecode, remoteFilter(remotes)))
	if err != nil {
		return nil, err
	}
	var sockets []Socket
	for _, message := range messages {
		if socket, ok := parseSocket(message); ok {
			sockets = append(sockets, socket)
		}
	}
	return sockets, nil
}

// remoteFilter is a program for the kernel that accepts a socket whose peer is
// one of the remotes. A program accepts by ending exactly at its end. For each
// remote but the last: a condition, which goes on to the next remote where it
// does not hold, and a jump to the end. A jump from the condition itself could
// not reach far enough.
func remoteFilter(remotes []netip.AddrPort) []byte {
	const operation = 4
	size := func(remote netip.AddrPort) int { return operation + 8 + remote.Addr().BitLen()/8 }
	total := operation * (len(remotes) - 1)
	for _, remote := range remotes {
		total += size(remote)
	}
	program := make([]byte, 0, total)
	add := func(code byte, yes, no int) {
		program = append(program, code, byte(yes))
		program = binary.NativeEndian.AppendUint16(program, uint16(no))
	}
	for i, remote := range remotes {
		add(diagCondition, size(remote), size(remote)+operation)
		family := byte(unix.AF_INET6)
		if remote.Addr().Is4() {
			family = unix.AF_INET // holds for IPv4-mapped peers, too
		}
		program = append(program, family, byte(remote.Addr().BitLen()), 0, 0)
		program = binary.NativeEndian.AppendUint32(program, uint32(remote.Port()))
		program = append(program, remote.Addr().AsSlice()...)
		if i < len(remotes)-1 {
			add(diagJump, operation, total-len(program))
		}
	}
	return program
}

// parseSocket reads a struct inet_diag_msg.
func parseSocket(message []byte) (Socket, bool) {
	if len(message) < diagMessageSize {
		return Socket{}, false
	}
	s := Socket{State: State(message[1]), identity: identity{family: message[0]}}
	id := message[4:52]
	copy(s.identity.id[:], id)
	address := func(bytes []byte) netip.Addr {
		if s.identity.family == unix.AF_INET {
			bytes = bytes[:4]
		}
		address, _ := netip.AddrFromSlice(bytes)
		return address.Unmap()
	}
	s.Local = netip.AddrPortFrom(address(id[4:20]), binary.BigEndian.Uint16(id[0:]))
	s.Remote = netip.AddrPortFrom(address(id[20:36]), binary.BigEndian.Uint16(id[2:]))
	s.Cookie = uint64(binary.NativeEndian.Uint32(id[40:])) | uint64(binary.NativeEndian.Uint32(id[44:]))<<32
	if message[2] == timerRetransmits {
		s.Repeats = time.Duration(binary.NativeEndian.Uint32(message[52:])) * time.Millisecond
	}
	return s, true
}

// Destroy ends a socket of any process or of the kernel itself: its owner sees
// ECONNABORTED at once, its peer a reset. A socket that is gone is no error. The
// error is errors.ErrUnsupported if the kernel was built without
// CONFIG_INET_DIAG_DESTROY.
func (k *Kernel) Destroy(s Socket) error {
	err := k.destroy(s.identity)
	if err != nil && !isErrno(err, unix.ENOENT) {
		return fmt.Errorf("destroy TCP socket %v to %v: %w", s.Local, s.Remote, err)
	}
	return nil
}

func (k *Kernel) destroy(i identity) error {
	request := make(raw, 8, 56)
	request[0], request[1] = i.family, unix.IPPROTO_TCP
	_, err := k.request(unix.NETLINK_INET_DIAG, nl.SOCK_DESTROY, unix.NLM_F_ACK, append(request, i.id[:]...))
	return err
}

// checkDestroy tries to destroy a socket that cannot exist: no cookie is zero.
func (k *Kernel) checkDestroy() error {
	err := k.destroy(identity{family: unix.AF_INET})
	if isErrno(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		return errors.New("the kernel destroyed a socket that does not exist")
	}
	return err
}
