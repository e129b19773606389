package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
	"github.com/linbit/linstor-rwx/ci/lab/linstor"
)

// run brings up DRBD, LINSTOR, the block exports and the control API, in the
// order in which they need each other, and blocks until ctx ends.
func run(ctx context.Context, o options) error {
	if err := o.prepareStateDir(); err != nil {
		return err
	}
	nodes, err := o.nodeOptions()
	if err != nil {
		return err
	}
	var found violations
	addresses := map[string]string{}
	for _, n := range nodes {
		addresses[n.Name] = n.Address
	}
	cluster := drbd.New(drbd.Options{
		Driver: drbd.NewAgentDriver(), Violation: found.add, Address: func(node string) string { return addresses[node] },
	})
	defer cluster.Close()
	for _, n := range nodes {
		cluster.AddNode(n.Name)
	}
	controller, err := linstor.New(linstor.Options{
		StateDir: o.stateDir, Nodes: nodes, Replication: cluster, Version: o.version, InUseDelay: o.inUseDelay,
	})
	if err != nil {
		return err
	}
	defer controller.Close()

	blocks, err := net.Listen("tcp", o.nbdAddress)
	if err != nil {
		return fmt.Errorf("listen for block exports: %w", err)
	}
	rest := &restServer{address: o.linstorAddress, handler: controller}
	daemon := newDaemon(controller, cluster, rest, &found)
	if err := daemon.awaitAgents(); err != nil {
		return err
	}
	if err := rest.up(); err != nil {
		return err
	}
	defer rest.down()
	control := &http.Server{Addr: o.controlAddress, ReadHeaderTimeout: time.Minute, Handler: daemon.handler()}

	failed := make(chan error, 2)
	go func() { failed <- fmt.Errorf("serve block exports: %w", cluster.ServeBlocks(ctx, blocks)) }()
	go func() { failed <- fmt.Errorf("serve control API: %w", control.ListenAndServe()) }()
	fmt.Fprintf(os.Stderr, "lab-storage: LINSTOR %s on %s, control on %s, blocks on %s\n", o.version, o.linstorAddress, o.controlAddress, o.nbdAddress)
	select {
	case err = <-failed:
	case <-ctx.Done():
		err = nil
	}
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, control.Close())
}
