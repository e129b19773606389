package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
)

const (
	className = "linstor-shared"
	claimName = "shared"
	appName   = "writers"
)

// story is the demo's user.
type story struct {
	lab     *lab.Lab
	cluster *scenario.Cluster
	out     *timeline
	volume  string
}

func newStory(ctx context.Context, laboratory *lab.Lab, out *timeline) (*story, error) {
	cluster, err := scenario.Connect(ctx, "demo")
	if err != nil {
		return nil, err
	}
	return &story{lab: laboratory, cluster: cluster, out: out}, nil
}

// play tells the story: a claim, its volume, two pods, data, locks, the end.
func (s *story) play(ctx context.Context) error {
	for _, chapter := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"create a StorageClass and a ReadWriteMany claim", s.claim},
		{"run a Deployment with two pods on two nodes", s.deploy},
		{"each pod writes, and reads what the other wrote", s.share},
		{"the pods exclude each other by locks", s.lock},
		{"what kubectl and LINSTOR show", s.show},
		{"delete Deployment and claim: everything goes", s.clean},
	} {
		s.out.step(chapter.title)
		if err := chapter.tell(ctx); err != nil {
			return fmt.Errorf("%s: %w", chapter.title, err)
		}
	}
	s.out.done()
	return nil
}

func (s *story) claim(ctx context.Context) error {
	if err := s.cluster.CreateClass(ctx, scenario.Class{Name: className}); err != nil {
		return err
	}
	if err := s.cluster.CreateClaim(ctx, scenario.Claim{Name: claimName, Class: className, Size: "256Mi"}); err != nil {
		return err
	}
	volume, err := s.cluster.WaitBound(ctx, claimName)
	if err != nil {
		return err
	}
	s.volume = volume.Name
	return s.kubectl(ctx, "get", "pvc", claimName)
}

func (s *story) deploy(ctx context.Context) error {
	replicas, seconds := int32(2), int64(1)
	labels := map[string]string{"app": appName}
	_, err := s.cluster.Client.AppsV1().Deployments(s.cluster.Namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: appName},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: &seconds,
					TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
						MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
						LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
					}},
					Containers: []corev1.Container{{
						Name: "workload", Image: scenario.WorkloadImage, ImagePullPolicy: corev1.PullNever, Args: []string{"serve"},
						VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: scenario.DataPath}},
					}},
					Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
						PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName}}}},
				},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create deployment: %w", err)
	}
	pods, err := s.pods(ctx)
	if err != nil {
		return err
	}
	if err := s.cluster.WaitRunning(ctx, pods...); err != nil {
		return err
	}
	if _, err := s.cluster.WaitServing(ctx, s.volume); err != nil {
		return err
	}
	return s.kubectl(ctx, "get", "pods", "-o", "wide")
}

// pods waits for the deployment's two pods and returns their names.
func (s *story) pods(ctx context.Context) ([]string, error) {
	var names []string
	err := scenario.WaitFor(ctx, "two pods", func(ctx context.Context) (bool, error) {
		list, err := s.cluster.Client.CoreV1().Pods(s.cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + appName})
		if err != nil {
			return false, err
		}
		names = names[:0]
		for _, pod := range list.Items {
			names = append(names, pod.Name)
		}
		return len(names) == 2, nil
	})
	return names, err
}

func (s *story) show(ctx context.Context) error {
	if err := s.kubectl(ctx, "get", "nfsx", "-o", "wide"); err != nil {
		return err
	}
	state, err := s.lab.Storage().State(ctx)
	if err != nil {
		return err
	}
	definition := state.Definition(s.volume)
	if definition == nil {
		return fmt.Errorf("LINSTOR has no resource definition %s", s.volume)
	}
	fmt.Printf("LINSTOR resource definition %s:\n", definition.Name)
	for _, volume := range definition.Volumes {
		use := map[int]string{0: "data", 1: "recovery: the NFS server's records of its clients"}[volume.Number]
		fmt.Printf("  VolNr %d  %7d KiB  /dev/drbd%d  %s\n", volume.Number, volume.SizeKiB, volume.Minor, use)
	}
	for _, resource := range definition.Resources {
		fmt.Printf("  replica on %s %v\n", resource.Node, resource.Flags)
	}
	fmt.Println("The sidecars' logs:")
	fmt.Println("  bin/lab kubectl -n linstor-rwx logs deploy/linstor-rwx-csi-controller -c rwx-provisioner")
	fmt.Println("  bin/lab kubectl -n linstor-rwx logs ds/linstor-rwx-ganesha -c supervisor   (or -c ganesha)")
	return nil
}

func (s *story) share(ctx context.Context) error {
	pods, err := s.pods(ctx)
	if err != nil {
		return err
	}
	for i, writer := range pods {
		reader, file := pods[1-i], fmt.Sprintf("%s/written-by-%d", scenario.DataPath, i+1)
		if _, err := s.cluster.Exec(ctx, writer, scenario.Workload, "write", file, "--for", "1s"); err != nil {
			return err
		}
		if _, err := s.cluster.Exec(ctx, reader, scenario.Workload, "check", file); err != nil {
			return err
		}
		fmt.Printf("  %s wrote %s, %s read every line of it\n", writer, file, reader)
	}
	return nil
}

func (s *story) lock(ctx context.Context) error {
	pods, err := s.pods(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []string{"fcntl", "flock"} {
		file := scenario.DataPath + "/lock-" + kind
		held := make(chan error, 1)
		go func() {
			_, err := s.cluster.Exec(ctx, pods[0], scenario.Workload, "lock", file, "--type", kind, "--hold", "4s")
			held <- err
		}()
		err := scenario.WaitFor(ctx, "the lock to be held", func(ctx context.Context) (bool, error) {
			out, err := s.cluster.Exec(ctx, pods[1], scenario.Workload, "lock", file, "--type", kind, "--try", "--hold", "1ms")
			return err != nil && strings.Contains(out, "denied"), nil
		})
		if err != nil {
			return err
		}
		fmt.Printf("  %s holds the %s lock, %s is denied it\n", pods[0], kind, pods[1])
		if err := <-held; err != nil {
			return err
		}
		if _, err := s.cluster.Exec(ctx, pods[1], scenario.Workload, "lock", file, "--type", kind, "--hold", "1ms"); err != nil {
			return err
		}
		fmt.Printf("  %s released it, %s has it\n", pods[0], pods[1])
	}
	return nil
}

func (s *story) clean(ctx context.Context) error {
	err := s.cluster.Client.AppsV1().Deployments(s.cluster.Namespace).Delete(ctx, appName, metav1.DeleteOptions{})
	if err != nil {
		return fmt.Errorf("delete deployment: %w", err)
	}
	if err := s.cluster.DeleteClaim(ctx, claimName); err != nil {
		return err
	}
	if err := s.cluster.WaitVolumeGone(ctx, s.volume); err != nil {
		return err
	}
	leaks, err := s.lab.Leaks(ctx)
	if err != nil {
		return err
	}
	if len(leaks) > 0 {
		return errors.New("left behind: " + strings.Join(leaks, "; "))
	}
	fmt.Println("  volume, export, service, resource definition, mounts and processes are gone")
	return s.cluster.DeleteClass(ctx, className)
}

// kubectl prints what a user would see.
func (s *story) kubectl(ctx context.Context, args ...string) error {
	return s.lab.Kubectl(ctx, os.Stdout, append([]string{"-n", s.cluster.Namespace}, args...)...)
}
