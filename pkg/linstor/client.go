// Package linstor does what rwx-provisioner and rwx-resizer need of a LINSTOR
// controller: it makes and removes the resource definition and the recovery volume
// of an export and reads, uncached, in which state its replicas are. Placing,
// growing and deleting volumes stay linstor-csi's business; a growth that LINSTOR
// did not finish is tried again.
package linstor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	linstor "github.com/LINBIT/golinstor"
	lapi "github.com/LINBIT/golinstor/client"
)

// The reading calls of a controller answer within readTimeout. A modifying call
// waits for the satellites of all online nodes (LINSTOR REST documentation), so
// it gets more time; when that is over the controller goes on by itself and the
// next try finds the result.
const (
	readTimeout   = 30 * time.Second
	modifyTimeout = 60 * time.Second
)

// ErrUnreachable is in the chain of errors of calls that got no answer.
var ErrUnreachable = errors.New("the LINSTOR controller cannot be reached")

// Client talks to the LINSTOR controller. All methods block until the controller
// has answered, for a minute at the most; they may be called concurrently.
type Client struct {
	api   *lapi.Client
	slots chan struct{}
}

// New returns a client of the controllers in LS_CONTROLLERS, with the TLS files of
// LS_ROOT_CA, LS_USER_CERTIFICATE and LS_USER_KEY (golinstor reads them). At most
// parallel calls run at once. Options override the environment.
func New(parallel int, options ...lapi.Option) (*Client, error) {
	// golinstor would print every request, also the answers "exists already" that
	// we expect, as a curl line with its credentials.
	options = append([]lapi.Option{lapi.Log(nil), lapi.UserAgent("linstor-rwx")}, options...)
	api, err := lapi.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("create LINSTOR client: %w", err)
	}
	return &Client{api: api, slots: make(chan struct{}, max(parallel, 1))}, nil
}

// call runs one request with its own deadline and explains its error.
func (c *Client) call(ctx context.Context, limit time.Duration, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return explain(ctx.Err())
	}
	return explain(do(ctx))
}

func (c *Client) read(ctx context.Context, do func(ctx context.Context) error) error {
	return c.call(ctx, readTimeout, do)
}

func (c *Client) modify(ctx context.Context, do func(ctx context.Context) error) error {
	return c.call(ctx, modifyTimeout, do)
}

// Error is an answer of the controller in one sentence. Its text holds nothing
// that changes from try to try, so that events about it can be counted.
type Error struct {
	text  string
	cause error
}

func (e *Error) Error() string { return e.text }

// Unwrap gives access to golinstor's return codes.
func (e *Error) Unwrap() error { return e.cause }

// explain turns golinstor's errors into sentences.
func explain(err error) error {
	var answer lapi.ApiCallError
	var network net.Error
	var location *url.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, lapi.NotFoundError):
		return &Error{text: "LINSTOR does not know it", cause: err}
	case errors.As(err, &answer):
		return &Error{text: "LINSTOR answers: " + sentence(answer), cause: err}
	case errors.As(err, &location), errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		// The cause has port numbers of our side and is in nobody's interest but
		// the log's.
		return &Error{text: ErrUnreachable.Error(), cause: errors.Join(ErrUnreachable, err)}
	default:
		return &Error{text: "LINSTOR's answer is not understood: " + err.Error(), cause: err}
	}
}

// sentence joins the messages of the errors in an answer, without the warnings
// and reports that LINSTOR adds.
func sentence(answer lapi.ApiCallError) string {
	var messages []string
	for _, entry := range answer {
		if uint64(entry.RetCode)&linstor.MaskError != linstor.MaskError {
			continue
		}
		text := oneLine(entry.Message)
		if cause := oneLine(entry.Cause); cause != "" {
			text += " (" + cause + ")"
		}
		messages = append(messages, text)
	}
	if len(messages) == 0 {
		return oneLine(answer.Error())
	}
	return strings.Join(messages, "; ")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Version returns the version of the controller, such as "1.33.3".
func (c *Client) Version(ctx context.Context) (string, error) {
	var version lapi.ControllerVersion
	err := c.read(ctx, func(ctx context.Context) (err error) {
		version, err = c.api.Controller.GetVersion(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read version of the LINSTOR controller: %w", err)
	}
	return version.Version, nil
}
