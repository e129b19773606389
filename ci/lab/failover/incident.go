package failover

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

const (
	// calm is how long the clients work before the fault, and how long they must
	// have worked without interruption until they count as recovered; settled is
	// the same after everything was mended.
	calm    = 2 * time.Second
	settled = time.Second
	// fresh is how old the last progress of working clients is at the most: they
	// report every quarter of a second, on nodes that may be busy.
	fresh = 2 * time.Second
	// look is how often the clients' records are looked at.
	look = 400 * time.Millisecond
)

// incident is one run of a scenario.
type incident struct {
	*Bench
	scenario Scenario
	folder   string
	started  time.Time
	clients  []*client

	// before is the export right before the fault, server the node that served
	// it, process its ganesha; parts what the supervisors had measured by then.
	before  *v1alpha1.NFSExport
	server  *lab.Node
	process []string
	metrics metrics
	// struck is when the fault was made, known what the clients had said by then;
	// recovered is when all clients worked again.
	struck    time.Time
	known     map[*client]record
	recovered time.Time
	mended    bool
	// finished ends when what the fault started in the background is over.
	finished chan error

	result Result
}

// findWhole mends what is left of others' faults.
func (i *incident) findWhole(ctx context.Context) error {
	if i.whole {
		return nil
	}
	return i.Repair(ctx)
}

// place finds the server and puts the clients where the scenario wants them.
func (i *incident) place(ctx context.Context) error {
	// Without any client nobody serves.
	if err := i.ensurePod(ctx, i.consumer); err != nil {
		return err
	}
	export, err := i.cluster.WaitServing(ctx, i.Volume)
	if err != nil {
		return err
	}
	pods, err := i.clientPods(ctx)
	if err != nil {
		return err
	}
	var taken []string
	for _, pod := range pods {
		taken = append(taken, pod.Spec.NodeName)
	}
	seats := choose(i.scenario.placement, export.Status.Node, i.consumer, i.storage, taken)
	for _, pod := range pods {
		wanted := slices.ContainsFunc(seats, func(s seat) bool { return podName(s.node) == pod.Name })
		if !wanted {
			if err := i.cluster.DeletePods(ctx, pod.Name); err != nil {
				return err
			}
		}
	}
	for _, seat := range seats {
		if err := i.ensurePod(ctx, seat.node); err != nil {
			return err
		}
	}
	return i.seat(ctx, seats)
}

// seat makes clients of the pods that run on the seats.
func (i *incident) seat(ctx context.Context, seats []seat) error {
	var survivors []string
	for _, seat := range seats {
		if !seat.doomed {
			survivors = append(survivors, seat.node)
		}
	}
	for _, seat := range seats {
		pod, err := i.cluster.Client.CoreV1().Pods(i.cluster.Namespace).Get(ctx, podName(seat.node), metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("find the pod of a client: %w", err)
		}
		rivals := slices.DeleteFunc(slices.Clone(survivors), func(name string) bool { return name == seat.node })
		i.clients = append(i.clients, &client{
			node: i.node(seat.node), pod: pod.Name, doomed: seat.doomed,
			rivals: rivals, work: work(rivals), output: i.folder + ".json", uid: string(pod.UID),
		})
	}
	return nil
}

// work starts the clients and returns when they have worked undisturbed for a
// while.
func (i *incident) work(ctx context.Context) error {
	// By one of them: what happens to clients that race to make the same folder is
	// not what is measured.
	if _, err := i.cluster.Exec(ctx, i.clients[0].pod, "mkdir", path.Join(scenario.DataPath, i.folder)); err != nil {
		return err
	}
	err := together(i.clients, func(client *client) error { return client.start(ctx, i.cluster, i.folder) })
	if err != nil {
		return err
	}
	return i.awaitClients(ctx, calm)
}

// awaitClients returns when everything that the surviving clients do has
// progressed without a long pause for so long. It asks the nodes, not the API
// server.
func (i *incident) awaitClients(ctx context.Context, undisturbed time.Duration) error {
	var since time.Time
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	return scenario.WaitFor(ctx, "the clients to work", func(ctx context.Context) (bool, error) {
		defer pause(ctx, look)
		before := time.Now()
		for _, client := range i.clients {
			if client.doomed && !i.struck.IsZero() {
				continue
			}
			saw, err := client.read(ctx)
			if failure := saw.failure(); failure != "" {
				err = fmt.Errorf("client on %s has ended: %s", client.node.Name, failure)
				giveUp(err)
			}
			if err == nil {
				if idle := saw.idle(client.work, before.Add(-fresh)); len(idle) > 0 {
					err = fmt.Errorf("client on %s: no progress of %v", client.node.Name, idle)
				}
			}
			if err != nil {
				since = time.Time{}
				return false, err
			}
		}
		if since.IsZero() {
			since = before
		}
		return before.Sub(since) >= undisturbed, nil
	})
}

func pause(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}

// strike notes how things are and makes the fault.
func (i *incident) strike(ctx context.Context) error {
	var err error
	if i.before, err = i.cluster.WaitServing(ctx, i.Volume); err != nil {
		return err
	}
	i.server = i.node(i.before.Status.Node)
	if i.process, err = i.server.Processes(ctx, i.ganesha()); err != nil {
		return err
	}
	if len(i.process) != 1 {
		return fmt.Errorf("node %s runs the processes %v for the export, want one ganesha", i.server.Name, i.process)
	}
	if i.metrics, err = i.scrape(ctx); err != nil {
		return err
	}
	violations, err := i.lab.Storage().Violations(ctx)
	if err != nil {
		return err
	}
	if len(violations) > 0 {
		return fmt.Errorf("there were violations before the fault: %q", violations)
	}
	i.known = map[*client]record{}
	for _, client := range i.clients {
		if i.known[client], err = client.read(ctx); err != nil {
			return err
		}
	}
	i.say("%s: node %s serves, clients on %s", i.scenario.Name, i.server.Name, i.clientNodes())
	i.struck, i.whole = time.Now(), false
	return i.scenario.strike(ctx, i)
}

func (i *incident) clientNodes() []string {
	var names []string
	for _, client := range i.clients {
		names = append(names, client.node.Name)
	}
	return names
}

// awaitRecovery waits until the clients work again.
func (i *incident) awaitRecovery(ctx context.Context) error {
	err := i.awaitClients(ctx, calm)
	i.recovered = time.Now()
	return err
}

// awaitSettled waits until they still do, after all was mended.
func (i *incident) awaitSettled(ctx context.Context) error { return i.awaitClients(ctx, settled) }

// awaitAnswer waits until the product has done what the scenario is about.
func (i *incident) awaitAnswer(ctx context.Context) error {
	if i.scenario.answered == nil {
		return nil
	}
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	return scenario.WaitFor(ctx, i.scenario.answer, func(ctx context.Context) (bool, error) {
		done, err := i.scenario.answered(ctx, i)
		if errors.Is(err, errRefused) {
			refuse(err)
		}
		return done, err
	})
}

// errRefused is an answer that will not change.
var errRefused = errors.New("the product refused")

// mend ends the fault, while the clients go on, and waits until everything is
// as before.
func (i *incident) mend(ctx context.Context) error {
	if i.scenario.mend != nil {
		if err := i.scenario.mend(ctx, i); err != nil {
			return err
		}
	}
	if err := i.Repair(ctx); err != nil {
		return err
	}
	for _, client := range i.clients {
		if client.doomed { // what runs in it after the reboot is nobody's
			if err := i.cluster.DeletePods(ctx, client.pod); err != nil {
				return err
			}
		}
	}
	i.mended, i.whole = true, true
	return nil
}

// survivors are the clients that the fault leaves alive.
func (i *incident) survivors() []*client {
	return slices.DeleteFunc(slices.Clone(i.clients), func(c *client) bool { return c.doomed })
}

// release makes the clients release their locks and waits until the thieves got
// every one of them: a thief that cannot steal would prove nothing.
func (i *incident) release(ctx context.Context) error {
	for _, client := range i.survivors() {
		saw, err := client.read(ctx)
		if err != nil {
			return err
		}
		// What is taken from now on is not stolen.
		stolen := saw[len(i.known[client]):].stolenLocks()
		i.result.LocksStolen += len(stolen)
		for _, lock := range stolen {
			i.say("%s: the %s on %s got its lock", i.scenario.Name, lock, client.node.Name)
		}
		client.thefts = map[string]int{}
		for _, kind := range client.work {
			client.thefts[kind] = saw.count(kind, "stolen")
		}
	}
	for _, client := range i.survivors() {
		if err := client.signal(ctx, "USR1"); err != nil {
			return err
		}
	}
	return scenario.WaitFor(ctx, "released locks to be taken", func(ctx context.Context) (bool, error) {
		defer pause(ctx, look)
		var waiting []error
		for _, client := range i.survivors() {
			saw, err := client.read(ctx)
			if err != nil {
				return false, err
			}
			for _, rival := range client.rivals {
				for _, thief := range []string{fcntlThief + rival, flockThief + rival} {
					if saw.count(thief, "stolen") == client.thefts[thief] {
						waiting = append(waiting, fmt.Errorf("the %s on %s does not get the released lock", thief, client.node.Name))
					}
				}
			}
		}
		return len(waiting) == 0, errors.Join(waiting...)
	})
}

// stop ends the clients' work and waits until they said so.
func (i *incident) stop(ctx context.Context) error {
	for _, client := range i.survivors() {
		if err := client.signal(ctx, "TERM"); err != nil {
			return err
		}
	}
	return scenario.WaitFor(ctx, "the clients to end", func(ctx context.Context) (bool, error) {
		for _, client := range i.survivors() {
			saw, err := client.read(ctx)
			if err != nil {
				return false, err
			}
			if !saw.has("", "ended") {
				return false, fmt.Errorf("the client on %s still works", client.node.Name)
			}
		}
		return true, nil
	})
}

// together calls f for all clients at the same time.
func together(clients []*client, f func(*client) error) error {
	failures := make([]error, len(clients))
	var running sync.WaitGroup
	for at, client := range clients {
		running.Go(func() { failures[at] = f(client) })
	}
	running.Wait()
	return errors.Join(failures...)
}

// clientPods returns the pods of clients.
func (b *Bench) clientPods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := b.cluster.Client.CoreV1().Pods(b.cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "claim=" + claimName})
	if err != nil {
		return nil, fmt.Errorf("list the clients: %w", err)
	}
	return list.Items, nil
}

// removeClients deletes all pods of clients.
func (b *Bench) removeClients(ctx context.Context) error {
	pods, err := b.clientPods(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if err := b.cluster.DeletePods(ctx, pod.Name); err != nil {
			return err
		}
	}
	return nil
}
