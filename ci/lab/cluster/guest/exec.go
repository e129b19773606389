package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// The answer to an exec request is a sequence of frames: one byte of type, four
// bytes of length (big endian), payload.
const (
	frameStdout byte = 1
	frameStderr byte = 2
	frameExit   byte = 3

	frameHeader  = 5
	frameMaximum = 1 << 20
)

// Command is the body of an exec request.
type Command struct {
	// Args is the executable, found by the guest's PATH, and its arguments.
	Args []string `json:"args"`
	// Stdin is given to the command as a whole.
	Stdin []byte `json:"stdin,omitempty"`
}

// exit is the payload of the last frame.
type exit struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"`
}

// ExitError says that a command ran in the guest and ended with a code other
// than 0.
type ExitError struct {
	Args   []string
	Code   int
	Stderr string
}

// Error returns the command, its code and the end of its error output.
func (e *ExitError) Error() string {
	text := e.Stderr
	if len(text) > 2000 {
		text = "..." + text[len(text)-2000:]
	}
	return fmt.Sprintf("command %q ended with code %d: %s", e.Args, e.Code, text)
}

// FrameWriter sends one stream of a command as frames.
type FrameWriter struct {
	kind byte
	send func([]byte) error
}

// StdoutFrames returns a writer that turns standard output into frames;
// send must be safe for concurrent use.
func StdoutFrames(send func([]byte) error) *FrameWriter {
	return &FrameWriter{kind: frameStdout, send: send}
}

// StderrFrames is like StdoutFrames, for the error output.
func StderrFrames(send func([]byte) error) *FrameWriter {
	return &FrameWriter{kind: frameStderr, send: send}
}

// Write sends p as one frame.
func (w *FrameWriter) Write(p []byte) (int, error) {
	if err := w.send(frame(w.kind, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ExitFrame is the last frame: the exit code, or why the command did not run.
func ExitFrame(code int, failure error) []byte {
	e := exit{Code: code}
	if failure != nil {
		e.Error = failure.Error()
	}
	payload, err := json.Marshal(e)
	if err != nil {
		panic(err) // an int and a string always marshal
	}
	return frame(frameExit, payload)
}

func frame(kind byte, payload []byte) []byte {
	b := make([]byte, frameHeader, frameHeader+len(payload))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	return append(b, payload...)
}

// Client talks to the lab-agent of one guest.
type Client struct {
	address string
	http    *http.Client
}

// NewClient returns a client for the agent at address (IP). dial makes the
// connections, usually inside the laboratory's network namespace.
func NewClient(address string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	return &Client{
		address: net.JoinHostPort(address, strconv.Itoa(Port)),
		http:    &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
	}
}

// Exec runs a command in the guest and returns its standard output. A code
// other than 0 is an *ExitError. The command is killed when ctx ends.
func (c *Client) Exec(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	code, err := c.Stream(ctx, Command{Args: args}, &stdout, &stderr)
	if err != nil {
		return stdout.String(), err
	}
	if code != 0 {
		return stdout.String(), &ExitError{Args: args, Code: code, Stderr: stderr.String()}
	}
	return stdout.String(), nil
}

// Stream runs a command in the guest and copies its output while it comes. It
// returns the command's exit code; an error means that it did not run or that
// its end is not known.
func (c *Client) Stream(ctx context.Context, command Command, stdout, stderr io.Writer) (int, error) {
	body, err := json.Marshal(command)
	if err != nil {
		return 0, fmt.Errorf("marshal command: %w", err)
	}
	response, err := c.do(ctx, http.MethodPost, "/exec", bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("run %q: %w", command.Args, err)
	}
	defer response.Body.Close()
	for {
		var header [frameHeader]byte
		if _, err := io.ReadFull(response.Body, header[:]); err != nil {
			return 0, fmt.Errorf("read output of %q: %w", command.Args, err)
		}
		length := binary.BigEndian.Uint32(header[1:])
		if length > frameMaximum {
			return 0, fmt.Errorf("read output of %q: frame of %d bytes", command.Args, length)
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(response.Body, payload); err != nil {
			return 0, fmt.Errorf("read output of %q: %w", command.Args, err)
		}
		switch header[0] {
		case frameStdout:
			_, err = stdout.Write(payload)
		case frameStderr:
			_, err = stderr.Write(payload)
		case frameExit:
			var e exit
			if err := json.Unmarshal(payload, &e); err != nil {
				return 0, fmt.Errorf("read exit of %q: %w", command.Args, err)
			}
			if e.Error != "" {
				return e.Code, fmt.Errorf("run %q: %s", command.Args, e.Error)
			}
			return e.Code, nil
		}
		if err != nil {
			return 0, fmt.Errorf("copy output of %q: %w", command.Args, err)
		}
	}
}

// ReadFile returns the content of a file of the guest.
func (c *Client) ReadFile(ctx context.Context, path string) ([]byte, error) {
	response, err := c.do(ctx, http.MethodGet, "/file?path="+url.QueryEscape(path), nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return content, nil
}

// WriteFile replaces a file of the guest; missing directories are made. mode
// holds the permission bits.
func (c *Client) WriteFile(ctx context.Context, path string, mode uint32, content io.Reader) error {
	query := url.Values{"path": {path}, "mode": {strconv.FormatUint(uint64(mode), 8)}}
	response, err := c.do(ctx, http.MethodPut, "/file?"+query.Encode(), content)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return response.Body.Close()
}

// Ready returns nil once the agent answers.
func (c *Client) Ready(ctx context.Context) error {
	response, err := c.do(ctx, http.MethodGet, "/ready", nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+c.address+path, body)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		response.Body.Close()
		return nil, fmt.Errorf("agent answers %s: %s", response.Status, bytes.TrimSpace(text))
	}
	return response, nil
}
