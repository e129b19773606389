// Command drbdsetup stands in for drbd-utils' program of that name in the
// laboratory: it hands its arguments to the node's agent and prints what the
// stand-in for DRBD answers. Put it in the path of the container under test,
// which must see the node's /dev.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
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
	code, err := run(context.Background(), socket, os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "drbdsetup: laboratory: %v\n", err)
		code = exitLaboratory
	}
	os.Exit(code)
}

// run executes the command; with --now --poll it does so again for each line
// "n" on standard input, as the real one.
func run(ctx context.Context, socket string, args []string) (int, error) {
	code, err := ask(ctx, socket, args)
	if err != nil || code != 0 || len(args) == 0 || args[0] != "events2" ||
		!slices.Contains(args, "--now") || !slices.Contains(args, "--poll") {
		return code, err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if lines.Text() != "n" {
			return code, nil
		}
		if code, err = ask(ctx, socket, args); err != nil || code != 0 {
			return code, err
		}
	}
	return code, nil
}

// ask sends one command and prints its answer as it comes.
func ask(ctx context.Context, socket string, args []string) (int, error) {
	body, err := json.Marshal(drbd.CommandRequest{Args: args})
	if err != nil {
		return 0, err
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/drbdsetup", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("ask the agent: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("agent answers %s", response.Status)
	}
	for decoder := json.NewDecoder(response.Body); ; {
		var frame drbd.CommandFrame
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
