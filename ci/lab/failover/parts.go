package failover

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// parts puts the parts of the stall together: what the new server's supervisor
// wrote down of a move, else what its metrics say of a start in place; and what
// only the clients can tell.
func (i *incident) parts(ctx context.Context, export *v1alpha1.NFSExport) (map[string]float64, error) {
	now, err := i.scrape(ctx)
	if err != nil {
		return nil, err
	}
	parts := now.since(i.metrics)
	if moved := export.Status.LastFailover; moved != nil && i.isNew(moved) {
		maps.Copy(parts, numbers(moved.Parts))
	}
	if _, started := parts[Probe]; !started {
		return parts, nil // the old server is still there: no start, no grace
	}
	stopped, writes, opens, err := i.interruption(ctx)
	if err != nil {
		return nil, err
	}
	if _, known := parts[Detect]; !known {
		if detect, ok := i.detected(ctx, export.Status.Node, stopped, parts); ok {
			parts[Detect] = detect
		}
	}
	if _, known := parts[Grace]; !known && opens.After(writes) {
		parts[Grace] = opens.Sub(writes).Seconds()
	}
	parts[Reconnect] = remainder(i.result.WriterStall, parts)
	return parts, nil
}

// isNew says whether a fail-over is not the one from before the fault.
func (i *incident) isNew(moved *v1alpha1.Failover) bool {
	old := i.before.Status.LastFailover
	return old == nil || !old.Time.Equal(&moved.Time) || old.To != moved.To
}

// remainder is what is left of the writers' stall when the server answered and
// the Service led to it: the clients had to find it.
func remainder(stall float64, parts map[string]float64) float64 {
	for _, part := range []string{Detect, Promote, Mount, Start, Probe, Endpoint} {
		stall -= parts[part]
	}
	return max(0, stall)
}

// detected is the time from when the first writer was stopped until the serving
// node began to act, told by the start of its newest ganesha. False if that is
// older.
func (i *incident) detected(ctx context.Context, serving string, stopped time.Time, parts map[string]float64) (float64, bool) {
	node := i.node(serving)
	pids, err := node.Processes(ctx, i.ganesha())
	if err != nil || len(pids) != 1 {
		return 0, false
	}
	age, err := processAge(ctx, node, pids[0])
	if err != nil {
		return 0, false
	}
	begun := time.Now().Add(-age)
	if begun.Before(stopped) {
		return 0, false
	}
	return max(0, begun.Sub(stopped).Seconds()-parts[Promote]-parts[Mount]), true
}

// processAge returns how long a process of a node has lived.
func processAge(ctx context.Context, node *lab.Node, pid string) (time.Duration, error) {
	out, err := node.Shell(ctx, "cut -d ' ' -f 1 /proc/uptime; sed 's/.*) //' /proc/"+pid+"/stat | cut -d ' ' -f 20; getconf CLK_TCK")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(out)
	if len(fields) != 3 {
		return 0, fmt.Errorf("read the age of process %s: %q", pid, out)
	}
	var values [3]float64
	for at, field := range fields {
		if values[at], err = strconv.ParseFloat(field, 64); err != nil {
			return 0, fmt.Errorf("read the age of process %s: %w", pid, err)
		}
	}
	return time.Duration((values[0] - values[1]/values[2]) * float64(time.Second)), nil
}

// interruption returns when the first survivor could not write any more, when the
// last one wrote again, and when it opened again.
func (i *incident) interruption(ctx context.Context) (stopped, writes, opens time.Time, err error) {
	stopped = i.recovered
	for _, client := range i.survivors() {
		saw, err := client.read(ctx)
		if err != nil {
			return stopped, writes, opens, err
		}
		if longest := saw.longest(writer, i.struck, i.recovered); longest != nil {
			stopped, writes = earlier(stopped, longest.Begin), later(writes, longest.Time)
		}
		if longest := saw.longest(opener, i.struck, i.recovered); longest != nil {
			opens = later(opens, longest.Time)
		}
	}
	return stopped, writes, opens, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// numbers reads seconds; what is no number is left out.
func numbers(texts map[string]string) map[string]float64 {
	values := map[string]float64{}
	for name, text := range texts {
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			values[name] = value
		}
	}
	return values
}

// startMetric is the supervisors' histogram of the steps of a start.
const startMetric = "linstor_rwx_export_start_seconds"

// partOf maps the supervisors' steps to parts.
var partOf = map[string]string{
	"promote": Promote, "launch": Start, "probe": Probe, "endpoint": Endpoint,
	"device": Mount, "volumes": Mount, "grow": Mount, "root": Mount, "records": Mount,
}

// metrics are, by node, the seconds that each step of starts took in sum.
type metrics map[string]map[string]float64

// scrape reads the metrics of all supervisors that answer: on a node that is off
// or cut off none does.
func (b *Bench) scrape(ctx context.Context) (metrics, error) {
	pods, err := b.ganeshaPods(ctx)
	if err != nil {
		return nil, err
	}
	all := metrics{}
	for node, pod := range pods {
		if page, err := askSupervisor(ctx, pod, "/metrics"); err == nil {
			all[node] = stepSums(page)
		}
	}
	return all, nil
}

// stepSums reads lines such as
// linstor_rwx_export_start_seconds_sum{part="probe"} 0.25.
func stepSums(page []byte) map[string]float64 {
	sums := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(page))
	for lines.Scan() {
		rest, found := strings.CutPrefix(lines.Text(), startMetric+`_sum{part="`)
		if !found {
			continue
		}
		name, value, found := strings.Cut(rest, `"} `)
		if !found {
			continue
		}
		if sum, err := strconv.ParseFloat(value, 64); err == nil {
			sums[name] = sum
		}
	}
	return sums
}

// since returns the parts of the starts that happened after before was taken. A
// sum that became smaller is that of a new supervisor.
func (m metrics) since(before metrics) map[string]float64 {
	parts := map[string]float64{}
	for node, sums := range m {
		for name, sum := range sums {
			took := sum - before[node][name]
			if took < 0 {
				took = sum
			}
			if part := partOf[name]; part != "" && took > 0 {
				parts[part] += took
			}
		}
	}
	return parts
}
