package provisioner

import (
	"errors"
	"time"
)

// Settings are the own settings of rwx-provisioner, environment variables RWX_...;
// the flags stay those of csi-provisioner, so that the container is a drop-in.
type Settings struct {
	Namespace       string        `desc:"namespace of the Services of exports; default NAMESPACE, then POD_NAMESPACE"`
	ReadyTimeout    time.Duration `split_words:"true" default:"30s" desc:"how long one try waits until a new volume is UpToDate"`
	WithdrawTimeout time.Duration `split_words:"true" default:"30s" desc:"how long one try of a deletion waits for the supervisors"`
	SweepInterval   time.Duration `split_words:"true" default:"1m" desc:"how often the leader looks for leftovers; 0 never"`
	SweepAge        time.Duration `split_words:"true" default:"5m" desc:"how long it must have seen a leftover before it removes it"`
	LinstorParallel int           `split_words:"true" default:"10" desc:"calls to LINSTOR at the same time"`
}

// Complete fills in what the environment of the pod says and refuses settings that
// cannot work.
func (s *Settings) Complete(getenv func(string) string) error {
	for _, variable := range []string{"NAMESPACE", "POD_NAMESPACE"} {
		if s.Namespace == "" {
			s.Namespace = getenv(variable)
		}
	}
	switch {
	case s.Namespace == "":
		return errors.New("RWX_NAMESPACE is not set: it must name the namespace of the ganesha pods")
	case s.ReadyTimeout <= 0 || s.WithdrawTimeout <= 0:
		return errors.New("RWX_READY_TIMEOUT and RWX_WITHDRAW_TIMEOUT must be positive durations")
	case s.SweepInterval < 0 || s.SweepAge < 0:
		return errors.New("RWX_SWEEP_INTERVAL and RWX_SWEEP_AGE must not be negative")
	case s.LinstorParallel < 1:
		return errors.New("RWX_LINSTOR_PARALLEL must be at least 1")
	}
	return nil
}
