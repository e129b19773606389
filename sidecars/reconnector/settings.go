package reconnector

import (
	"fmt"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// Settings is the environment of nfs-reconnector.
type Settings struct {
	NodeName     string `envconfig:"NODE_NAME" required:"true" desc:"name of this node in Kubernetes"`
	PodNamespace string `envconfig:"POD_NAMESPACE" required:"true" desc:"namespace of the exports' EndpointSlices, and of the ConfigMap with this node's addresses"`
	Release      string `envconfig:"RWX_RELEASE" required:"true" desc:"first part of that ConfigMap's name"`

	// The pod is on the host's network: a default port would be one taken from
	// every node.
	HTTPEndpoint string        `envconfig:"RWX_HTTP_ENDPOINT" desc:"address of /metrics and /healthz; empty: none"`
	Resync       time.Duration `envconfig:"RWX_RESYNC" default:"1h" desc:"how often the ConfigMap is compared without a change of addresses"`
}

// SettingsFromEnvironment reads and checks the settings.
func SettingsFromEnvironment() (Settings, error) {
	var s Settings
	if err := envconfig.Process("", &s); err != nil {
		return s, fmt.Errorf("read settings from the environment: %w", err)
	}
	if s.Resync <= 0 {
		return s, fmt.Errorf("check settings: RWX_RESYNC %v must be positive", s.Resync)
	}
	return s, nil
}
