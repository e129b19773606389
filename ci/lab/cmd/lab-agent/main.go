// Command lab-agent is the only program of the laboratory inside a
// user-mode-linux guest. As PID 1 (`lab-agent init`) it turns the bare guest
// into a Kubernetes node and then only reaps; its child (`lab-agent serve`)
// keeps the node's programs running and lets the host run commands and read
// and write files.
package main

import (
	"fmt"
	"os"
)

func main() {
	// The kernel starts PID 1 with the arguments it did not understand.
	command := "serve"
	if os.Getpid() == 1 {
		command = "init"
	} else if len(os.Args) > 1 {
		command = os.Args[1]
	}
	if err := run(command); err != nil {
		fmt.Fprintln(os.Stderr, "lab-agent:", err)
		os.Exit(1)
	}
}

func run(command string) error {
	os.Setenv("PATH", "/k8s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	os.Setenv("HOME", "/root")
	switch command {
	case "init":
		return runInit()
	case "serve":
		return serve()
	case "poweroff":
		return powerOff()
	default:
		return fmt.Errorf("unknown command %q: use init, serve or poweroff", command)
	}
}
