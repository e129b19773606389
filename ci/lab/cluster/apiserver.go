package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/client-go/kubernetes"
)

// StopAPIServer ends the API server at once; etcd keeps what it wrote. Nodes and
// controllers lose their connections and retry.
func (c *Cluster) StopAPIServer() error { return c.Kill(apiServer) }

// StartAPIServer starts an API server that was stopped, and what gave up without
// it. It returns when the API server is ready. One that runs is no error.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	stores := c.stores()
	server := stores[slices.IndexFunc(stores, func(p Process) bool { return p.Name == apiServer })]
	if err := c.ensureStarted(server); err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(c.rest)
	if err != nil {
		return err
	}
	err = poll(ctx, func(ctx context.Context) error {
		if !c.Running(apiServer) {
			return permanent(fmt.Errorf("%s has ended, see %s", apiServer, c.LogPath(apiServer)))
		}
		_, err := clients.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	var failures []error
	for _, controller := range c.controllers() {
		failures = append(failures, c.ensureStarted(controller))
	}
	return errors.Join(failures...)
}

func (c *Cluster) ensureStarted(p Process) error {
	if c.Running(p.Name) {
		return nil
	}
	return c.Start(p)
}
