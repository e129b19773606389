package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"k8s.io/klog/v2"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	failedStartDelay    = 2 * time.Second
	failedStartMaxDelay = time.Minute
	// lostRaceDelay is how long the loser of a promotion waits: DRBD's event
	// about the winner will come first.
	lostRaceDelay = time.Second
	// takeOverMaxDelay is the longest pause between tries to promote what a silent
	// peer serves. Each makes DRBD ask all peers.
	takeOverMaxDelay = 10 * time.Second
	deviceTimeout    = 5 * time.Second
	// killTimeout is how long a killed ganesha may take to end.
	killTimeout = 5 * time.Second
)

// starting is one start of a server.
type starting struct {
	Facts
	memory   *memory
	export   *v1alpha1.NFSExport
	resource drbd.Resource
	server   Server
	// restart keeps the port, and what the server knew of its last growth.
	restart bool
	// announced is closed when the Service points here, or could not be made to; nil
	// before this node is Primary.
	announced chan struct{}
	parts     parts
}

// step is one idempotent part of a start: what is done already is recognised and
// left alone, so that a start after a crash anywhere converges.
type step struct {
	name string
	run  func(context.Context, *starting) error
}

// openSteps make the volumes usable on this node.
func (a *Agent) openSteps() []step {
	return []step{
		{"promote", a.promote},
		{"device", a.waitForDevices},
		{"volumes", a.openVolumes},
		{"grow", a.growIfLarger},
	}
}

// serveSteps lead from usable volumes to clients that are served.
func (a *Agent) serveSteps() []step {
	return []step{
		{"root", a.prepareRoot},
		{"records", a.cleanRecords},
		{"launch", a.launch},
		{"probe", a.waitForProbe},
		{"endpoint", a.publish},
	}
}

// startServer serves the export on this node.
func (a *Agent) startServer(ctx context.Context, f Facts) (time.Duration, error) {
	return a.run(ctx, &starting{Facts: f})
}

// restartServer replaces a server that died or hangs, on the same port.
func (a *Agent) restartServer(ctx context.Context, f Facts, decision Decision) (time.Duration, error) {
	memory := a.remember(f.Name)
	memory.lock.Lock()
	memory.timers.Restarts = append(memory.timers.Restarts, f.Now)
	memory.observed = Observation{}
	memory.lock.Unlock()
	a.metrics.restarts.WithLabelValues(decision.Reason).Inc()
	a.events.warning(f.Export, "Restarted", decision.Message+"; it is started again on node "+f.Node)
	if f.running() {
		// It may hold anything: no time for a clean end.
		if err := a.killProcess(ctx, f.Name); err != nil {
			if ctx.Err() != nil || !stuck(f) {
				return 0, err
			}
			klog.FromContext(ctx).Error(err, "Ganesha cannot be killed, its volume is taken away from it")
			return again, a.stopServer(ctx, f, Decision{Action: Stop, Fence: true, Freeze: f.wanted(), Reason: ReasonKeepsFailing,
				Message: decision.Message + ", and cannot be killed: it hangs in I/O"})
		}
	}
	return a.run(ctx, &starting{Facts: f, restart: true})
}

func (a *Agent) run(ctx context.Context, s *starting) (time.Duration, error) {
	s.memory = a.remember(s.Name)
	s.export = s.Export
	s.resource = *s.Resource
	s.parts.start = a.now()
	s.parts.add("promote", s.memory.promoted)
	s.memory.promoted = 0
	described := a.describeStarting(ctx, s)
	defer a.guard(ctx, s.resource.Name)()

	for _, step := range append(a.openSteps(), a.serveSteps()...) {
		before := a.now()
		err := step.run(ctx, s)
		s.parts.add(step.name, a.now().Sub(before))
		if err == nil && s.announced == nil { // this node is Primary now
			s.announced = make(chan struct{})
			go a.announce(ctx, s)
		}
		if err != nil {
			<-described
			if s.announced != nil {
				<-s.announced // or the Service would point here after all was let go
			}
			if ctx.Err() != nil {
				return 0, ctx.Err() // the supervisor ends: the next one goes on from here
			}
			return a.abandon(ctx, s, fmt.Errorf("%s: %w", step.name, err))
		}
	}
	<-described
	a.finish(ctx, s)
	return again, nil
}

// finish remembers the server; the next pass writes status and whatever the API
// server did not take.
func (a *Agent) finish(ctx context.Context, s *starting) {
	total := a.now().Sub(s.parts.start)
	s.server.Failover = s.failover(a.now())
	server := s.server
	s.memory.setServer(&server)
	s.memory.lock.Lock()
	s.memory.observed = s.Observed
	s.memory.timers.NotBefore = time.Time{}
	s.memory.failures = 0
	s.memory.lastServer = ""
	s.memory.lock.Unlock()
	a.observations.AddAfter(s.Name, a.settings.ProbeInterval)

	a.metrics.started(s.parts, total)
	message := fmt.Sprintf("node %s serves it after %.1f s", s.Node, total.Seconds())
	if move := server.Failover; move != nil {
		a.metrics.moved(move)
		message = fmt.Sprintf("node %s serves it %s s after node %s (%s)", s.Node, move.Seconds, move.From, move.Reason)
	}
	a.events.normal(s.export, "Serving", message)
	klog.FromContext(ctx).Info("Export is served", append([]any{"port", server.Port, "bootEpoch", server.BootEpoch, "seconds", seconds(total)}, s.parts.keysAndValues()...)...)
}

// failover describes the move, if there was another server that did not take
// leave, or that handed the export over.
func (s *starting) failover(now time.Time) *v1alpha1.Failover {
	from, lost, reason := s.export.Status.Node, s.memory.lostServer, MoveServerLost
	if s.memory.lastServer != "" {
		from = s.memory.lastServer
	}
	if s.handedTo() != "" {
		lost, reason = s.Timers.HandOver, s.export.Status.HandOver.Reason
	}
	if from == "" || from == s.Node {
		return nil
	}
	// What was heard of it last is closer to the truth than when DRBD noticed.
	if peer := s.Peers[from]; peer.Silent && (lost.IsZero() || peer.Heard.Before(lost)) {
		lost = peer.Heard
	}
	if lost.IsZero() || lost.After(now) {
		lost = s.parts.start
	}
	parts := s.parts.summary()
	parts["detect"] = seconds(max(0, s.parts.start.Sub(lost)-s.parts.took[0]))
	return &v1alpha1.Failover{
		From: from, To: s.Node, Reason: reason,
		Time:    metav1.NewTime(now).Rfc3339Copy(),
		Seconds: seconds(now.Sub(lost)), Parts: parts,
	}
}

// takeOver tries to promote what a silent peer is Primary of. Once it worked, the
// next pass starts the server.
func (a *Agent) takeOver(ctx context.Context, f Facts) (time.Duration, error) {
	m := a.remember(f.Name)
	peer := f.suspect()
	began := a.now()
	err := a.drbd.Primary(ctx, f.Resource.Name)
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		m.refusals++
		delay := min(lostRaceDelay<<min(m.refusals-1, 4), takeOverMaxDelay)
		a.backOff(m, delay)
		klog.FromContext(ctx).V(2).Info("Silent peer is not to be replaced", "peer", peer, "retryAfter", delay, "err", err)
		return delay, nil
	}
	m.promoted = a.now().Sub(began)
	m.primaryPeer = ""
	m.lastServer, m.lostServer = peer, f.Peers[peer].Heard
	return again, nil
}

// abandon lets go after a failed start, so that another node may try, and backs
// off.
func (a *Agent) abandon(ctx context.Context, s *starting, cause error) (time.Duration, error) {
	refused := &drbd.RefusedError{}
	if errors.As(cause, &refused) && (refused.Code == drbd.TwoPrimaries || refused.Code == drbd.WeaklyConnected) {
		klog.FromContext(ctx).V(2).Info("Another node was faster")
		a.backOff(s.memory, lostRaceDelay)
		return lostRaceDelay, nil
	}
	a.metrics.starts.WithLabelValues("failed").Inc()
	s.memory.failures++
	delay := min(failedStartDelay<<min(s.memory.failures-1, 10), failedStartMaxDelay)
	a.backOff(s.memory, delay)

	decision := Decision{Action: Stop, Reason: ReasonStartFailed, Message: fmt.Sprintf("start on node %s failed at %s", s.Node, cause)}
	switch refusal := refusalReason(refused); {
	case refusal != "":
		decision.Reason = refusal
		decision.Message = "DRBD refuses to promote the volume: " + refused.Text
	}
	a.events.warning(s.export, decision.Reason, decision.Message)
	klog.FromContext(ctx).Error(cause, "Start of export failed", append([]any{"retryAfter", delay}, s.parts.keysAndValues()...)...)

	// What there is to release is only known from a fresh look.
	f, err := a.gather(ctx, s.Name)
	if err != nil {
		return 0, fmt.Errorf("release export %s after a failed start: %w", s.Name, err)
	}
	if f.holding() || f.primary() {
		if reason, _ := mustFence(f); f.holding() && reason != "" {
			decision.Fence = true
		}
		if err := a.letGo(ctx, f, decision); err != nil {
			return 0, fmt.Errorf("release export %s after a failed start: %w", s.Name, err)
		}
	}
	if f.Export == nil || f.Resource == nil || f.Resource.PrimaryPeer() != "" || mayBeServedUnseen(f) {
		return delay, nil
	}
	return delay, a.writeStatus(ctx, f, unservedStatus(f, decision))
}

func refusalReason(refused *drbd.RefusedError) string {
	switch refused.Code {
	case drbd.NoQuorum:
		return ReasonNoQuorum
	case drbd.NoUpToDateDisk:
		return ReasonNotUpToDate
	case 0:
		return ""
	}
	return ReasonMayNotPromote
}

func (a *Agent) backOff(m *memory, delay time.Duration) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.timers.NotBefore = a.now().Add(delay)
}

// describeStarting writes beside the start that it has begun, and closes the
// channel when that is done. It is a courtesy that must neither delay nor
// prevent a start.
func (a *Agent) describeStarting(ctx context.Context, s *starting) <-chan struct{} {
	done := make(chan struct{})
	if s.restart || s.Export.Status.Phase == v1alpha1.PhaseStarting || s.handedTo() == s.Node {
		close(done)
		return done
	}
	status := *s.Export.Status.DeepCopy()
	status.Phase = v1alpha1.PhaseStarting
	status.Message = "node " + s.Node + " promotes and mounts the volume"
	facts := s.Facts
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := a.writeStatus(ctx, facts, status); err != nil {
			klog.FromContext(ctx).V(2).Info("Status is not written now", "err", err)
		}
	}()
	return done
}

// promote makes this node Primary and makes sure that it may write.
func (a *Agent) promote(ctx context.Context, s *starting) error {
	name := s.resource.Name
	if s.resource.Role != drbd.RolePrimary {
		if err := a.drbd.Primary(ctx, name); err != nil {
			return err
		}
		resource, err := a.drbd.Status(ctx, name)
		if err != nil {
			return err
		}
		s.resource = resource
	}
	// DRBD says yes to a promotion of what is Primary already, even without quorum.
	switch {
	case s.resource.Role != drbd.RolePrimary:
		return fmt.Errorf("promote resource %s: it is %s right after its promotion", name, s.resource.Role)
	case !s.resource.HasQuorum():
		return &drbd.RefusedError{Resource: name, Code: drbd.NoQuorum, Text: "this node is Primary but has no quorum"}
	}
	return nil
}

// waitForDevices waits until udev or devtmpfs has made the nodes.
func (a *Agent) waitForDevices(ctx context.Context, s *starting) error {
	for _, volume := range []int{names.DataVolume, names.RecoveryVolume} {
		device, ok := s.resource.Device(volume)
		if !ok {
			return fmt.Errorf("open resource %s: volume %d is not there", s.resource.Name, volume)
		}
		path := drbd.DevicePath(device.Minor)
		if err := poll(ctx, deviceTimeout, 50*time.Millisecond, func(context.Context) error {
			if !a.host.DeviceExists(path) {
				return errors.New("the device node does not exist")
			}
			return nil
		}); err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
	}
	return nil
}

// poll repeats try until it succeeds, or returns its last error after timeout.
func poll(ctx context.Context, timeout, interval time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(interval):
		}
	}
}

// parts are the durations of the steps of a start, in their order.
type parts struct {
	start time.Time
	names []string
	took  []time.Duration
}

func (p *parts) add(name string, took time.Duration) {
	if i := slices.Index(p.names, name); i >= 0 {
		p.took[i] += took
		return
	}
	p.names, p.took = append(p.names, name), append(p.took, took)
}

// done adds the time since the end of the part before.
func (p *parts) done(name string, now time.Time) {
	took := now.Sub(p.start)
	for _, before := range p.took {
		took -= before
	}
	p.add(name, took)
}

// partOf sums the steps up for users.
var partOf = map[string]string{
	"promote": "promote", "launch": "start", "probe": "probe", "endpoint": "endpoint",
	"device": "mount", "volumes": "mount", "grow": "mount", "root": "mount", "records": "mount",
}

func (p *parts) summary() map[string]string {
	sums := map[string]time.Duration{}
	for i, name := range p.names {
		sums[partOf[name]] += p.took[i]
	}
	values := map[string]string{}
	for name, sum := range sums {
		values[name] = seconds(sum)
	}
	return values
}

func (p *parts) keysAndValues() []any {
	var values []any
	for i, name := range p.names {
		values = append(values, name, seconds(p.took[i]))
	}
	return values
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
