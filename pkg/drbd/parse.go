package drbd

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// statusResource and so on are the part of `drbdsetup status --json` that we
// read; see print_resource_json and its neighbours in drbdsetup.c. Fields that a
// version does not print stay zero.
type statusResource struct {
	Name             string             `json:"name"`
	Role             string             `json:"role"`
	SuspendedUser    bool               `json:"suspended-user"`
	SuspendedNoData  bool               `json:"suspended-no-data"`
	SuspendedFencing bool               `json:"suspended-fencing"`
	SuspendedQuorum  bool               `json:"suspended-quorum"`
	ForceIOFailures  bool               `json:"force-io-failures"`
	Devices          []statusDevice     `json:"devices"`
	Connections      []statusConnection `json:"connections"`
}

type statusDevice struct {
	Volume    int    `json:"volume"`
	Minor     int    `json:"minor"`
	DiskState string `json:"disk-state"`
	Client    bool   `json:"client"`
	Open      bool   `json:"open"`
	Quorum    bool   `json:"quorum"`
	// Size is in KiB.
	Size int64 `json:"size"`
}

type statusConnection struct {
	Name        string             `json:"name"`
	State       string             `json:"connection-state"`
	PeerRole    string             `json:"peer-role"`
	PeerDevices []statusPeerDevice `json:"peer_devices"`
}

type statusPeerDevice struct {
	Volume      int    `json:"volume"`
	DiskState   string `json:"peer-disk-state"`
	Replication string `json:"replication-state"`
	Client      bool   `json:"peer-client"`
}

// parseStatus parses the output of `drbdsetup status --json`.
func parseStatus(output []byte) ([]Resource, error) {
	var status []statusResource
	if err := json.Unmarshal(output, &status); err != nil {
		return nil, fmt.Errorf("parse the status of DRBD: %w", err)
	}
	resources := make([]Resource, 0, len(status))
	for _, s := range status {
		if s.Name == "" || s.Role == "" {
			return nil, fmt.Errorf("parse the status of DRBD: a resource has no name or role: %+v", s)
		}
		resources = append(resources, s.resource())
	}
	return resources, nil
}

func (s statusResource) resource() Resource {
	r := Resource{
		Name: s.Name,
		Role: s.Role,
		Suspended: Suspended{
			User: s.SuspendedUser, NoData: s.SuspendedNoData,
			Fencing: s.SuspendedFencing, Quorum: s.SuspendedQuorum,
		},
		ForceIOFailures: s.ForceIOFailures,
	}
	for _, d := range s.Devices {
		r.Devices = append(r.Devices, Device{
			Volume: d.Volume, Minor: d.Minor, DiskState: d.DiskState,
			Client: d.Client, Open: d.Open, Quorum: d.Quorum, SizeBytes: d.Size * 1024,
		})
	}
	for _, c := range s.Connections {
		connection := Connection{Name: c.Name, State: c.State, PeerRole: c.PeerRole}
		for _, p := range c.PeerDevices {
			connection.PeerDevices = append(connection.PeerDevices, PeerDevice(p))
		}
		r.Connections = append(r.Connections, connection)
	}
	return r
}

// refusal is how drbdsetup reports that the kernel refused a change of state.
var refusal = regexp.MustCompile(`(?m)State change failed: \((-\d+)\) (.*)$`)

// parseFailure makes an error of what a failed drbdsetup wrote to stderr.
func parseFailure(resource, stderr string, exitCode int) error {
	text := strings.TrimSpace(stderr)
	if match := refusal.FindStringSubmatchIndex(text); match != nil {
		code, err := strconv.Atoi(text[match[2]:match[3]])
		if err == nil {
			return &RefusedError{Resource: resource, Code: code, Text: oneLine(text[match[4]:])}
		}
	}
	if exitCode == exitNoSuchObject && unknownResource.MatchString(text) {
		return fmt.Errorf("%w: %s", ErrUnknownResource, resource)
	}
	return fmt.Errorf("drbdsetup ended with code %d: %s", exitCode, oneLine(text))
}

// exitNoSuchObject is drbdsetup's exit code for arguments that do not fit what
// the kernel knows.
const exitNoSuchObject = 10

// unknownResource matches what `status` and the changing commands print.
var unknownResource = regexp.MustCompile(`: No such resource\b|: Failure: \(158\)|: Unknown resource\b`)

func oneLine(text string) string {
	text = strings.ReplaceAll(text, "additional info from kernel:", "")
	var parts []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

// changedResource returns the resource that a line of `drbdsetup events2` is
// about. initial is true for the end of the report of what exists. Lines about
// handlers (call, response) and lines that we do not know tell nothing.
func changedResource(line string) (name string, initial bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return "", false
	}
	if fields[0] == "exists" && fields[1] == "-" {
		return "", true
	}
	switch fields[0] {
	case "exists", "create", "change", "destroy", "rename":
	default:
		return "", false
	}
	for _, field := range fields[2:] {
		if value, found := strings.CutPrefix(field, "name:"); found {
			return value, false
		}
	}
	return "", false
}
