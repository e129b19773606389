package drbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// AgentDriver is a NodeDriver that gives orders to the nodes' agents
// (lab-drbd-node) by HTTP. Agents announce themselves by registering.
type AgentDriver struct {
	client http.Client

	mu        sync.Mutex
	addresses map[string]string
}

// NewAgentDriver returns a driver that knows no agent yet.
func NewAgentDriver() *AgentDriver {
	return &AgentDriver{
		addresses: map[string]string{},
		// Connections are not kept: a node that lost its power would leave
		// one that swallows the next order.
		client: http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

// SetAddress remembers where the node's agent is.
func (a *AgentDriver) SetAddress(node, url string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addresses[node] = url
}

// AgentOrder is the body of all orders to an agent.
type AgentOrder struct {
	Device Device `json:"device"`
}

// AgentOpeners is the answer to /openers.
type AgentOpeners struct {
	Openers []Opener `json:"openers"`
}

func (a *AgentDriver) order(ctx context.Context, node, path string, device Device, answer any) error {
	a.mu.Lock()
	address := a.addresses[node]
	a.mu.Unlock()
	if address == "" {
		return fmt.Errorf("agent of %s has not registered", node)
	}
	body, err := json.Marshal(AgentOrder{Device: device})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return fmt.Errorf("order agent of %s: %w", node, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("read answer of agent of %s: %w", node, err)
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("agent of %s: %s", node, strings.TrimSpace(string(content)))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(content, answer)
}

// Attach implements NodeDriver.
func (a *AgentDriver) Attach(ctx context.Context, node string, device Device) error {
	return a.order(ctx, node, "/attach", device, nil)
}

// Detach implements NodeDriver.
func (a *AgentDriver) Detach(ctx context.Context, node string, device Device) error {
	return a.order(ctx, node, "/detach", device, nil)
}

// Resize implements NodeDriver.
func (a *AgentDriver) Resize(ctx context.Context, node string, device Device) error {
	return a.order(ctx, node, "/resize", device, nil)
}

// Flush implements NodeDriver.
func (a *AgentDriver) Flush(ctx context.Context, node string, device Device) error {
	return a.order(ctx, node, "/flush", device, nil)
}

// Openers implements NodeDriver.
func (a *AgentDriver) Openers(ctx context.Context, node string, device Device) ([]Opener, error) {
	var answer AgentOpeners
	err := a.order(ctx, node, "/openers", device, &answer)
	return answer.Openers, err
}
