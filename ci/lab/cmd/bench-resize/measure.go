package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/bench"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

const (
	claimName = "growing"
	// firstSize is enough for xfs, and for ext4 to have the layout of large volumes.
	firstSize = 640 << 20
	step      = 64 << 20
	// calm is how long the clients work before the first growth, and between two: df
	// has settled by then.
	calm = time.Second
	// growTime is how long one growth may take.
	growTime = 2 * time.Minute
	// clockTolerance is how much a node's clock may differ from this machine's: times
	// of both are compared.
	clockTolerance = 20 * time.Millisecond
)

// filesystems are those that exports can have.
var filesystems = []string{"ext4", "xfs"}

// measure grows a volume of each filesystem, sums up and writes the result. It fails
// if there was a lie or an error.
func measure(ctx context.Context, laboratory *lab.Lab, runs int, directory string) error {
	var result Result
	var took []float64
	for i, fsType := range filesystems {
		share := runs / len(filesystems)
		if i < runs%len(filesystems) {
			share++
		}
		if share == 0 {
			continue
		}
		fmt.Printf("\n%s: %d growths\n", fsType, share)
		f, err := measureFilesystem(ctx, laboratory, fsType, share)
		if err != nil {
			return fmt.Errorf("grow %s: %w", fsType, err)
		}
		took = append(took, seconds(f.growths)...)
		result.Runs += len(f.growths)
		result.Lies += f.lies
		result.IOErrors += f.ioErrors
		result.WriterStallSecondsMax = max(result.WriterStallSecondsMax, bench.Round(f.stall))
	}
	result.Seconds = bench.PercentilesOf(took)
	if err := bench.WriteJSON(filepath.Join(directory, "resize.json"), result); err != nil {
		return err
	}
	fmt.Printf("\n%d growths: seconds p50 %.2f, p95 %.2f, max %.2f; lies %d, I/O errors %d, longest write %.2f s\n", result.Runs,
		result.Seconds.P50, result.Seconds.P95, result.Seconds.Max, result.Lies, result.IOErrors, result.WriterStallSecondsMax)
	if result.Lies > 0 || result.IOErrors > 0 {
		return fmt.Errorf("%d lies and %d I/O errors", result.Lies, result.IOErrors)
	}
	return nil
}

// finding is what the growths of one filesystem showed.
type finding struct {
	growths        []growth
	lies, ioErrors int
	stall          float64
}

func measureFilesystem(ctx context.Context, laboratory *lab.Lab, fsType string, runs int) (found finding, err error) {
	cluster, err := scenario.Connect(ctx, fmt.Sprintf("bench-resize-%s-%d", fsType, os.Getpid()))
	if err != nil {
		return found, err
	}
	class := scenario.Class{Name: cluster.Namespace, FSType: fsType}
	if err := cluster.CreateClass(ctx, class); err != nil {
		return found, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		err = errors.Join(err, cluster.Clear(ctx), cluster.DeleteClass(ctx, class.Name))
	}()
	size := resource.NewQuantity(firstSize, resource.BinarySI)
	if err := cluster.CreateClaim(ctx, scenario.Claim{Name: claimName, Class: class.Name, Size: size.String()}); err != nil {
		return found, err
	}
	clients, err := startClients(ctx, laboratory, cluster)
	if err != nil {
		return found, err
	}
	if found.growths, err = grow(ctx, cluster, runs); err != nil {
		return found, err
	}
	return found, judge(ctx, clients, &found)
}

// grow grows the claim step by step.
func grow(ctx context.Context, cluster *scenario.Cluster, runs int) ([]growth, error) {
	var all []growth
	for run := range runs {
		time.Sleep(calm)
		g := growth{from: firstSize + int64(run)*step, to: firstSize + int64(run+1)*step}
		ctx, cancel := context.WithTimeoutCause(ctx, growTime, fmt.Errorf("it took longer than %s", growTime))
		var err error
		g.asked, g.shown, err = cluster.Grow(ctx, claimName, *resource.NewQuantity(g.to, resource.BinarySI))
		cancel()
		if err != nil {
			return all, err
		}
		fmt.Printf("  growth %d to %d MiB: %.2f s\n", run+1, g.to>>20, g.shown.Sub(g.asked).Seconds())
		all = append(all, g)
	}
	time.Sleep(calm)
	return all, nil
}

// client is a pod that writes, and looks at the size of the filesystem all the time.
type client struct {
	cluster *scenario.Cluster
	node    *lab.Node
	pod     string
}

// startClients runs a client on the node without storage and one on a storage node.
func startClients(ctx context.Context, laboratory *lab.Lab, cluster *scenario.Cluster) ([]*client, error) {
	var clients []*client
	taken := map[bool]bool{} // by whether the node has storage
	for _, node := range laboratory.Nodes() {
		if taken[node.Storage] {
			continue
		}
		taken[node.Storage] = true
		c := &client{cluster: cluster, node: node, pod: "client-" + node.Name}
		if err := cluster.CreatePod(ctx, scenario.Pod{Name: c.pod, Node: node.Name, Claim: claimName, Scratch: true}); err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		if err := cluster.WaitRunning(ctx, c.pod); err != nil {
			return nil, err
		}
		if err := c.start(ctx); err != nil {
			return nil, err
		}
	}
	return clients, nil
}

func (c *client) lines() string { return scenario.DataPath + "/" + c.pod }

const (
	writeOutput = scenario.ScratchPath + "/write.json"
	spaceOutput = scenario.ScratchPath + "/df.json"
)

func (c *client) start(ctx context.Context) error {
	if err := c.compareClocks(ctx); err != nil {
		return err
	}
	if _, err := c.cluster.Exec(ctx, c.pod, scenario.Workload, "detach", writeOutput, "write", c.lines(), "--every", "20ms"); err != nil {
		return err
	}
	_, err := c.cluster.Exec(ctx, c.pod, scenario.Workload, "detach", spaceOutput, "df", scenario.DataPath, "--every", "20ms")
	return err
}

// compareClocks refuses a node whose clock differs from this machine's.
func (c *client) compareClocks(ctx context.Context) error {
	for try := 0; ; try++ {
		before := time.Now()
		out, err := c.node.Shell(ctx, "date +%s.%N")
		if err != nil {
			return err
		}
		after := time.Now()
		var seconds, nanoseconds int64
		if _, err := fmt.Sscanf(out, "%d.%d", &seconds, &nanoseconds); err != nil {
			return fmt.Errorf("read the clock of node %s in %q: %w", c.node.Name, out, err)
		}
		there := time.Unix(seconds, nanoseconds)
		if there.After(before.Add(-clockTolerance)) && there.Before(after.Add(clockTolerance)) {
			return nil
		}
		if try == 2 {
			return fmt.Errorf("the clock of node %s is %s away", c.node.Name, there.Sub(after))
		}
	}
}

// stop ends what start has started and returns what it said.
func (c *client) stop(ctx context.Context) (wrote, measured []saw, err error) {
	if _, err := c.node.Exec(ctx, "pkill", "-TERM", "-f", "--", "^workload (write|df) "); err != nil {
		return nil, nil, fmt.Errorf("stop the client on %s: %w", c.node.Name, err)
	}
	err = scenario.WaitFor(ctx, "the client on "+c.node.Name+" to end", func(ctx context.Context) (bool, error) {
		if wrote, err = c.read(ctx, writeOutput); err != nil {
			return false, err
		}
		if measured, err = c.read(ctx, spaceOutput); err != nil {
			return false, err
		}
		_, _, wroteAll := longest(wrote)
		_, _, measuredAll := longest(measured)
		return wroteAll && measuredAll, nil
	})
	return wrote, measured, err
}

func (c *client) read(ctx context.Context, output string) ([]saw, error) {
	out, err := c.cluster.Exec(ctx, c.pod, "cat", output)
	if err != nil {
		return nil, err
	}
	return parse([]byte(out[:strings.LastIndexByte(out, '\n')+1]))
}

// judge stops the clients and adds up what they saw.
func judge(ctx context.Context, clients []*client, found *finding) error {
	ctx, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	until := time.Now()
	for _, c := range clients {
		wrote, measured, err := c.stop(ctx)
		if err != nil {
			return err
		}
		problems := append(refused(wrote), refused(measured)...)
		if out, err := c.cluster.Exec(ctx, c.pod, scenario.Workload, "check", c.lines()); err != nil {
			problems = append(problems, fmt.Sprintf("%v: %s", err, strings.TrimSpace(out)))
		}
		untrue := lies(found.growths, measured, until)
		for _, text := range append(untrue, problems...) {
			fmt.Printf("  client on %s: %s\n", c.node.Name, text)
		}
		found.lies += len(untrue)
		found.ioErrors += len(problems)
		stall, steps, _ := longest(wrote)
		found.stall = max(found.stall, stall)
		fmt.Printf("  client on %s: %d writes, the longest took %.2f s\n", c.node.Name, steps, stall)
		if steps < len(found.growths) {
			return fmt.Errorf("the client on %s was no load: it wrote %d times", c.node.Name, steps)
		}
	}
	return nil
}
