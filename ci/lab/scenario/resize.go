package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// AskSize asks for another size of a claim and does not wait.
func (c *Cluster) AskSize(ctx context.Context, claim string, size resource.Quantity) error {
	patch := fmt.Appendf(nil, `{"spec":{"resources":{"requests":{"storage":%q}}}}`, size.String())
	if _, err := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Patch(ctx, claim, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("ask for %s for claim %s: %w", size.String(), claim, err)
	}
	return nil
}

// Capacity returns the size that a claim shows.
func (c *Cluster) Capacity(ctx context.Context, claim string) (resource.Quantity, error) {
	found, err := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, claim, metav1.GetOptions{})
	if err != nil {
		return resource.Quantity{}, fmt.Errorf("get claim %s: %w", claim, err)
	}
	return found.Status.Capacity[corev1.ResourceStorage], nil
}

// Grow asks for a size, waits until the claim shows at least that, and returns when
// it was asked and when the change was seen: a few milliseconds after it happened.
func (c *Cluster) Grow(ctx context.Context, claim string, size resource.Quantity) (asked, shown time.Time, err error) {
	claims := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace)
	changes, err := claims.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", claim).String()})
	if err != nil {
		return asked, shown, fmt.Errorf("watch claim %s: %w", claim, err)
	}
	defer changes.Stop()
	asked = time.Now()
	if err := c.AskSize(ctx, claim, size); err != nil {
		return asked, shown, err
	}
	for {
		select {
		case <-ctx.Done():
			return asked, shown, fmt.Errorf("wait for claim %s to show %s: %w", claim, size.String(), errors.Join(context.Cause(ctx), c.complaints(ctx, claim)))
		case change, more := <-changes.ResultChan():
			if !more {
				return asked, shown, fmt.Errorf("wait for claim %s to show %s: the watch ended", claim, size.String())
			}
			now, isClaim := change.Object.(*corev1.PersistentVolumeClaim)
			if !isClaim {
				continue
			}
			if capacity := now.Status.Capacity[corev1.ResourceStorage]; capacity.Cmp(size) >= 0 {
				return asked, time.Now(), nil
			}
		}
	}
}

// WaitCapacity waits until a claim shows at least a size that it was asked for.
func (c *Cluster) WaitCapacity(ctx context.Context, claim string, size resource.Quantity) error {
	err := WaitFor(ctx, "claim "+claim+" to show "+size.String(), func(ctx context.Context) (bool, error) {
		capacity, err := c.Capacity(ctx, claim)
		return err == nil && capacity.Cmp(size) >= 0, err
	})
	if err != nil {
		err = errors.Join(err, c.complaints(ctx, claim))
	}
	return err
}

// complaints are the warnings of a claim, as one error.
func (c *Cluster) complaints(ctx context.Context, claim string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	events, err := c.Events(ctx, "PersistentVolumeClaim", claim)
	for _, event := range events {
		if event.Type == corev1.EventTypeWarning {
			err = errors.Join(err, fmt.Errorf("%s: %s", event.Reason, event.Message))
		}
	}
	return err
}

// Space returns how large the filesystem is that a pod sees at DataPath.
func (c *Cluster) Space(ctx context.Context, pod string) (int64, error) {
	out, err := c.Exec(ctx, pod, Workload, "df", DataPath, "--for", "200ms")
	if err != nil {
		return 0, err
	}
	var first struct {
		Bytes int64 `json:"bytes"`
	}
	line, _, _ := strings.Cut(out, "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil || first.Bytes == 0 {
		return 0, fmt.Errorf("read the size that pod %s sees in %q: %w", pod, line, err)
	}
	return first.Bytes, nil
}
