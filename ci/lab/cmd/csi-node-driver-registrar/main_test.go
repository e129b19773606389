package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type driver struct {
	csi.UnimplementedIdentityServer
}

func (driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "driver.example"}, nil
}

func TestKubeletLearnsWhereTheDriverListensAndItsRefusalEndsTheProgram(t *testing.T) {
	dir := t.TempDir()
	o := options{csiAddress: filepath.Join(dir, "csi.sock"), kubeletPath: "/var/lib/kubelet/plugins/driver.example/csi.sock", registrationPath: dir, timeout: 100 * time.Millisecond}
	ended := make(chan error, 1)
	go func() { ended <- run(t.Context(), o) }()

	// The driver may start after its registrar.
	listener, err := net.Listen("unix", o.csiAddress)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, driver{})
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	connection, err := grpc.NewClient("unix://"+filepath.Join(dir, "driver.example-reg.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	kubelet := registration.NewRegistrationClient(connection)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	info, err := kubelet.GetInfo(ctx, &registration.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if info.GetType() != registration.CSIPlugin || info.GetName() != "driver.example" || info.GetEndpoint() != o.kubeletPath || len(info.GetSupportedVersions()) != 1 {
		t.Errorf("kubelet was told %v", info)
	}

	if _, err := kubelet.NotifyRegistrationStatus(ctx, &registration.RegistrationStatus{PluginRegistered: true}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("ended after success: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	// The answer may be lost when the program ends at once: that is its point.
	_, _ = kubelet.NotifyRegistrationStatus(ctx, &registration.RegistrationStatus{Error: "name is taken"})
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "name is taken") {
			t.Errorf("ended with %v", err)
		}
	case <-ctx.Done():
		t.Error("did not end when kubelet refused the driver")
	}
}

func TestAMissingKubeletPathIsRefused(t *testing.T) {
	if err := run(t.Context(), options{}); err == nil || !strings.Contains(err.Error(), "--kubelet-registration-path") {
		t.Errorf("run returned %v", err)
	}
}
