package scenario

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Clear deletes the namespace's pods and claims, and the volumes that belonged
// to them, also those with reclaim policy Retain, and waits until all are gone.
func (c *Cluster) Clear(ctx context.Context) error {
	pods, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var names []string
	for _, pod := range pods.Items {
		names = append(names, pod.Name)
	}
	if err := c.DeletePods(ctx, names...); err != nil {
		return err
	}
	claims, err := c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	for _, claim := range claims.Items {
		if err := c.DeleteClaim(ctx, claim.Name); err != nil {
			return err
		}
	}
	if err := c.reclaimRetained(ctx); err != nil {
		return err
	}
	err = WaitFor(ctx, "volumes of namespace "+c.Namespace+" to be gone", func(ctx context.Context) (bool, error) {
		left, err := c.volumes(ctx)
		for _, volume := range left {
			err = errors.Join(err, fmt.Errorf("volume %s is %s: %s", volume.Name, volume.Status.Phase, volume.Status.Message))
		}
		return len(left) == 0, err
	})
	if err != nil {
		return err
	}
	if err := c.Client.CoreV1().Namespaces().Delete(ctx, c.Namespace, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete namespace %s: %w", c.Namespace, err)
	}
	return nil
}

// volumes returns the volumes that are bound, or were, to this namespace.
func (c *Cluster) volumes(ctx context.Context) ([]corev1.PersistentVolume, error) {
	list, err := c.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var own []corev1.PersistentVolume
	for _, volume := range list.Items {
		if ref := volume.Spec.ClaimRef; ref != nil && ref.Namespace == c.Namespace {
			own = append(own, volume)
		}
	}
	return own, nil
}

func (c *Cluster) reclaimRetained(ctx context.Context) error {
	own, err := c.volumes(ctx)
	if err != nil {
		return err
	}
	for _, volume := range own {
		if volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
			continue
		}
		volume.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		if _, err := c.Client.CoreV1().PersistentVolumes().Update(ctx, &volume, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("reclaim volume %s: %w", volume.Name, err)
		}
	}
	return nil
}
