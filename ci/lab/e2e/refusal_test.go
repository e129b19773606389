package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
	"github.com/linbit/linstor-rwx/ci/lab/scenario"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// What cannot be provisioned is refused by one clear sentence in the claim's
// events, and nothing is left behind: no volume, no export, no service, nothing
// in LINSTOR. (The leak check at the end of every test sees to the latter.)
func TestImpossibleClaimGetsOneClearEventAndLeavesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		class scenario.Class
		claim scenario.Claim
		says  []string
	}{
		"unknown parameter": {
			class: parameters("rwx.linbit.com/sqash", "root_squash"),
			says:  []string{"rwx.linbit.com/sqash"},
		},
		"bad squash": {
			class: parameters("rwx.linbit.com/squash", "everybody"),
			says:  []string{"rwx.linbit.com/squash", "everybody", "root_squash"},
		},
		"lease without sense": {
			class: parameters("rwx.linbit.com/lease", "1s"),
			says:  []string{"rwx.linbit.com/lease", "1s", "10s"},
		},
		"grace shorter than the lease": {
			class: parameters("rwx.linbit.com/lease", "30s", "rwx.linbit.com/grace", "20s"),
			says:  []string{"rwx.linbit.com/grace", "20s"},
		},
		"bad mode": {
			class: parameters("rwx.linbit.com/root-mode", "rwx"),
			says:  []string{"rwx.linbit.com/root-mode", "rwx"},
		},
		"NFS version in the mount options": {
			class: scenario.Class{MountOptions: []string{"nfsvers=3"}},
			says:  []string{"nfsvers=3"},
		},
		"no DRBD layer": {
			class: parameters(names.Driver+"/layerList", "storage"),
			says:  []string{"layerList", "DRBD"},
		},
		"consistency group": {
			claim: scenario.Claim{Labels: map[string]string{names.ConsistencyGroupLabel: "group"}},
			says:  []string{names.ConsistencyGroupLabel},
		},
		"too small for xfs": {
			class: scenario.Class{FSType: "xfs"},
			claim: scenario.Claim{Size: "64Mi"},
			says:  []string{"300Mi"},
		},
		"filesystem that cannot be shared": {
			class: scenario.Class{FSType: "btrfs"},
			says:  []string{"btrfs", "ext4"},
		},
		"not enough nodes": {
			class: parameters(names.Driver+"/placementCount", "7"),
			says:  []string{"Not enough"},
		},
		"full pool": {
			class: parameters(names.Driver+"/storagePool", "thick"),
			claim: scenario.Claim{Size: "1Ti"},
			says:  []string{"Not enough"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, c := setup(t, 2*time.Minute)
			test.claim.Name, test.claim.Class = "impossible", createClass(ctx, t, c, test.class)
			time.Sleep(time.Second) // the provisioner's cache shall know the class
			must(t, c.CreateClaim(ctx, test.claim))
			event := must1(c.WaitEvent(ctx, "PersistentVolumeClaim", "impossible", test.says[0]))(t)
			for _, text := range test.says {
				if !strings.Contains(event.Message, text) {
					t.Errorf("the event does not say %q: %s", text, event.Message)
				}
			}
			if event.Type != corev1.EventTypeWarning {
				t.Errorf("the event is of type %s", event.Type)
			}
			t.Logf("%s", event.Message)
			onlyOneSentence(ctx, t, c, "impossible")
		})
	}
}

// parameters returns a class with these parameters: key, value, key, value.
func parameters(pairs ...string) scenario.Class {
	class := scenario.Class{Parameters: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		class.Parameters[pairs[i]] = pairs[i+1]
	}
	return class
}

// onlyOneSentence waits for the retries that follow and fails if they say
// something else: the claim has one warning, with a count.
func onlyOneSentence(ctx context.Context, t *testing.T, c *scenario.Cluster, claim string) {
	t.Helper()
	time.Sleep(3 * time.Second)
	said := map[string]bool{}
	for _, event := range must1(c.Events(ctx, "PersistentVolumeClaim", claim))(t) {
		if event.Type == corev1.EventTypeWarning {
			said[event.Message] = true
		}
	}
	if len(said) != 1 {
		t.Errorf("the claim has %d different warnings: %v", len(said), said)
	}
}

// While LINSTOR cannot be reached the claim says so; when it is back the claim
// is bound without anybody's help.
func TestClaimWaitsForLINSTOR(t *testing.T) {
	ctx, c := setup(t, 3*time.Minute)
	class := createClass(ctx, t, c, scenario.Class{})
	storage := laboratory.Storage()
	must(t, storage.ControllerDown(ctx, control.DownRefuse))
	t.Cleanup(func() { must(t, storage.ControllerUp(context.Background())) })
	must(t, c.CreateClaim(ctx, scenario.Claim{Name: "patient", Class: class}))
	event := must1(c.WaitEvent(ctx, "PersistentVolumeClaim", "patient", "LINSTOR"))(t)
	t.Logf("%s", event.Message)
	claim := must1(c.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Get(ctx, "patient", metav1.GetOptions{}))(t)
	if claim.Status.Phase != corev1.ClaimPending {
		t.Errorf("the claim is %s without LINSTOR", claim.Status.Phase)
	}
	must(t, storage.ControllerUp(ctx))
	must1(c.WaitBound(ctx, "patient"))(t)
}
