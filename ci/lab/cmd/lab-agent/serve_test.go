package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
)

func client(t *testing.T) *guest.Client {
	t.Helper()
	server := httptest.NewServer(handlers())
	t.Cleanup(server.Close)
	return guest.NewClient("10.0.0.1", func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, strings.TrimPrefix(server.URL, "http://"))
	})
}

func TestCommandsOutputAndCodeReachTheHost(t *testing.T) {
	c := client(t)
	var stdout, stderr bytes.Buffer
	code, err := c.Stream(t.Context(), guest.Command{Args: []string{"sh", "-c", "cat; echo no >&2; exit 3"}, Stdin: []byte("yes")}, &stdout, &stderr)
	if err != nil || code != 3 || stdout.String() != "yes" || stderr.String() != "no\n" {
		t.Errorf("code %d, %v, stdout %q, stderr %q", code, err, &stdout, &stderr)
	}
	_, err = c.Exec(t.Context(), "sh", "-c", "echo why >&2; exit 7")
	var exit *guest.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || exit.Stderr != "why\n" {
		t.Errorf("got %v", err)
	}
}

func TestCommandThatCannotRunIsAnErrorAndNoCode(t *testing.T) {
	_, err := client(t).Exec(t.Context(), "/no/such/program")
	var exit *guest.ExitError
	if err == nil || errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
}

func TestCommandDiesWhenTheHostHangsUp(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "survived")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client(t).Exec(ctx, "sh", "-c", "sleep 1; echo > "+marker); err == nil {
		t.Error("no error after the end of the context")
	}
	time.Sleep(1500 * time.Millisecond)
	if _, err := os.Stat(marker); err == nil {
		t.Error("the command went on")
	}
}

func TestFilesArriveWhole(t *testing.T) {
	c := client(t)
	path := filepath.Join(t.TempDir(), "a", "b")
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := c.WriteFile(t.Context(), path, 0o750, bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o750 {
		t.Errorf("%v, %v", info, err)
	}
	got, err := c.ReadFile(t.Context(), path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := c.ReadFile(t.Context(), path+"x"); err == nil {
		t.Error("a missing file has content")
	}
}
