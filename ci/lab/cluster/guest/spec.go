// Package guest is what the host and the lab-agent inside a user-mode-linux
// guest have to agree on: the description by which a guest configures itself,
// and the small protocol by which the host runs commands in it.
//
// It imports nothing heavy, because lab-agent is PID 1 of a guest whose page
// faults are slow.
package guest

const (
	// SpecPath is where the guest finds its Spec, as JSON, after it has unpacked
	// the node's files.
	SpecPath = "/etc/linstor-rwx-lab/guest.json"
	// FilesDevice is the block device that holds the node's files as a plain tar.
	FilesDevice = "/dev/ubdb"
	// LogDirectory holds one file per program, NAME.log, in the guest.
	LogDirectory = "/var/log/node"
	// Port is lab-agent's TCP port on the laboratory's control network.
	Port = 7000
)

// Spec says how a guest sets itself up before its programs run. The host
// decides everything; lab-agent only does it.
type Spec struct {
	// Hostname is the node's name.
	Hostname string `json:"hostname"`
	// Interfaces are configured in this order.
	Interfaces []Interface `json:"interfaces"`
	// Gateway is the address of the default route.
	Gateway string `json:"gateway"`
	// Routes lead to the other nodes' pod networks.
	Routes []Route `json:"routes"`
	// AgentAddress is where lab-agent listens.
	AgentAddress string `json:"agentAddress"`
	// Modules are kernel modules with their parameters; one that cannot be
	// loaded is reported on the console and is otherwise no error.
	Modules []Module `json:"modules"`
	// Settings are written to files under /proc/sys and /sys; a file that does
	// not exist is reported on the console.
	Settings []Setting `json:"settings"`
	// Programs run for ever, started in this order.
	Programs []Program `json:"programs"`
}

// Interface is a network interface and its address with prefix length.
type Interface struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// Route leads to a network through a neighbour.
type Route struct {
	To  string `json:"to"`
	Via string `json:"via"`
}

// Module is a kernel module.
type Module struct {
	Name       string   `json:"name"`
	Parameters []string `json:"parameters,omitempty"`
}

// Setting is a value for a file of the kernel.
type Setting struct {
	Path  string `json:"path"`
	Value string `json:"value"`
}

// Program is a process that lab-agent keeps running: it is started again a
// second after it ended, as a service manager would do.
type Program struct {
	// Name is unique in the guest and names the log file.
	Name string `json:"name"`
	// Command is the executable and its arguments.
	Command []string `json:"command"`
	// Socket is a unix socket that must accept a connection before the next
	// program is started.
	Socket string `json:"socket,omitempty"`
}
