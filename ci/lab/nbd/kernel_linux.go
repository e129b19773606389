package nbd

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Commands and attributes of the kernel's generic netlink family "nbd"
// (include/uapi/linux/nbd-netlink.h).
const (
	kernelConnect     = 1
	kernelDisconnect  = 2
	kernelReconfigure = 3

	attributeIndex           = 1
	attributeSizeBytes       = 2
	attributeBlockSizeBytes  = 3
	attributeServerFlags     = 5
	attributeSockets         = 7
	attributeDeadConnTimeout = 8

	socketItem = 1
	socketFD   = 1
)

// Major is the block major of /dev/nbd*. With the module's max_part=0 the
// device minor is the index.
const Major = 43

// deadConnectionSeconds is how long the kernel keeps requests when their
// connection broke, waiting for Reconnect, before it fails them.
const deadConnectionSeconds = 3600

// blockSize is the device's logical block size: DRBD's, and small filesystems
// have blocks of 1 KiB.
const blockSize = 512

// Connect makes /dev/nbd<index> of a socket on which Hello was said. The
// kernel keeps its own reference to the socket. No timeout is set: requests
// may hang for ever.
func Connect(index int, sizeBytes int64, socket *os.File) error {
	err := order(kernelConnect,
		nl.NewRtAttr(attributeIndex, nl.Uint32Attr(uint32(index))),
		nl.NewRtAttr(attributeSizeBytes, nl.Uint64Attr(uint64(sizeBytes))),
		nl.NewRtAttr(attributeBlockSizeBytes, nl.Uint64Attr(blockSize)),
		nl.NewRtAttr(attributeServerFlags, nl.Uint64Attr(TransmissionFlags)),
		nl.NewRtAttr(attributeDeadConnTimeout, nl.Uint64Attr(deadConnectionSeconds)),
		sockets(socket))
	if err != nil {
		return fmt.Errorf("connect nbd%d: %w", index, err)
	}
	return nil
}

// Reconnect gives the device a new socket in the place of one that died;
// waiting requests are sent again.
func Reconnect(index int, socket *os.File) error {
	err := order(kernelReconfigure,
		nl.NewRtAttr(attributeIndex, nl.Uint32Attr(uint32(index))),
		nl.NewRtAttr(attributeDeadConnTimeout, nl.Uint64Attr(deadConnectionSeconds)),
		sockets(socket))
	if err != nil {
		return fmt.Errorf("reconnect nbd%d: %w", index, err)
	}
	return nil
}

// Resize tells the kernel the device's new size.
func Resize(index int, sizeBytes int64) error {
	err := order(kernelReconfigure,
		nl.NewRtAttr(attributeIndex, nl.Uint32Attr(uint32(index))),
		nl.NewRtAttr(attributeSizeBytes, nl.Uint64Attr(uint64(sizeBytes))))
	if err != nil {
		return fmt.Errorf("resize nbd%d: %w", index, err)
	}
	return nil
}

// Disconnect ends the device; one that is not connected is no error.
func Disconnect(index int) error {
	err := order(kernelDisconnect, nl.NewRtAttr(attributeIndex, nl.Uint32Attr(uint32(index))))
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("disconnect nbd%d: %w", index, err)
	}
	return nil
}

// Connected tells whether the kernel has the device connected.
func Connected(index int) bool {
	_, err := os.Stat(fmt.Sprintf("/sys/block/nbd%d/pid", index))
	return err == nil
}

func sockets(socket *os.File) *nl.RtAttr {
	list := nl.NewRtAttr(attributeSockets|unix.NLA_F_NESTED, nil)
	item := list.AddRtAttr(socketItem|unix.NLA_F_NESTED, nil)
	item.AddRtAttr(socketFD, nl.Uint32Attr(uint32(socket.Fd())))
	return list
}

// order sends one command to the kernel and waits for its acknowledgement.
func order(command uint8, attributes ...*nl.RtAttr) error {
	family, err := netlink.GenlFamilyGet("nbd")
	if err != nil {
		return fmt.Errorf("find the kernel's nbd (is the module loaded?): %w", err)
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddData(&nl.Genlmsg{Command: command, Version: 1})
	for _, attribute := range attributes {
		request.AddData(attribute)
	}
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return err
}
