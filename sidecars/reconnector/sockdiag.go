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
	diagOperationSize = 4    // struct inet_diag_bc_op
	diagAnyPort       = -1   // in struct inet_diag_hostcond
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
// one of the remotes. It asks for what several remotes share first, and for each
// of them only behind that: most of a node's sockets are done after few questions.
//
// A program accepts by ending exactly at its end, and rejects by ending behind it.
// If the answer to a question is yes, the operation behind it follows, which cannot
// be far away; that is a jump to the end.
func remoteFilter(remotes []netip.AddrPort) []byte {
	var program []byte
	var jumps []int
	for shared, members := range groups(remotes) {
		group := len(program)
		program = appendQuestion(program, shared)
		for _, remote := range members {
			program = appendQuestion(program, question{remote.Addr(), int32(remote.Port())})
			jumps = append(jumps, len(program))
			program = appendJump(program)
		}
		setTarget(program, group, len(program))
	}
	rejection := len(program)
	program = appendJump(program)
	setTarget(program, rejection, len(program)+diagOperationSize)
	for _, jump := range jumps {
		setTarget(program, jump, len(program))
	}
	return program
}

// question is what is asked of a socket's peer.
type question struct {
	address netip.Addr // invalid: any
	port    int32      // or diagAnyPort
}

// groups sorts remotes by what they share: Services have one port, former
// endpoints few addresses.
func groups(remotes []netip.AddrPort) map[question][]netip.AddrPort {
	ofAddress, ofPort := map[netip.Addr]int{}, map[uint16]int{}
	for _, remote := range remotes {
		ofAddress[remote.Addr()]++
		ofPort[remote.Port()]++
	}
	found := map[question][]netip.AddrPort{}
	for _, remote := range remotes {
		shared := question{port: int32(remote.Port())}
		if ofAddress[remote.Addr()] > ofPort[remote.Port()] {
			shared = question{address: remote.Addr(), port: diagAnyPort}
		}
		found[shared] = append(found[shared], remote)
	}
	return found
}

// appendQuestion goes on behind the operation that follows if the answer is no.
func appendQuestion(program []byte, q question) []byte {
	family := byte(unix.AF_UNSPEC)
	switch {
	case q.address.Is4():
		family = unix.AF_INET // holds for IPv4-mapped peers, too
	case q.address.Is6():
		family = unix.AF_INET6
	}
	size := diagOperationSize + 8 + q.address.BitLen()/8
	program = append(program, diagCondition, byte(size))
	program = binary.NativeEndian.AppendUint16(program, uint16(size+diagOperationSize))
	program = append(program, family, byte(q.address.BitLen()), 0, 0)
	program = binary.NativeEndian.AppendUint32(program, uint32(q.port))
	return append(program, q.address.AsSlice()...)
}

func appendJump(program []byte) []byte {
	return append(program, diagJump, diagOperationSize, 0, 0)
}

// setTarget says where an operation goes on if its answer is no, as that of a jump
// always is.
func setTarget(program []byte, operation, target int) {
	binary.NativeEndian.PutUint16(program[operation+2:], uint16(target-operation))
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
