package drbd

import (
	"fmt"
	"io"
	"strings"
)

// runShow prints the configuration; a resource that does not exist is not an
// error to drbdsetup.
func (c *Cluster) runShow(node, resource string, json bool, out io.Writer) int {
	var parts []string
	for _, s := range c.states(node, resource) {
		c.mu.Lock()
		res := c.resources[s.Resource]
		if res != nil {
			if json {
				parts = append(parts, c.showJSON(res, s))
			} else {
				parts = append(parts, c.showText(res, s))
			}
		}
		c.mu.Unlock()
	}
	switch {
	case json && len(parts) == 0:
		_, _ = io.WriteString(out, "[\n]\n")
	case json:
		_, _ = io.WriteString(out, "[\n"+strings.Join(parts, ",\n")+"\n]\n")
	case len(parts) == 0:
		_, _ = io.WriteString(out, nothingConfigured)
	default:
		_, _ = io.WriteString(out, strings.Join(parts, "\n")+"\n")
	}
	return exitOK
}

// options lists the resource options that differ from DRBD's defaults.
func (res *resource) optionList() [][2]string {
	var list [][2]string
	if res.options.Quorum == QuorumMajority {
		list = append(list, [2]string{"quorum", QuorumMajority})
	}
	if res.options.OnNoQuorum == OnNoQuorumIOError {
		list = append(list, [2]string{"on-no-quorum", OnNoQuorumIOError})
	}
	if !res.options.AutoPromote {
		list = append(list, [2]string{"auto-promote", "no"})
	}
	if res.options.OnSuspendedPrimaryOutdated == "force-secondary" {
		list = append(list, [2]string{"on-suspended-primary-outdated", "force-secondary"})
	}
	return list
}

func (c *Cluster) showJSON(res *resource, s State) string {
	var options, volumes, connections []string
	for _, option := range res.optionList() {
		options = append(options, fmt.Sprintf("            %q: %q", option[0], option[1]))
	}
	for _, v := range s.Volumes {
		disk := `                    "disk": "none"`
		if !v.Client {
			disk = fmt.Sprintf("                    \"backing-disk\": %q,\n                    \"meta-disk\": \"internal\"", backingDevice(s.Resource, v.Number))
		}
		volumes = append(volumes, fmt.Sprintf("                {\n                    \"volume_nr\": %d,\n                    \"device_minor\": %d,\n%s\n                }", v.Number, v.Minor, disk))
	}
	for _, connection := range s.Connections {
		connections = append(connections, c.showConnectionJSON(res, s, connection))
	}
	return fmt.Sprintf(`    {
        "resource": %q,
        "options": {
%s
        },
        "_this_host": {
            "node-id": %d,
            "volumes": [
%s
            ]
        },
        "connections": [
%s
        ]
    }`, s.Resource, strings.Join(options, ",\n"), s.NodeID, strings.Join(volumes, ",\n"), strings.Join(connections, ",\n"))
}

func (c *Cluster) showConnectionJSON(res *resource, s State, connection ConnectionState) string {
	var volumes []string
	for _, p := range connection.Volumes {
		if p.Client && !s.client(p.Number) {
			volumes = append(volumes, fmt.Sprintf("                    {\n                        \"volume_nr\": %d,\n                        \"disk\": {\n                            \"bitmap\": false\n                        }\n                    }", p.Number))
		}
	}
	list := ""
	if len(volumes) > 0 {
		list = "                \"volumes\": [\n" + strings.Join(volumes, ",\n") + "\n                ],\n"
	}
	return fmt.Sprintf(`            {
                "path": {
                    "_this_host": "ipv4 %s:%d",
                    "_remote_host": "ipv4 %s:%d"
                },
                "net": {
                    "cram-hmac-alg": "sha1",
                    "shared-secret": "laboratory",
                    "_name": %q
                },
%s                "_peer_node_id": %d
            }`, c.address(s.Node), res.port(), c.address(connection.Peer), res.port(), connection.Peer, list, connection.PeerID)
}

func (s State) client(number int) bool {
	for _, v := range s.Volumes {
		if v.Number == number {
			return v.Client
		}
	}
	return false
}

func (c *Cluster) showText(res *resource, s State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "resource %q {\n    options {\n", s.Resource)
	for _, option := range res.optionList() {
		fmt.Fprintf(&b, "        %-16s\t%s;\n", option[0], option[1])
	}
	fmt.Fprintf(&b, "    }\n    _this_host {\n        node-id\t\t\t%d;\n", s.NodeID)
	for _, v := range s.Volumes {
		fmt.Fprintf(&b, "        volume %d {\n            device\t\t\tminor %d;\n", v.Number, v.Minor)
		if v.Client {
			b.WriteString("            disk\t\t\tnone;\n        }\n")
		} else {
			fmt.Fprintf(&b, "            disk\t\t\t%q;\n            meta-disk\t\t\tinternal;\n        }\n", backingDevice(s.Resource, v.Number))
		}
	}
	b.WriteString("    }\n")
	for _, connection := range s.Connections {
		fmt.Fprintf(&b, "    connection {\n        _peer_node_id %d;\n        path {\n            _this_host ipv4 %s:%d;\n            _remote_host ipv4 %s:%d;\n        }\n",
			connection.PeerID, c.address(s.Node), res.port(), c.address(connection.Peer), res.port())
		fmt.Fprintf(&b, "        net {\n            cram-hmac-alg   \t\"sha1\";\n            shared-secret   \t\"laboratory\";\n            _name           \t%q;\n        }\n", connection.Peer)
		for _, p := range connection.Volumes {
			if p.Client && !s.client(p.Number) {
				fmt.Fprintf(&b, "        volume %d {\n            disk {\n                bitmap          \tno;\n            }\n        }\n", p.Number)
			}
		}
		b.WriteString("    }\n")
	}
	b.WriteString("}\n")
	return b.String()
}
