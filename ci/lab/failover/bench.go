package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

// Replicas is how many replicas the volume of a bench needs: one on each storage
// node of the laboratory, so that the loss of one leaves two that have quorum.
const Replicas = "3"

const claimName = "broken"

// Bench is one volume, with the laboratory that it is in. Scenarios run on it
// one after another, never at the same time.
type Bench struct {
	// Volume is the name of the volume, of its export and of its resource
	// definition.
	Volume string
	// Evidence is a folder in which records and logs of runs are kept that failed
	// or broke a promise. Empty: nothing is kept.
	Evidence string

	lab     *lab.Lab
	cluster *scenario.Cluster
	// storage are the names of the nodes with replicas, consumer is one without.
	storage  []string
	consumer string
	// runs counts the runs: each has a folder of its own on the volume.
	runs int
	// whole is set while nothing has happened to the laboratory since a Repair.
	whole bool
	say   func(format string, arguments ...any)
}

// New makes a claim of the class in the cluster's namespace and waits until it
// is Bound. The class should have Replicas replicas. say is told what a run does.
// Whoever clears the namespace removes the claim again.
func New(ctx context.Context, laboratory *lab.Lab, cluster *scenario.Cluster, class string, say func(format string, arguments ...any)) (*Bench, error) {
	b := &Bench{lab: laboratory, cluster: cluster, say: say}
	for _, node := range laboratory.Nodes() {
		if node.Storage {
			b.storage = append(b.storage, node.Name)
		} else {
			b.consumer = node.Name
		}
	}
	if len(b.storage) < 3 || b.consumer == "" {
		return nil, errors.New("break a volume: the laboratory needs three storage nodes and one without storage")
	}
	if err := cluster.CreateClaim(ctx, scenario.Claim{Name: claimName, Class: class}); err != nil {
		return nil, err
	}
	volume, err := cluster.WaitBound(ctx, claimName)
	if err != nil {
		return nil, err
	}
	b.Volume = volume.Name
	return b, nil
}

// Claim is the name of the bench's claim.
func (b *Bench) Claim() string { return claimName }

// ClientPod is the name of the client on a node, while there is one. The node
// without storage has one after every run.
func (b *Bench) ClientPod(node string) string { return podName(node) }

// ganesha is a pattern for the command line of the export's server.
func (b *Bench) ganesha() string { return "ganesha.nfsd.*" + b.Volume }

// node returns a node of which it is known that the laboratory has it.
func (b *Bench) node(name string) *lab.Node {
	for _, node := range b.lab.Nodes() {
		if node.Name == name {
			return node
		}
	}
	panic("the laboratory has no node " + name)
}

// step is one step of a flow, with the name that its error gets.
type step struct {
	name string
	run  func(context.Context) error
}

// inOrder runs steps until one fails.
func inOrder(ctx context.Context, steps ...step) error {
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// How long the steps of a run may take at the most.
const (
	placeTime  = 3 * time.Minute
	answerTime = 3 * time.Minute
	repairTime = 4 * time.Minute
)

// within gives a step a limit of its own.
func within(limit time.Duration, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
		defer cancel()
		return run(ctx)
	}
}

// Run plays a scenario once: clients work, something breaks, the clients are
// waited for, everything is mended while they go on, and what they saw is judged.
// The laboratory is whole again when it returns, also after an error if that is
// possible. An error means that nothing was measured, be it that the clients
// never went on; promises that were not kept are in the Result.
func (b *Bench) Run(ctx context.Context, s Scenario) (Result, error) {
	b.runs++
	i := &incident{Bench: b, scenario: s, folder: fmt.Sprintf("run-%d", b.runs), started: time.Now()}
	err := inOrder(ctx,
		step{"find the laboratory whole", within(repairTime, i.findWhole)},
		step{"place the clients", within(placeTime, i.place)},
		step{"let the clients work", within(placeTime, i.work)},
		step{"break it", within(answerTime, i.strike)},
		step{"wait for the answer", within(answerTime, i.awaitAnswer)},
		step{"wait for the clients", within(answerTime, i.awaitRecovery)},
		step{"mend it", within(repairTime, i.mend)},
		step{"wait for the clients after that", within(answerTime, i.awaitSettled)},
		step{"release the locks", within(placeTime, i.release)},
		step{"stop the clients", within(placeTime, i.stop)},
		step{"judge", within(placeTime, i.judge)},
	)
	if err != nil {
		return Result{}, i.abandon(ctx, fmt.Errorf("scenario %s: %w", s.Name, err))
	}
	if len(i.result.Broken()) > 0 {
		if err := i.collect(ctx); err != nil {
			i.result.Problems = append(i.result.Problems, fmt.Sprintf("evidence is not complete: %v", err))
		}
	}
	return i.result, nil
}

// abandon leaves a laboratory behind in which the next scenario has a chance.
func (i *incident) abandon(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairTime+placeTime)
	defer cancel()
	cause = errors.Join(cause, i.describe(ctx), i.collect(ctx))
	if !i.struck.IsZero() && !i.mended {
		cause = errors.Join(cause, i.mend(ctx))
	}
	// The pods end with all that runs in them.
	return errors.Join(cause, i.removeClients(ctx))
}

// describe says in an error what a person would look at first.
func (i *incident) describe(ctx context.Context) error {
	var found []error
	for _, client := range i.clients {
		saw, err := client.read(ctx)
		if err != nil {
			found = append(found, err)
			continue
		}
		if idle := saw.idle(client.work, time.Now().Add(-fresh)); len(idle) > 0 {
			found = append(found, fmt.Errorf("client on %s: no progress of %v", client.node.Name, idle))
		}
	}
	found = append(found, i.lastWords(ctx))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	export, err := i.cluster.Exports.Get(ctx, i.Volume, metav1.GetOptions{})
	if err != nil {
		return errors.Join(append(found, err)...)
	}
	return errors.Join(append(found, fmt.Errorf("the export is %s on node %q: %s", export.Status.Phase, export.Status.Node, export.Status.Message))...)
}
