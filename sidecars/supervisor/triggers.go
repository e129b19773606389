package supervisor

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
)

// DRBDWatcher reports changes of DRBD resources; "" means all.
type DRBDWatcher interface {
	Watch(ctx context.Context, changed func(resource string)) error
}

// ProcessWatcher reports processes that start or end.
type ProcessWatcher interface {
	Watch(ctx context.Context, changed func(ganesha.ProcessState)) error
}

// WatchDRBD triggers the exports of every resource that changes, until ctx ends.
func (a *Agent) WatchDRBD(ctx context.Context, watcher DRBDWatcher) {
	for ctx.Err() == nil {
		if err := watcher.Watch(ctx, a.TriggerResource); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Watching DRBD ended, it is started again")
		}
		sleep(ctx, watchRetry)
	}
}

// WatchProcesses triggers the export of every ganesha that starts or ends, and
// all that are held here when the launcher goes away or comes back.
func (a *Agent) WatchProcesses(ctx context.Context, watcher ProcessWatcher) {
	for ctx.Err() == nil {
		err := watcher.Watch(ctx, func(state ganesha.ProcessState) { a.Trigger(state.Name) })
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("Launcher went away", "err", err)
		}
		a.triggerHeld()
		sleep(ctx, watchRetry)
	}
}

// triggerHeld has the exports looked at that this node serves or tries to serve.
func (a *Agent) triggerHeld() {
	a.lock.Lock()
	defer a.lock.Unlock()
	for name, memory := range a.memories {
		if memory.currentServer() != nil {
			a.work.Add(name)
		}
	}
}

func sleep(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}
