// Command lab-drbd-node is a node's side of the laboratory's stand-in for
// DRBD: it makes /dev/drbd<minor> of the host's block exports (through the
// kernel's nbd), answers who has them open, and hands drbdsetup's requests
// from the node's containers to the host.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

// options are the command line.
type options struct {
	node, control, listen, blocks, socket string
}

func main() {
	var o options
	flag.StringVar(&o.node, "node", "", "name of this node")
	flag.StringVar(&o.control, "control", "http://10.88.0.1:3371", "URL of the host's control API")
	flag.StringVar(&o.listen, "listen", "", "address on which to take the host's orders, reachable from it")
	flag.StringVar(&o.blocks, "blocks", "", "address of the host's block exports (default: the control API's, next port)")
	flag.StringVar(&o.socket, "socket", "/dev/.lab-drbd.sock", "where drbdsetup finds this program")
	klog.InitFlags(nil)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		klog.ErrorS(err, "Node side of the DRBD stand-in failed")
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.node == "" || o.listen == "" {
		return errors.New("--node and --listen are needed")
	}
	if o.blocks == "" {
		var err error
		if o.blocks, err = nextPort(o.control); err != nil {
			return fmt.Errorf("address of the block exports: %w", err)
		}
	}
	if err := loadModule(); err != nil {
		return err
	}
	orders, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for orders: %w", err)
	}
	_ = os.Remove(o.socket)
	requests, err := net.Listen("unix", o.socket)
	if err != nil {
		return fmt.Errorf("listen for drbdsetup: %w", err)
	}
	if err := os.Chmod(o.socket, 0o666); err != nil {
		return fmt.Errorf("open socket to all: %w", err)
	}
	devices := newDevices(o.node, o.blocks)
	failed := make(chan error, 2)
	go func() { failed <- http.Serve(orders, ordersHandler(devices)) }()
	go func() { failed <- serveCommands(requests, o.node, o.control) }()
	if err := register(ctx, o); err != nil {
		return err
	}
	klog.InfoS("Registered with the host", "node", o.node, "control", o.control)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// nextPort derives the block exports' address from the control URL.
func nextPort(control string) (string, error) {
	u, err := url.Parse(control)
	if err != nil {
		return "", err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return "", fmt.Errorf("control URL %s has no port", control)
	}
	return net.JoinHostPort(u.Hostname(), strconv.Itoa(port+1)), nil
}

// loadModule loads the kernel's nbd without partitions, so that a device's
// number is its index, the same on all nodes.
func loadModule() error {
	if _, err := os.Stat("/sys/module/nbd"); err == nil {
		return nil
	}
	out, err := exec.Command("modprobe", "nbd", "nbds_max=0", "max_part=0").CombinedOutput()
	if err != nil {
		return fmt.Errorf("load nbd: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// register announces this node until the host has heard it.
func register(ctx context.Context, o options) error {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read boot id: %w", err)
	}
	body, err := json.Marshal(drbd.RegisterRequest{
		Node: o.node, BootID: strings.TrimSpace(string(bootID)), Address: "http://" + o.listen,
	})
	if err != nil {
		return err
	}
	for {
		err := post(ctx, o.control+"/register", body)
		if err == nil {
			return nil
		}
		klog.InfoS("Host does not take the registration yet", "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func post(ctx context.Context, address string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		text, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(text))
	}
	return nil
}

// ordersHandler serves the host's AgentDriver.
func ordersHandler(devices *devices) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(context.Context, drbd.Device) (any, error)) {
		mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
			var order drbd.AgentOrder
			if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			answer, err := do(r.Context(), order.Device)
			if err != nil {
				klog.ErrorS(err, "Order failed", "order", pattern, "device", order.Device)
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			level := klog.Level(2)
			if pattern == "/openers" {
				level = 4 // asked twice a second about what is promoted automatically
			}
			klog.V(level).InfoS("Order done", "order", pattern, "device", order.Device)
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	handle("/attach", func(ctx context.Context, d drbd.Device) (any, error) { return nil, devices.attach(ctx, d) })
	handle("/detach", func(_ context.Context, d drbd.Device) (any, error) { return nil, devices.detach(d) })
	handle("/resize", func(_ context.Context, d drbd.Device) (any, error) { return nil, devices.resize(d) })
	handle("/flush", func(_ context.Context, d drbd.Device) (any, error) { return nil, flush(d) })
	handle("/openers", func(_ context.Context, d drbd.Device) (any, error) {
		openers, err := openers(d)
		return drbd.AgentOpeners{Openers: openers}, err
	})
	return mux
}
