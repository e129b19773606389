package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	linstorapi "github.com/LINBIT/golinstor/client"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// Scenario is one way to break a served volume. Bench.Run plays it.
type Scenario struct {
	Name        string
	Description string

	// Restarts says that the server is started again in place, which a supervisor does
	// so often within a minute only, see RestartPause.
	Restarts bool
	// HandsOver says that the export is moved by its supervisors while both live,
	// which takes their heartbeat: without it, such a request is refused.
	HandsOver bool

	placement placement
	// strike makes the fault.
	strike func(context.Context, *incident) error
	// answered says whether the product has done what answer says. Without it
	// there is nothing to be done but to go on.
	answer   string
	answered func(context.Context, *incident) (bool, error)
	// mend ends what Repair does not know of.
	mend func(context.Context, *incident) error
}

// suspendTime is how long snapshot-suspend lets no request through: longer than a
// server that does not answer is taken for one that hangs.
const suspendTime = 15 * time.Second

// RestartPause keeps the restarts of a scenario that is played again and again so
// far apart that the supervisor does not give the node up (three in a minute).
const RestartPause = 25 * time.Second

// Scenarios lists all scenarios, those first that leave the server where it is.
var Scenarios = []Scenario{
	{
		Name:        "supervisor-crash",
		Description: "the supervisor beside a running ganesha is killed: nobody notices",
		strike: func(ctx context.Context, i *incident) error {
			return i.server.KillProcess(ctx, "^/usr/bin/ganesha-supervisor")
		},
		answer: "a new supervisor", answered: newSupervisor,
	},
	{
		Name:        "ganesha-crash",
		Description: "the server is killed and started again in place",
		Restarts:    true,
		strike:      func(ctx context.Context, i *incident) error { return i.server.KillProcess(ctx, i.ganesha()) },
		answer:      "a new server", answered: restarted(1),
	},
	{
		Name:        "ganesha-hang",
		Description: "the server stops answering without ending: it is killed and started again",
		Restarts:    true,
		strike:      func(ctx context.Context, i *incident) error { return i.server.Pause(ctx, i.ganesha()) },
		answer:      "a new server", answered: restarted(1),
		mend: resumeServer,
	},
	{
		Name:        "api-server-down",
		Description: "the API server is away when the server is killed: it is started again in place, the status catches up later",
		Restarts:    true,
		strike: func(ctx context.Context, i *incident) error {
			if err := i.lab.Cluster().StopAPIServer(); err != nil {
				return err
			}
			i.struck = time.Now() // nobody notices the first half
			return i.server.KillProcess(ctx, i.ganesha())
		},
		answer: "a new server, told by its process", answered: newProcess,
		mend: statusCatchesUp,
	},
	{
		Name:        "snapshot-suspend",
		Description: fmt.Sprintf("a LINSTOR snapshot suspends all I/O for %s: clients wait, and go on at the same server", suspendTime),
		strike:      takeSnapshot,
		answer:      "the snapshot", answered: backgroundOver,
		mend: removeSnapshot,
	},
	{
		Name:        "disk-failure",
		Description: "the serving node loses the disk of the data volume",
		strike: func(ctx context.Context, i *incident) error {
			return i.lab.Storage().FailDisk(ctx, i.server.Name, i.Volume, names.DataVolume)
		},
		mend: func(ctx context.Context, i *incident) error {
			return i.lab.Storage().RestoreDisk(ctx, i.server.Name, i.Volume, names.DataVolume)
		},
	},
	{
		Name:        "control-plane-upgrade",
		Description: "the API server, the CSI controller and the CSI node plugins with nfs-reconnector are replaced: nothing moves",
		strike:      replaceControlPlane,
		answer:      "all of it to be replaced", answered: rolledOut(controlPlane...),
	},
	{
		Name:        "move-to-client-node",
		Description: "an administrator moves the export to a node with a client, whose address the server then sees differently",
		HandsOver:   true,
		strike: func(ctx context.Context, i *incident) error {
			return i.cluster.Move(ctx, i.Volume, i.clients[1].node.Name)
		},
		answer:   "the export on the client's node",
		answered: func(ctx context.Context, i *incident) (bool, error) { return i.movedTo(ctx, i.clients[1].node.Name) },
	},
	{
		Name:        "move-off-client-node",
		Description: "the same from the node of a client to another",
		HandsOver:   true,
		placement:   withServer,
		strike:      func(ctx context.Context, i *incident) error { return i.cluster.Move(ctx, i.Volume, i.otherNode()) },
		answer:      "the export on another node",
		answered:    func(ctx context.Context, i *incident) (bool, error) { return i.movedTo(ctx, i.otherNode()) },
	},
	{
		Name:        "drain",
		Description: "kubectl drain of the serving node",
		HandsOver:   true,
		strike: func(ctx context.Context, i *incident) error {
			var out strings.Builder
			return i.lab.Kubectl(ctx, &out, "drain", i.server.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
		},
		answer: "the export on another node", answered: moved,
	},
	{
		Name:        "upgrade",
		Description: "the DaemonSet replaces all its pods, one after the other",
		strike:      func(ctx context.Context, i *incident) error { return rollOut(ctx, i, "daemonset/"+ganeshaDaemonSet) },
		answer:      "all pods to be replaced", answered: rolledOut("daemonset/" + ganeshaDaemonSet),
	},
	{
		Name:        "node-shutdown",
		Description: "the serving node shuts down: kubelet ends its pods, then it is off",
		HandsOver:   true,
		strike:      func(ctx context.Context, i *incident) error { return i.server.ShutDown(ctx) },
		answer:      "the export on another node", answered: moved,
	},
	{
		Name:        "node-power-off",
		Description: "the serving node loses its power",
		strike:      powerOff,
		answer:      "the export on another node", answered: moved,
	},
	{
		Name:        "node-power-off-with-client-on-it",
		Description: "the serving node loses its power, and with it a client; an administrator says that it is out of service",
		placement:   besideAndDoomed,
		strike: func(ctx context.Context, i *incident) error {
			if err := powerOff(ctx, i); err != nil {
				return err
			}
			return i.takeOutOfService(ctx, i.server.Name)
		},
		answer: "the export on another node", answered: moved,
	},
	{
		Name:        "node-power-off-with-client-on-it-unproven",
		Description: "the same, and nobody says that the node is out of service: its client may be alive",
		placement:   besideAndDoomed,
		strike:      powerOff,
		answer:      "the export on another node", answered: moved,
	},
	{
		Name:        "node-power-off-without-api-server",
		Description: "the serving node loses its power while the API server is away: another node serves, and clients follow when the API server is back",
		strike:      powerOffWithoutAPIServer,
		answer:      "the export on another node", answered: moved,
	},
	{
		Name:        "network-cut",
		Description: "the serving node is cut off from all others, as Kubernetes and as DRBD see them, and goes on living",
		strike:      func(ctx context.Context, i *incident) error { return i.server.CutNetwork(ctx, lab.BothNetworks) },
		answer:      "the export on another node", answered: moved,
	},
	{
		Name:        "kubernetes-network-cut",
		Description: "the serving node is cut off from clients, peers and the API server, and DRBD, which has a network of its own, is not",
		strike:      func(ctx context.Context, i *incident) error { return i.server.CutNetwork(ctx, lab.KubernetesNetwork) },
		answer:      "the export on another node", answered: moved,
	},
	{
		Name:        "double-failure",
		Description: "the serving node loses its power, and the next server is killed during its grace",
		strike:      killTwice,
		answer:      "a third server", answered: restarted(2),
	},
}

// Find returns the scenarios of these names, all if there are none.
func Find(wanted ...string) ([]Scenario, error) {
	if len(wanted) == 0 {
		return Scenarios, nil
	}
	var found []Scenario
	for _, name := range wanted {
		at := slices.IndexFunc(Scenarios, func(s Scenario) bool { return s.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("there is no scenario %q", name)
		}
		found = append(found, Scenarios[at])
	}
	return found, nil
}

// powerOff cuts the serving node's power. What kubelet and the runtime wrote about
// pods that began a moment ago is on the disk by then: such pods never go away
// after the reboot, which would be no news. The export's filesystem is not synced.
func powerOff(ctx context.Context, i *incident) error {
	if _, err := i.server.Exec(ctx, "sync", "--file-system", podsDirectory); err != nil {
		return err
	}
	i.struck = time.Now()
	return i.server.PowerOff(ctx)
}

// takeOverTime is by when a node takes over that nobody had to tell anything.
const takeOverTime = 20 * time.Second

// powerOffWithoutAPIServer starts the API server again when another node has
// started the server, which takes no API server. Clients need it: it tells them
// where.
func powerOffWithoutAPIServer(ctx context.Context, i *incident) error {
	if err := i.lab.Cluster().StopAPIServer(); err != nil {
		return err
	}
	if err := powerOff(ctx, i); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, takeOverTime, fmt.Errorf("it took longer than %s", takeOverTime))
	defer cancel()
	err := scenario.WaitFor(waiting, "a server on another node", func(ctx context.Context) (bool, error) {
		for _, name := range i.storage {
			if name == i.server.Name {
				continue
			}
			found, err := i.node(name).Processes(ctx, i.ganesha())
			if err != nil || len(found) > 0 {
				return len(found) > 0, err
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	i.say("%s: another node has started the server after %.1f s", i.scenario.Name, time.Since(i.struck).Seconds())
	return i.lab.Cluster().StartAPIServer(ctx)
}

// takeOutOfService is what an administrator, or a fencing agent, does about a
// node that is off for certain.
func (i *incident) takeOutOfService(ctx context.Context, name string) error {
	return i.changeNode(ctx, name, func(node *corev1.Node) bool {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
		return true
	})
}

// killTwice needs the second server while it is in grace: then the clients have
// not all reclaimed, and the records of the first server still count.
func killTwice(ctx context.Context, i *incident) error {
	if err := powerOff(ctx, i); err != nil {
		return err
	}
	export, err := i.cluster.WaitExport(ctx, i.Volume, "on another node", func(export *v1alpha1.NFSExport) bool {
		return export.Status.Node != i.server.Name && (export.Status.Phase == v1alpha1.PhaseGrace || export.Status.Phase == v1alpha1.PhaseServing)
	})
	if err != nil {
		return err
	}
	if export.Status.Phase != v1alpha1.PhaseGrace {
		return errors.New("the second server was seen after its grace only: it cannot be killed during it")
	}
	return i.node(export.Status.Node).KillProcess(ctx, i.ganesha())
}

// restarted is true when so many more servers were started, and the last serves.
func restarted(times int64) func(context.Context, *incident) (bool, error) {
	return func(ctx context.Context, i *incident) (bool, error) {
		status, err := i.status(ctx)
		if err != nil {
			return false, err
		}
		return status.BootEpoch >= i.before.Status.BootEpoch+times && served(status), nil
	}
}

// moved is true when another node serves.
func moved(ctx context.Context, i *incident) (bool, error) {
	status, err := i.status(ctx)
	if err != nil {
		return false, err
	}
	return status.Node != i.server.Name && status.Node != "" && served(status), nil
}

func (i *incident) status(ctx context.Context) (*v1alpha1.NFSExportStatus, error) {
	export, err := i.cluster.Exports.Get(ctx, i.Volume, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get the export: %w", err)
	}
	return &export.Status, nil
}

func served(status *v1alpha1.NFSExportStatus) bool {
	return status.Phase == v1alpha1.PhaseGrace || status.Phase == v1alpha1.PhaseServing || status.Phase == v1alpha1.PhaseDegraded
}

// movedTo is true when that node serves and the request is gone.
func (i *incident) movedTo(ctx context.Context, node string) (bool, error) {
	export, err := i.cluster.Exports.Get(ctx, i.Volume, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("get the export: %w", err)
	}
	_, asked := export.Annotations[names.MoveToAnnotation]
	if !asked && export.Status.Node == i.server.Name && served(&export.Status) {
		return false, fmt.Errorf("move it to %s: %w", node, errRefused)
	}
	return !asked && export.Status.Node == node && served(&export.Status), nil
}

// otherNode is a storage node that does not serve.
func (i *incident) otherNode() string { return beside(i.server.Name, i.storage, nil) }

// newSupervisor is true when the serving node's supervisor is another one.
func newSupervisor(ctx context.Context, i *incident) (bool, error) {
	pods, err := i.ganeshaPods(ctx)
	if err != nil {
		return false, err
	}
	for _, status := range pods[i.server.Name].Status.ContainerStatuses {
		if status.Name == "supervisor" && status.State.Running != nil {
			return status.State.Running.StartedAt.Time.After(i.struck.Add(-time.Second)) && status.Ready, nil
		}
	}
	return false, nil
}

// newProcess is true when the node has another ganesha for the export.
func newProcess(ctx context.Context, i *incident) (bool, error) {
	now, err := i.server.Processes(ctx, i.ganesha())
	return err == nil && len(now) == 1 && now[0] != i.process[0], err
}

// statusCatchesUp starts the API server and waits until it is told of the new
// server.
func statusCatchesUp(ctx context.Context, i *incident) error {
	if err := i.lab.Cluster().StartAPIServer(ctx); err != nil {
		return err
	}
	_, err := i.cluster.WaitExport(ctx, i.Volume, "known to be served anew", func(export *v1alpha1.NFSExport) bool {
		return export.Status.BootEpoch > i.before.Status.BootEpoch && export.Status.Phase == v1alpha1.PhaseServing
	})
	return err
}

// resumeServer lets a server that was stopped go on, if it is still there.
func resumeServer(ctx context.Context, i *incident) error {
	now, err := i.server.Processes(ctx, i.ganesha())
	if err != nil || !slices.Contains(now, i.process[0]) {
		return err
	}
	return i.server.Resume(ctx, i.ganesha())
}

// controlPlane is what an upgrade of the chart replaces beside the ganesha pods;
// nfs-reconnector runs beside the CSI node plugin.
var controlPlane = []string{
	"deployment/" + lab.Release + "-csi-controller",
	"daemonset/" + lab.Release + "-csi-node",
}

func replaceControlPlane(ctx context.Context, i *incident) error {
	if err := i.lab.Cluster().StopAPIServer(); err != nil {
		return err
	}
	if err := i.lab.Cluster().StartAPIServer(ctx); err != nil {
		return err
	}
	return rollOut(ctx, i, controlPlane...)
}

// rollOut has all pods of workloads replaced, as an upgrade of the chart does.
func rollOut(ctx context.Context, i *incident, workloads ...string) error {
	var out strings.Builder
	return i.lab.Kubectl(ctx, &out, append([]string{"-n", lab.Release, "rollout", "restart"}, workloads...)...)
}

// rolledOut is true when workloads have only new pods, and all are ready.
func rolledOut(workloads ...string) func(context.Context, *incident) (bool, error) {
	return func(ctx context.Context, i *incident) (bool, error) {
		for _, workload := range workloads {
			var out strings.Builder
			if err := i.lab.Kubectl(ctx, &out, "-n", lab.Release, "rollout", "status", "--watch=false", workload); err != nil {
				return false, err
			}
			if !strings.Contains(out.String(), "successfully rolled out") {
				return false, errors.New(strings.TrimSpace(out.String()))
			}
		}
		return true, nil
	}
}

// snapshotName is the snapshot that snapshot-suspend makes and removes.
const snapshotName = "suspend"

// takeSnapshot begins a snapshot that keeps I/O suspended for long.
func takeSnapshot(ctx context.Context, i *incident) error {
	if err := i.lab.Storage().SetSuspendTime(ctx, suspendTime); err != nil {
		return err
	}
	api, err := scenario.LINSTOR()
	if err != nil {
		return err
	}
	i.finished = make(chan error, 1)
	// It outlives this step, whose context ends with it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
	go func() {
		defer cancel()
		i.finished <- api.Resources.CreateSnapshot(ctx, linstorapi.Snapshot{Name: snapshotName, ResourceName: i.Volume})
	}()
	return nil
}

// backgroundOver is true when what the fault started has ended well.
func backgroundOver(ctx context.Context, i *incident) (bool, error) {
	select {
	case err := <-i.finished:
		i.finished <- err // for whoever asks again
		return err == nil, err
	case <-ctx.Done():
		return false, nil
	}
}

func removeSnapshot(ctx context.Context, i *incident) error {
	if err := i.lab.Storage().SetSuspendTime(ctx, 0); err != nil {
		return err
	}
	api, err := scenario.LINSTOR()
	if err != nil {
		return err
	}
	if err := api.Resources.DeleteSnapshot(ctx, i.Volume, snapshotName); err != nil && !errors.Is(err, linstorapi.NotFoundError) {
		return fmt.Errorf("delete the snapshot: %w", err)
	}
	return nil
}
