// Command drbdsetup stands in for drbd-utils' program of that name in the
// laboratory: it hands its arguments to the node's agent and prints what the
// stand-in for DRBD answers. Put it in the path of the container under test,
// which must see the node's /dev.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

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
		fmt.Fprintf(os.Stderr, "drbdsetup: laboratory: %v\n", err)
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

// ask sends one command and prints its answer as it comes. It speaks HTTP/1.0
// by hand: a client library would be most of the program, and programs start
// slowly on the laboratory's nodes.
func ask(socket string, args []string) (int, error) {
	body, err := json.Marshal(wire.Request{Args: args})
	if err != nil {
		return 0, err
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, fmt.Errorf("reach the agent: %w", err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /drbdsetup HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		return 0, fmt.Errorf("ask the agent: %w", err)
	}
	answer := bufio.NewReader(conn)
	status, err := answer.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("read answer: %w", err)
	}
	if !strings.Contains(status, " 200 ") {
		return 0, fmt.Errorf("agent answers %s", strings.TrimSpace(status))
	}
	for line := ""; line != "\r\n"; {
		if line, err = answer.ReadString('\n'); err != nil {
			return 0, fmt.Errorf("read answer: %w", err)
		}
	}
	for decoder := json.NewDecoder(answer); ; {
		var frame wire.Frame
		if err := decoder.Decode(&frame); err != nil {
			return 0, fmt.Errorf("answer ends early: %w", err)
		}
		_, _ = os.Stdout.WriteString(frame.Out)
		_, _ = os.Stderr.WriteString(frame.Err)
		if frame.Exit != nil {
			return *frame.Exit, nil
		}
	}
}
