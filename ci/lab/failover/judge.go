package failover

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// judge fills the result in from what was seen.
func (i *incident) judge(ctx context.Context) error {
	export, err := i.cluster.WaitServing(ctx, i.Volume)
	if err != nil {
		return err
	}
	i.result.Scenario = i.scenario.Name
	i.result.From, i.result.To = i.before.Status.Node, export.Status.Node
	i.result.Starts = int(export.Status.BootEpoch - i.before.Status.BootEpoch)
	if err := i.judgeClients(ctx); err != nil {
		return err
	}
	if err := i.judgeFiles(ctx); err != nil {
		return err
	}
	if err := i.judgeStorage(ctx); err != nil {
		return err
	}
	if i.result.Parts, err = i.parts(ctx, export); err != nil {
		return err
	}
	if err := i.removeFolder(ctx); err != nil {
		return err
	}
	i.result.Took = time.Since(i.started).Seconds()
	return nil
}

// judgeClients counts what the survivors noticed.
func (i *incident) judgeClients(ctx context.Context) error {
	for _, client := range i.survivors() {
		saw, err := client.read(ctx)
		if err != nil {
			return err
		}
		i.result.WriterStall = max(i.result.WriterStall, saw.stall(writer, i.struck, i.recovered).Seconds())
		i.result.OpenerStall = max(i.result.OpenerStall, saw.stall(opener, i.struck, i.recovered).Seconds())
		i.result.MendStall = max(i.result.MendStall, saw.stall(writer, i.recovered, time.Now()).Seconds())
		if existed := saw.count(opener, "existed"); existed > i.result.Starts {
			i.result.Problems = append(i.result.Problems, fmt.Sprintf("client on %s: %d of its new files existed, and %d servers were replaced",
				client.node.Name, existed, i.result.Starts))
		}
		i.result.LocksLost += len(saw.lostLocks())
		stale, others := saw.errors()
		i.result.StaleHandles += stale
		for _, other := range others {
			i.result.Problems = append(i.result.Problems, fmt.Sprintf("client on %s: %s", client.node.Name, other))
		}
	}
	return nil
}

// judgeFiles looks for every acknowledged line. What a doomed client was told
// before it died counts, too.
func (i *incident) judgeFiles(ctx context.Context) error {
	var lock sync.Mutex
	return together(i.clients, func(client *client) error {
		verdict, err := i.check(ctx, client)
		if err != nil {
			return err
		}
		lock.Lock()
		defer lock.Unlock()
		i.result.AcknowledgedWritesLost += verdict.Lost
		if verdict.Event == "broken" && verdict.Lost == 0 {
			i.result.Problems = append(i.result.Problems, fmt.Sprintf("the lines of the client on %s are damaged: some are there twice, or are no lines", client.node.Name))
		}
		return nil
	})
}

// check lets another client read what a client has written.
func (i *incident) check(ctx context.Context, client *client) (event, error) {
	saw := i.known[client]
	if !client.doomed {
		var err error
		if saw, err = client.read(ctx); err != nil {
			return event{}, err
		}
	}
	last := saw.acknowledged()
	if last < 0 {
		return event{}, fmt.Errorf("the writer on %s has written nothing", client.node.Name)
	}
	witness := client.checkedBy(i.survivors())
	// Its exit code says no more than its verdict, and nothing if there is none.
	out, failure := i.cluster.Exec(ctx, witness.pod, scenario.Workload, "check", client.lines(i.folder), "--acknowledged", strconv.Itoa(last))
	said, err := parseRecord([]byte(out))
	if err != nil {
		return event{}, err
	}
	if !said.has("", "intact") && !said.has("", "broken") {
		return event{}, errors.Join(fmt.Errorf("check the lines of the client on %s: no verdict, but %q", client.node.Name, out), failure)
	}
	return said[len(said)-1], nil
}

// judgeStorage counts what DRBD would not have survived, and makes room for what
// the next run brings.
func (i *incident) judgeStorage(ctx context.Context) error {
	violations, err := i.lab.Storage().Violations(ctx)
	if err != nil {
		return err
	}
	for _, violation := range violations {
		if isDoublePrimary(violation) {
			i.result.DoublePrimaries++
		}
		i.result.Problems = append(i.result.Problems, violation)
	}
	return i.lab.Storage().ClearViolations(ctx)
}

// isDoublePrimary says whether a violation (ci/lab/drbd) is about two nodes that
// could both have written.
func isDoublePrimary(violation string) bool {
	return strings.Contains(violation, "are Primary and connected") || strings.Contains(violation, "split brain")
}

// removeFolder makes room on the volume.
func (i *incident) removeFolder(ctx context.Context) error {
	witness := i.survivors()[0]
	if _, err := i.cluster.Exec(ctx, witness.pod, "rm", "-rf", path.Join(scenario.DataPath, i.folder)); err != nil {
		return err
	}
	return nil
}
