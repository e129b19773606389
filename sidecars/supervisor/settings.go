package supervisor

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/sidecars/supervisor/heartbeat"
)

// Settings is the environment of ganesha-supervisor.
type Settings struct {
	NodeName     string `envconfig:"NODE_NAME" required:"true" desc:"name of this node in Kubernetes and in LINSTOR"`
	PodName      string `envconfig:"POD_NAME" required:"true" desc:"name of the ganesha pod"`
	PodNamespace string `envconfig:"POD_NAMESPACE" required:"true" desc:"namespace of the pod, of the exports' Services and EndpointSlices"`
	PodIP        string `envconfig:"POD_IP" required:"true" desc:"address at which clients reach ganesha"`

	IdleTimeout  time.Duration `envconfig:"RWX_IDLE_TIMEOUT" default:"30s" desc:"how long an OnDemand export is served after its last detach"`
	HTTPEndpoint string        `envconfig:"RWX_HTTP_ENDPOINT" default:":9788" desc:"address of /metrics, /healthz and /readyz"`
	MountRoot    string        `envconfig:"RWX_MOUNT_ROOT" default:"/var/lib/linstor-rwx" desc:"host directory below which volumes are mounted; never an emptyDir"`
	RunDir       string        `envconfig:"RWX_RUN_DIR" default:"/run/linstor-rwx" desc:"directory of the pod for sockets, configurations and intents"`
	PortMin      int           `envconfig:"RWX_PORT_MIN" default:"20490" desc:"lowest port of a ganesha"`
	PortMax      int           `envconfig:"RWX_PORT_MAX" default:"24585" desc:"highest port of a ganesha"`

	ProbeInterval time.Duration `envconfig:"RWX_PROBE_INTERVAL" default:"2s" desc:"how often a served export is probed"`
	ProbeTimeout  time.Duration `envconfig:"RWX_PROBE_TIMEOUT" default:"2s" desc:"how long one probe may take"`
	ProbeFailures int           `envconfig:"RWX_PROBE_FAILURES" default:"3" desc:"failed probes in a row after which ganesha is killed and started again"`
	StartTimeout  time.Duration `envconfig:"RWX_START_TIMEOUT" default:"60s" desc:"how long a new ganesha may take until the first probe passes"`
	StopTimeout   time.Duration `envconfig:"RWX_STOP_TIMEOUT" default:"10s" desc:"how long a ganesha may take to end before it is killed"`

	GaneshaLogLevel string `envconfig:"RWX_GANESHA_LOG_LEVEL" default:"NIV_EVENT" desc:"what ganesha logs: its option -N, for servers that are started from then on"`

	Heartbeat         bool          `envconfig:"RWX_HEARTBEAT" default:"true" desc:"ping the supervisors of peers, to try a take-over before DRBD notices that a node is gone"`
	HeartbeatPort     int           `envconfig:"RWX_HEARTBEAT_PORT" default:"9789" desc:"UDP port of the pings, the same in every pod"`
	HeartbeatInterval time.Duration `envconfig:"RWX_HEARTBEAT_INTERVAL" default:"300ms" desc:"time between two pings"`
	HeartbeatTimeout  time.Duration `envconfig:"RWX_HEARTBEAT_TIMEOUT" default:"1200ms" desc:"how long a peer may be silent before what it serves is tried to be promoted"`
	PodSelector       string        `envconfig:"RWX_POD_SELECTOR" desc:"labels of the ganesha pods in this namespace, whose supervisors are pinged"`
	DrainTimeout      time.Duration `envconfig:"RWX_DRAIN_TIMEOUT" default:"40s" desc:"how long the end of the pod waits until every export is handed over or stopped; less than the pod's terminationGracePeriodSeconds"`

	SourceNAT bool `envconfig:"RWX_SOURCE_NAT" default:"true" desc:"rules in the pod's network namespace: only allowed clients, and one constant address for all of them, without which locks are lost when a client's address changes with the server's node. false: no rules at all"`
	Silence   bool `envconfig:"RWX_SILENCE" default:"true" desc:"while ganesha is restarted, clients that connect get no answer instead of a refusal, after which they would wait for three seconds; needs RWX_SOURCE_NAT"`

	Workers int `envconfig:"RWX_WORKERS" default:"8" desc:"how many exports are worked on at the same time"`
	// Starts is bounded, because each start is work for a processor: many at once
	// would all take so long that none ends in time.
	Starts int           `envconfig:"RWX_STARTS" default:"0" desc:"how many exports are started at the same time; 0: one per processor, at least two, at most all workers but two"`
	Resync time.Duration `envconfig:"RWX_RESYNC" default:"10m" desc:"how often every export is looked at without a trigger"`
}

// SettingsFromEnvironment reads and checks the settings.
func SettingsFromEnvironment() (Settings, error) {
	var s Settings
	if err := envconfig.Process("", &s); err != nil {
		return s, fmt.Errorf("read settings from the environment: %w", err)
	}
	return s, s.validate()
}

func (s Settings) validate() error {
	switch {
	case s.PortMin < 1 || s.PortMax > 65535 || s.PortMin > s.PortMax:
		return fmt.Errorf("check settings: RWX_PORT_MIN %d and RWX_PORT_MAX %d are no range of ports", s.PortMin, s.PortMax)
	case !filepath.IsAbs(s.MountRoot) || !filepath.IsAbs(s.RunDir):
		return fmt.Errorf("check settings: RWX_MOUNT_ROOT %q and RWX_RUN_DIR %q must be absolute", s.MountRoot, s.RunDir)
	case !slices.Contains(ganesha.LogLevels, s.GaneshaLogLevel):
		return fmt.Errorf("check settings: RWX_GANESHA_LOG_LEVEL %q is none of %v", s.GaneshaLogLevel, ganesha.LogLevels)
	case s.Starts < 0:
		return fmt.Errorf("check settings: RWX_STARTS %d must not be negative", s.Starts)
	case s.HeartbeatInterval <= 0 || s.HeartbeatTimeout < s.HeartbeatInterval:
		return fmt.Errorf("check settings: RWX_HEARTBEAT_TIMEOUT %s must be at least RWX_HEARTBEAT_INTERVAL %s, which must be positive", s.HeartbeatTimeout, s.HeartbeatInterval)
	case s.Workers < 1 || s.ProbeFailures < 1:
		return fmt.Errorf("check settings: RWX_WORKERS %d and RWX_PROBE_FAILURES %d must be at least 1", s.Workers, s.ProbeFailures)
	case s.ProbeInterval <= 0 || s.ProbeTimeout <= 0 || s.StartTimeout <= 0 || s.StopTimeout <= 0 || s.IdleTimeout < 0 || s.DrainTimeout < 0:
		return fmt.Errorf("check settings: intervals and time-outs must be positive")
	}
	return nil
}

// parallelStarts leaves workers free for what cannot wait, such as fencing.
func (s Settings) parallelStarts() int {
	wanted := s.Starts
	if wanted == 0 {
		wanted = max(2, runtime.NumCPU())
	}
	return max(1, min(wanted, s.Workers-2))
}

// HeartbeatSettings are the settings of the heartbeat.
func (s Settings) HeartbeatSettings() heartbeat.Settings {
	return heartbeat.Settings{Port: s.HeartbeatPort, Interval: s.HeartbeatInterval, Timeout: s.HeartbeatTimeout}
}

// exportsRoot is the directory below which everything that is mounted is ours.
func (s Settings) exportsRoot() string { return filepath.Join(s.MountRoot, "exports") }

func (s Settings) dataPath(export string) string {
	return filepath.Join(s.exportsRoot(), export, "data")
}

func (s Settings) recoveryPath(export string) string {
	return filepath.Join(s.exportsRoot(), export, "recovery")
}

// lockPath is the file that an export's ganesha locks, in whichever pod of this
// node it runs.
func (s Settings) lockPath(export string) string {
	return filepath.Join(s.exportsRoot(), export, "server.lock")
}

// LauncherSocket is where ganesha-launcher listens.
func (s Settings) LauncherSocket() string { return filepath.Join(s.RunDir, "launcher.sock") }

func (s Settings) runPath(export, file string) string {
	return filepath.Join(s.RunDir, "exports", export, file)
}
