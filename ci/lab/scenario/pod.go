package scenario

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DataPath is where a pod sees its claim; DevicePath where a block claim;
// ScratchPath a folder of its node.
const (
	DataPath    = "/data"
	DevicePath  = "/dev/data"
	ScratchPath = "/scratch"
)

// ScratchVolume is the name of the emptyDir behind ScratchPath: whoever can read
// the node's files finds it below the folder that kubelet has for the pod.
const ScratchVolume = "scratch"

// Pod describes a consumer pod that runs the workload program.
type Pod struct {
	Name string
	// Node pins the pod; empty leaves it to the scheduler.
	Node  string
	Claim string
	Block bool
	// Args of the workload program; without them it only waits, for Exec.
	Args []string
	// UID runs the pod as a user other than root.
	UID int64
	// Scratch adds a folder that has nothing to do with the claim.
	Scratch bool
}

// CreatePod makes a pod. A pinned pod still goes through the scheduler, which
// WaitForFirstConsumer needs.
func (c *Cluster) CreatePod(ctx context.Context, pod Pod) error {
	if pod.Args == nil {
		pod.Args = []string{"serve"}
	}
	seconds := int64(1)
	spec := corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyNever,
		TerminationGracePeriodSeconds: &seconds,
		AutomountServiceAccountToken:  new(bool),
		Containers: []corev1.Container{{
			Name:            "workload",
			Image:           WorkloadImage,
			ImagePullPolicy: corev1.PullNever,
			Args:            pod.Args,
		}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pod.Claim}}}},
	}
	if pod.Block {
		spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: DevicePath}}
	} else {
		spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: DataPath}}
	}
	if pod.Scratch {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: ScratchVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: ScratchVolume, MountPath: ScratchPath})
	}
	if pod.Node != "" {
		spec.NodeSelector = map[string]string{corev1.LabelHostname: pod.Node}
	}
	if pod.UID != 0 {
		spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &pod.UID, RunAsGroup: &pod.UID}
	}
	_, err := c.Client.CoreV1().Pods(c.Namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Labels: map[string]string{"claim": pod.Claim}}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	return nil
}

// WaitRunning waits until pods run, which includes that their volumes are
// mounted.
func (c *Cluster) WaitRunning(ctx context.Context, pods ...string) error {
	for _, name := range pods {
		err := WaitFor(ctx, "pod "+name+" to run", func(ctx context.Context) (bool, error) {
			pod, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if pod.Status.Phase == corev1.PodFailed {
				return false, fmt.Errorf("pod has failed: %s", pod.Status.Message)
			}
			return pod.Status.Phase == corev1.PodRunning, nil
		})
		if err != nil {
			events, _ := c.Events(context.WithoutCancel(ctx), "Pod", name)
			for _, event := range events {
				err = fmt.Errorf("%w; %s: %s", err, event.Reason, event.Message)
			}
			return err
		}
	}
	return nil
}

// DeletePods deletes pods and waits until they are gone.
func (c *Cluster) DeletePods(ctx context.Context, pods ...string) error {
	for _, name := range pods {
		if err := c.Client.CoreV1().Pods(c.Namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete pod %s: %w", name, err)
		}
	}
	for _, name := range pods {
		err := WaitFor(ctx, "pod "+name+" to be gone", func(ctx context.Context) (bool, error) {
			_, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return true, nil
			}
			return false, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// WaitDetached waits until no VolumeAttachment of a volume is left.
func (c *Cluster) WaitDetached(ctx context.Context, volume string) error {
	return WaitFor(ctx, "volume "+volume+" to be detached", func(ctx context.Context) (bool, error) {
		attached, err := c.attached(ctx, volume)
		return err == nil && !attached, err
	})
}

// WaitAttached waits until a volume is attached somewhere, and returns when its
// VolumeAttachment was seen first: an attach asks for the export from then on.
func (c *Cluster) WaitAttached(ctx context.Context, volume string) (time.Time, error) {
	var seen time.Time
	err := WaitFor(ctx, "volume "+volume+" to be attached", func(ctx context.Context) (bool, error) {
		attached, err := c.attached(ctx, volume)
		seen = time.Now()
		return attached, err
	})
	return seen, err
}

// attached says whether a volume has a VolumeAttachment.
func (c *Cluster) attached(ctx context.Context, volume string) (bool, error) {
	list, err := c.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, attachment := range list.Items {
		if name := attachment.Spec.Source.PersistentVolumeName; name != nil && *name == volume {
			return true, nil
		}
	}
	return false, nil
}
