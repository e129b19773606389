// Command drbdsetup stands in for drbd-utils' program of that name in the
// laboratory: it hands its arguments to the node's agent and prints what the
// stand-in for DRBD answers. Put it in the path of the container under test,
// which must see the node's /dev.
package main

import (
	"bufio"
	"errors"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/linbit/linstor-rwx/ci/lab/drbd/wire"
)

// defaultSocket is where the agent listens; LAB_DRBD_SOCKET overrides it.
const defaultSocket = "/dev/.lab-drbd.sock"

// exitLaboratory is the exit code when the laboratory itself fails, which
// DRBD's does not use for anything else than bad usage.
const exitLaboratory = 20

func main() {
	socket := os.Getenv("LAB_DRBD_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	code, err := run(socket, os.Args[1:])
	if err != nil {
		_, _ = os.Stderr.WriteString("drbdsetup: laboratory: " + err.Error() + "\n")
		code = exitLaboratory
	}
	os.Exit(code)
}

// run executes the command; with --now --poll it does so again for each line
// "n" on standard input, as the real one.
func run(socket string, args []string) (int, error) {
	code, err := ask(socket, args)
	if err != nil || code != 0 || len(args) == 0 || args[0] != "events2" ||
		!slices.Contains(args, "--now") || !slices.Contains(args, "--poll") {
		return code, err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan() && lines.Text() == "n"; {
		if code, err = ask(socket, args); err != nil || code != 0 {
			return code, err
		}
	}
	return code, nil
}

// ask sends one command and prints its answer as it comes.
func ask(socket string, args []string) (int, error) {
	agent, err := connect(socket)
	if err != nil {
		return 0, err
	}
	defer agent.Close()
	if err := wire.WritePiece(agent, wire.Arguments, wire.JoinArguments(args)); err != nil {
		return 0, err
	}
	for answer := bufio.NewReader(agent); ; {
		kind, text, err := wire.ReadPiece(answer)
		if err != nil {
			return 0, errors.New("the agent's answer ends early: " + err.Error())
		}
		switch kind {
		case wire.Output:
			_, _ = os.Stdout.WriteString(text)
		case wire.ErrorText:
			_, _ = os.Stderr.WriteString(text)
		case wire.ExitCode:
			return strconv.Atoi(text)
		default:
			return 0, errors.New("the agent says: " + text)
		}
	}
}

// connect does without package net, which takes as long to start as all the rest.
func connect(socket string) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	agent := os.NewFile(uintptr(fd), socket)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		_ = agent.Close()
		return nil, errors.New("reach the agent at " + socket + ": " + err.Error())
	}
	return agent, nil
}
