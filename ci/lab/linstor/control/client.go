package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Client calls the control API of a lab-storage daemon. All methods return an
// error with the daemon's text if it refuses.
type Client struct {
	base string
	http *http.Client
}

// NewClient makes a Client for "host:port" or an http URL. A nil httpClient is
// http.DefaultClient.
func NewClient(address string, httpClient *http.Client) *Client {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	if httpClient == nil {
		httpClient = http.DefaultClient
	}
	return &Client{base: strings.TrimSuffix(address, "/"), http: httpClient}
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, strings.TrimSpace(string(text)))
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(answer.Body).Decode(out); err != nil {
		return fmt.Errorf("%s %s: decode answer: %w", method, path, err)
	}
	return nil
}

// State dumps what the stand-ins know.
func (c *Client) State(ctx context.Context) (State, error) {
	var s State
	return s, c.do(ctx, http.MethodGet, "/state", nil, &s)
}

// Violations lists what must never have happened: unhandled LINSTOR requests,
// two Primaries, writes without the right to write.
func (c *Client) Violations(ctx context.Context) ([]string, error) {
	var v []string
	return v, c.do(ctx, http.MethodGet, "/violations", nil, &v)
}

// ClearViolations forgets them, for a test that provoked one.
func (c *Client) ClearViolations(ctx context.Context) error {
	return c.do(ctx, http.MethodDelete, "/violations", nil, nil)
}

// Requests lists LINSTOR requests with numbers above after.
func (c *Client) Requests(ctx context.Context, after int) ([]Request, error) {
	var r []Request
	return r, c.do(ctx, http.MethodGet, "/linstor/requests?after="+strconv.Itoa(after), nil, &r)
}

// Reset ends all faults: satellites online and quick, default version and
// times, controller up, no HTTP faults, network healed, nodes unpaused. Nodes
// that are powered off stay off.
func (c *Client) Reset(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/reset", nil, nil)
}

// AddFault arms a fault for LINSTOR requests.
func (c *Client) AddFault(ctx context.Context, f Fault) (Fault, error) {
	return f, c.do(ctx, http.MethodPost, "/linstor/faults", f, &f)
}

// Faults lists the faults with how often they hit.
func (c *Client) Faults(ctx context.Context) ([]Fault, error) {
	var f []Fault
	return f, c.do(ctx, http.MethodGet, "/linstor/faults", nil, &f)
}

// ClearFaults disarms all faults.
func (c *Client) ClearFaults(ctx context.Context) error {
	return c.do(ctx, http.MethodDelete, "/linstor/faults", nil, nil)
}

// Apply changes version and times.
func (c *Client) Apply(ctx context.Context, s Settings) error {
	return c.do(ctx, http.MethodPut, "/linstor/settings", s, nil)
}

// SetVersion changes the server's version.
func (c *Client) SetVersion(ctx context.Context, version string) error {
	return c.Apply(ctx, Settings{Version: &version})
}

// SetInUseDelay changes how late LINSTOR knows of promotions.
func (c *Client) SetInUseDelay(ctx context.Context, delay time.Duration) error {
	d := Duration(delay)
	return c.Apply(ctx, Settings{InUseDelay: &d})
}

// SetSuspendTime changes how long snapshots suspend I/O at least.
func (c *Client) SetSuspendTime(ctx context.Context, suspend time.Duration) error {
	d := Duration(suspend)
	return c.Apply(ctx, Settings{SuspendTime: &d})
}

// SatelliteOffline disconnects a node's satellite; its DRBD goes on.
func (c *Client) SatelliteOffline(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodPost, "/linstor/satellites/"+url.PathEscape(node)+"/offline", nil, nil)
}

// SatelliteOnline reconnects it and blocks until it has caught up.
func (c *Client) SatelliteOnline(ctx context.Context, node string) error {
	return c.do(ctx, http.MethodPost, "/linstor/satellites/"+url.PathEscape(node)+"/online", nil, nil)
}

// SetDeploy makes a node's deployments slow or fail.
func (c *Client) SetDeploy(ctx context.Context, node string, d Deploy) error {
	return c.do(ctx, http.MethodPut, "/linstor/satellites/"+url.PathEscape(node)+"/deploy", d, nil)
}

// SetPool changes a pool's size or claimed free space.
func (c *Client) SetPool(ctx context.Context, node, pool string, p Pool) error {
	return c.do(ctx, http.MethodPut, "/linstor/pools/"+url.PathEscape(node)+"/"+url.PathEscape(pool), p, nil)
}

// ControllerDown makes LINSTOR's REST API unavailable; empty mode is
// DownRefuse. ControllerUp ends it.
func (c *Client) ControllerDown(ctx context.Context, mode DownMode) error {
	return c.do(ctx, http.MethodPost, "/controller/down", map[string]DownMode{"mode": mode}, nil)
}

// ControllerUp makes LINSTOR's REST API available again.
func (c *Client) ControllerUp(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/controller/up", nil, nil)
}

// PowerOff kills a node for DRBD and LINSTOR. The machine itself is not
// touched: kill it first.
func (c *Client) PowerOff(ctx context.Context, node string) error {
	return c.node(ctx, node, "power-off")
}

// PowerOn boots it for DRBD. Its satellite connects and catches up when the
// node's agent registers; without a reboot of the machine use SatelliteOnline.
func (c *Client) PowerOn(ctx context.Context, node string) error {
	return c.node(ctx, node, "power-on")
}

// Pause hangs a node's DRBD: network and I/O. Unpause ends it.
func (c *Client) Pause(ctx context.Context, node string) error { return c.node(ctx, node, "pause") }

// Unpause ends Pause.
func (c *Client) Unpause(ctx context.Context, node string) error { return c.node(ctx, node, "unpause") }

func (c *Client) node(ctx context.Context, node, action string) error {
	return c.do(ctx, http.MethodPost, "/nodes/"+url.PathEscape(node)+"/"+action, nil, nil)
}

// Partition cuts DRBD's network between nodes that are not in the same set; a
// node in no set is alone. It replaces an earlier partition.
func (c *Client) Partition(ctx context.Context, sets ...[]string) error {
	return c.do(ctx, http.MethodPost, "/network/partition", map[string][][]string{"sets": sets}, nil)
}

// Heal ends all partitions of DRBD's network.
func (c *Client) Heal(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/network/heal", nil, nil)
}

// FailDisk detaches the disk of one volume on a node.
func (c *Client) FailDisk(ctx context.Context, node, resource string, volume int) error {
	return c.disk(ctx, node, resource, volume, "fail", nil)
}

// RestoreDisk gives it back: Inconsistent, then a resync.
func (c *Client) RestoreDisk(ctx context.Context, node, resource string, volume int) error {
	return c.disk(ctx, node, resource, volume, "restore", nil)
}

// SetDiskState sets a disk's state, such as "Outdated" or "Inconsistent".
func (c *Client) SetDiskState(ctx context.Context, node, resource string, volume int, state string) error {
	return c.disk(ctx, node, resource, volume, "state", map[string]string{"state": state})
}

func (c *Client) disk(ctx context.Context, node, resource string, volume int, action string, body any) error {
	path := fmt.Sprintf("/disks/%s/%s/%d/%s", url.PathEscape(node), url.PathEscape(resource), volume, action)
	return c.do(ctx, http.MethodPost, path, body, nil)
}
