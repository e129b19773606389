package provisioner

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The steps of a claim whose durations are measured.
const (
	stepPrepare = "prepare" // guards, intent, resource definition, recovery volume
	stepCreate  = "create"  // linstor-csi's CreateVolume
	stepReady   = "ready"   // until a node has both volumes UpToDate
	stepPublish = "publish" // identity, Service, PersistentVolume
)

type stepMetrics struct {
	steps *prometheus.HistogramVec
	swept *prometheus.CounterVec
	kept  *prometheus.GaugeVec
}

func newStepMetrics() *stepMetrics {
	return &stepMetrics{
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "linstor_rwx_provision_step_seconds", Help: "Duration of the steps that make a ReadWriteMany volume, failed ones included.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"step"}),
		swept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "linstor_rwx_sweep_removed_total", Help: "Leftovers of crashes that were removed.",
		}, []string{"object"}),
		kept: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "linstor_rwx_sweep_kept", Help: "Leftovers that the last sweep kept because they may hold data.",
		}, []string{"object"}),
	}
}

// Collectors returns the metrics of this package, to be registered by main.
func (p *Provisioner) Collectors() []prometheus.Collector {
	return []prometheus.Collector{p.metrics.steps, p.metrics.swept, p.metrics.kept}
}

func (m *stepMetrics) observe(step string, begin time.Time) {
	m.steps.WithLabelValues(step).Observe(time.Since(begin).Seconds())
}

func (m *stepMetrics) removed(object string) { m.swept.WithLabelValues(object).Inc() }

func (m *stepMetrics) setKept(kept map[string]float64) {
	for _, object := range []string{"export", "definition"} {
		m.kept.WithLabelValues(object).Set(kept[object])
	}
}
