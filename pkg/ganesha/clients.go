package ganesha

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/linbit/linstor-rwx/pkg/ganesha/nfs"
)

// clientsFile stands beside ganesha's records on the recovery volume.
const clientsFile = "clients.json"

// KnownClient says which machine a recorded client was on.
type KnownClient struct {
	// Node is its name in Kubernetes.
	Node string `json:"node"`
	// BootID tells one boot of the machine from the next: what a client held
	// before a reboot it does not hold any more.
	BootID string `json:"bootID"`
	// Rebooted: the machine has booted since the server knew the client, and nothing
	// tells whether the client has come back.
	Rebooted bool `json:"rebooted,omitempty"`
}

// KnownClients reads what RememberClients wrote, by the key of the record. A
// volume without it gives an empty map; one that was cut off by a crash as well,
// for then nothing is known.
func KnownClients(root string) (map[string]KnownClient, error) {
	clients := map[string]KnownClient{}
	data, err := os.ReadFile(filepath.Join(root, clientsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return clients, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the known clients of the recovery volume: %w", err)
	}
	if json.Unmarshal(data, &clients) != nil {
		return map[string]KnownClient{}, nil
	}
	return clients, nil
}

// RememberClients writes the known clients; when it returns, they are on the disk.
func RememberClients(root string, clients map[string]KnownClient) error {
	data, err := json.MarshalIndent(clients, "", "  ")
	if err == nil {
		err = writeDurably(root, clientsFile, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the known clients of the recovery volume %s: %w", root, err)
	}
	return nil
}

// Owner returns the client owner (RFC 8881, 2.4, co_ownerid) in the key of a
// record; "" if the key is not whole. ganesha files owners that cannot be a name
// in hexadecimal.
func Owner(key string) string {
	owner, ok := ownerOf(key)
	if !ok {
		return ""
	}
	if digits, isHex := strings.CutPrefix(owner, "0x"); isHex {
		if raw, err := hex.DecodeString(digits); err == nil {
			return string(raw)
		}
	}
	return owner
}

// Hostname returns the host name in the owner that Linux's client makes,
// "Linux NFSv4.2 [UNIQUIFIER/]HOST" (fs/nfs/nfs4proc.c,
// nfs4_init_uniform_client_string), or "".
func Hostname(owner string) string {
	kind, rest, found := strings.Cut(owner, " NFSv4.")
	if !found || kind != "Linux" {
		return ""
	}
	_, name, found := strings.Cut(rest, " ")
	if !found {
		return ""
	}
	return strings.TrimRight(name[strings.LastIndex(name, "/")+1:], "\x00")
}

// SpeakFor says to the server at address, as the client of this owner, that it
// has nothing to reclaim (RFC 8881, 18.51), and takes leave. It ends a grace that
// waits for a client that is gone: ganesha lifts it when as many clients have
// said so as it has records. The client must be known to have lost its lease: it
// cannot reclaim its locks once grace is over. The call must come from the
// address under which the client was recorded.
func SpeakFor(ctx context.Context, address, owner string) error {
	session, err := nfs.ConnectAs(ctx, address, owner)
	if err != nil {
		return fmt.Errorf("speak for client %q at %s: %w", owner, address, err)
	}
	defer func() { _ = session.Close() }()
	if err := session.ReclaimComplete(); err != nil {
		return fmt.Errorf("speak for client %q at %s: %w", owner, address, err)
	}
	return nil
}
