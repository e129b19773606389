package supervisor

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/drbd"
)

// guardInterval is how often DRBD is asked while a step may hang.
const guardInterval = 2 * time.Second

// guard watches a resource while its worker mounts, checks or unmounts. When
// quorum or data are lost and I/O is suspended, those would hang for ever, and
// their worker with them; only a forced demotion lets them fail. The function
// that is returned ends the watch.
func (a *Agent) guard(ctx context.Context, resource string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		ticker := time.NewTicker(guardInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			state, err := a.drbd.Status(ctx, resource)
			if err != nil || !hangs(state) {
				continue
			}
			klog.FromContext(ctx).Info("Demoting by force what hangs in suspended I/O", "resource", resource)
			if err := a.drbd.ForceSecondary(ctx, resource); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Suspended resource was not demoted")
			}
		}
	}()
	return cancel
}

func hangs(resource drbd.Resource) bool {
	return resource.Role == drbd.RolePrimary && (resource.Suspended.Quorum || resource.Suspended.NoData)
}
