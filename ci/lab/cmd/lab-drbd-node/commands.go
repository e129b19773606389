package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/drbd/wire"
)

// serveCommands hands drbdsetup's requests to the host under this node's name;
// the answers flow as they come. It returns when nobody can connect any more.
func serveCommands(requests net.Listener, node, control string) error {
	for {
		connection, err := requests.Accept()
		if err != nil {
			return fmt.Errorf("take a request of drbdsetup: %w", err)
		}
		go func() {
			defer connection.Close()
			err := serveCommand(connection, node, control)
			if err == nil || errors.Is(err, context.Canceled) {
				return
			}
			klog.ErrorS(err, "Command of drbdsetup failed")
			_ = wire.WritePiece(connection, wire.Failure, err.Error())
		}()
	}
}

func serveCommand(connection net.Conn, node, control string) error {
	from := bufio.NewReader(connection)
	kind, text, err := wire.ReadPiece(from)
	if err != nil {
		return fmt.Errorf("read the arguments: %w", err)
	}
	if kind != wire.Arguments {
		return fmt.Errorf("read the arguments: got a piece of kind %q", kind)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, from) // ends with drbdsetup
	}()
	answer, err := askHost(ctx, control, drbd.CommandRequest{Node: node, Args: wire.SplitArguments(text)})
	if err != nil {
		return err
	}
	defer answer.Close()
	for frames := json.NewDecoder(answer); ; {
		var frame drbd.CommandFrame
		if err := frames.Decode(&frame); err != nil {
			return fmt.Errorf("read the host's answer: %w", err)
		}
		last, err := writeFrame(connection, frame)
		if err != nil {
			cancel()
			return ctx.Err() // nobody reads it any more
		}
		if last {
			_, _ = io.Copy(io.Discard, answer) // so that the connection can be used again
			return nil
		}
	}
}

// askHost returns the stream of the answer.
func askHost(ctx context.Context, control string, command drbd.CommandRequest) (io.ReadCloser, error) {
	content, err := json.Marshal(command)
	if err != nil {
		return nil, fmt.Errorf("render the request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, control+"/drbdsetup", bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("ask the host: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the host: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("ask the host: %s: %s", response.Status, bytes.TrimSpace(text))
	}
	return response.Body, nil
}

// writeFrame sends what is in a frame, and says whether it was the last one.
func writeFrame(to io.Writer, frame drbd.CommandFrame) (last bool, err error) {
	if frame.Out != "" {
		err = wire.WritePiece(to, wire.Output, frame.Out)
	}
	if err == nil && frame.Err != "" {
		err = wire.WritePiece(to, wire.ErrorText, frame.Err)
	}
	if err == nil && frame.Exit != nil {
		return true, wire.WritePiece(to, wire.ExitCode, strconv.Itoa(*frame.Exit))
	}
	return false, err
}
