package drbd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"k8s.io/utils/exec"
)

const program = "drbdsetup"

// Tool runs drbdsetup.
type Tool struct {
	exec exec.Interface
	// restartDelay is the first pause before Watch starts drbdsetup again.
	restartDelay time.Duration
}

// New returns a Tool that runs programs by exec.
func New(exec exec.Interface) *Tool {
	return &Tool{exec: exec, restartDelay: 100 * time.Millisecond}
}

// Status returns the state of one resource. It fails with ErrUnknownResource if
// this node has no such resource.
func (t *Tool) Status(ctx context.Context, name string) (Resource, error) {
	if err := checkName(name); err != nil {
		return Resource{}, err
	}
	output, err := t.run(ctx, name, "status", "--json", name)
	if err != nil {
		return Resource{}, fmt.Errorf("read the status of DRBD resource %s: %w", name, err)
	}
	resources, err := parseStatus(output)
	if err != nil {
		return Resource{}, fmt.Errorf("read the status of DRBD resource %s: %w", name, err)
	}
	for _, resource := range resources {
		if resource.Name == name {
			return resource, nil
		}
	}
	return Resource{}, fmt.Errorf("read the status of DRBD resource %s: %w", name, ErrUnknownResource)
}

// StatusAll returns the state of all resources of this node; none is no error.
func (t *Tool) StatusAll(ctx context.Context) ([]Resource, error) {
	output, err := t.run(ctx, "", "status", "--json")
	if err != nil {
		return nil, fmt.Errorf("read the status of DRBD: %w", err)
	}
	return parseStatus(output)
}

// Primary promotes the resource; it succeeds if it is Primary already, even
// without quorum: check HasQuorum afterwards. It takes about 1 s while a peer
// is unreachable, because DRBD asks the peers first. A refusal is a
// *RefusedError.
func (t *Tool) Primary(ctx context.Context, name string) error {
	return t.change(ctx, "promote", name, "primary", name)
}

// Secondary demotes the resource. It is refused with HeldOpen while one of its
// devices is open. A resource that is Secondary stays so.
func (t *Tool) Secondary(ctx context.Context, name string) error {
	return t.change(ctx, "demote", name, "secondary", name)
}

// ForceSecondary demotes the resource although it is open or suspended: all
// its I/O, also that which hangs, fails from then on, until the last opener is
// gone (Resource.ForceIOFailures). Data that was not written yet is lost.
func (t *Tool) ForceSecondary(ctx context.Context, name string) error {
	return t.change(ctx, "demote by force", name, "secondary", "--force", name)
}

func (t *Tool) change(ctx context.Context, verb, name string, args ...string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := t.run(ctx, name, args...); err != nil {
		return fmt.Errorf("%s DRBD resource %s: %w", verb, name, err)
	}
	return nil
}

// checkName refuses what drbdsetup would take for an option, or for all
// resources.
func checkName(name string) error {
	if name == "" || name == "all" || name[0] == '-' {
		return fmt.Errorf("%q is not the name of a DRBD resource", name)
	}
	return nil
}

// run is the one place that calls drbdsetup and waits for it.
func (t *Tool) run(ctx context.Context, resource string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	command := t.exec.CommandContext(ctx, program, args...)
	command.SetStdout(&stdout)
	command.SetStderr(&stderr)
	err := command.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s did not answer: %w", program, ctx.Err())
	}
	var exit exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return nil, parseFailure(resource, stderr.String(), exit.ExitStatus())
	}
	return nil, fmt.Errorf("run %s: %w", program, err)
}

// maxRestartDelay bounds the pause before drbdsetup is started again.
const maxRestartDelay = 5 * time.Second

// Watch calls changed with the name of every resource whose state changes,
// and with "" when everything has to be read again: at the start and whenever
// the stream of events was interrupted. It returns only when ctx ends, with
// its error. changed must not block for long.
func (t *Tool) Watch(ctx context.Context, changed func(name string)) error {
	delay := t.restartDelay
	for {
		if t.watchOnce(ctx, changed) {
			delay = t.restartDelay
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
		delay = min(2*delay, maxRestartDelay)
		// Without events, for instance because the module is not loaded, reading
		// everything now and then is the best there is.
		changed("")
	}
}

// watchOnce follows one run of `drbdsetup events2` to its end. It returns
// whether the run reported anything.
func (t *Tool) watchOnce(ctx context.Context, changed func(name string)) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	command := t.exec.CommandContext(ctx, program, "events2", "all")
	stdout, err := command.StdoutPipe()
	if err != nil {
		return false
	}
	if err := command.Start(); err != nil {
		return false
	}
	reported := follow(stdout, changed)
	cancel()
	_ = command.Wait()
	return reported
}

// follow reads events until the stream ends.
func follow(events io.Reader, changed func(name string)) bool {
	reader := bufio.NewReader(events)
	started := false
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			// What stands before the end of the stream is not a whole line.
			return started
		}
		name, initial := changedResource(line)
		switch {
		case initial:
			started = true
			changed("")
		case started && name != "":
			changed(name)
		}
	}
}
