package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/linbit/linstor-rwx/ci/lab/cluster"
)

// enteredVariable tells a test program that it runs in the network namespace.
const enteredVariable = "LINSTOR_RWX_LAB_ENTERED"

// Enter makes the calling program run inside the laboratory's network
// namespace: the first time it starts itself again in there, waits and ends
// with the same code; the second time it returns. It is meant for TestMain of
// tests that open connections themselves; Lab's own methods work everywhere.
func Enter() error {
	if os.Getenv(enteredVariable) != "" {
		return nil
	}
	l, err := Attach()
	if err != nil {
		return err
	}
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), enteredVariable+"=1", "KUBECONFIG="+l.Kubeconfig())
	if err := cluster.InNamespace(l.cluster.Config().Name, command.Start); err != nil {
		return fmt.Errorf("start again inside the laboratory: %w", err)
	}
	err = command.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("run inside the laboratory: %w", err)
	}
	os.Exit(command.ProcessState.ExitCode())
	return nil
}
