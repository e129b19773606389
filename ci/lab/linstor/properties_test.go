package linstor_test

import (
	"testing"

	"github.com/LINBIT/golinstor/client"
)

// linstor-csi allows two Primaries for as long as a block claim is attached
// twice, by a property of the resource definition.
func TestPropertiesReachDRBD(t *testing.T) {
	const twoPrimaries = "DrbdOptions/Net/allow-two-primaries"
	w := newWorld(t)
	w.deployed("aa", "pool")
	for _, allowed := range []bool{true, false} {
		change := client.GenericPropsModify{DeleteProps: []string{twoPrimaries}}
		if allowed {
			change = client.GenericPropsModify{OverrideProps: map[string]string{twoPrimaries: "yes"}}
		}
		w.ok(w.ResourceDefinitions.Modify(t.Context(), "aa", change))
		for _, node := range []string{"n1", "n2", "n3"} {
			if config, ok := w.Replication.Config(node, "aa"); !ok || config.Options.TwoPrimaries != allowed || !config.Options.AutoPromote {
				t.Errorf("allowed %t: DRBD on %s was told %+v", allowed, node, config.Options)
			}
		}
	}
}
