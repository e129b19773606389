package supervisor

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
)

// Metrics are the metrics of one supervisor; see README.md.
type Metrics struct {
	registry *prometheus.Registry

	exports         *prometheus.GaugeVec
	clients         *prometheus.GaugeVec
	startSeconds    *prometheus.HistogramVec
	starts          *prometheus.CounterVec
	restarts        *prometheus.CounterVec
	stops           *prometheus.CounterVec
	failovers       *prometheus.CounterVec
	graceSeconds    prometheus.Histogram
	failoverSeconds *prometheus.HistogramVec
	probeSeconds    prometheus.Histogram
	probeFailures   *prometheus.CounterVec
	reconcileErrors prometheus.Counter

	lock   sync.Mutex
	phases map[string]v1alpha1.Phase
}

// NewMetrics returns metrics with a registry of their own.
func NewMetrics() *Metrics {
	const prefix = "linstor_rwx_"
	buckets := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		exports: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + "exports",
			Help: "Exports by phase, of those this node serves or tries to serve."}, []string{"phase"}),
		clients: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + "export_clients",
			Help: "Clients with a record at the server on this node."}, []string{"export"}),
		startSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "export_start_seconds", Buckets: buckets,
			Help: "Duration of each step of a start, and of the total."}, []string{"part"}),
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "export_starts_total",
			Help: "Starts of a server by result."}, []string{"result"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "export_restarts_total",
			Help: "Restarts in place by reason."}, []string{"reason"}),
		stops: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "export_stops_total",
			Help: "Stops of a server by reason."}, []string{"reason"}),
		failovers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "export_failovers_total",
			Help: "Exports taken over from another node."}, []string{"from", "to"}),
		graceSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "grace_seconds", Buckets: buckets,
			Help: "From the start of a server to the end of its grace, after a move."}),
		failoverSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "export_failover_seconds", Buckets: buckets,
			Help: "How long no server answered when an export moved here, by reason, and the parts of that time."}, []string{"reason", "part"}),
		probeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "probe_seconds", Buckets: buckets,
			Help: "Latency of probes that passed."}),
		probeFailures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "probe_failures_total",
			Help: "Probes that failed."}, []string{"export"}),
		reconcileErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "reconcile_errors_total",
			Help: "Passes over an export that ended with an error."}),
		phases: map[string]v1alpha1.Phase{},
	}
	m.registry.MustRegister(m.exports, m.clients, m.startSeconds, m.starts, m.restarts, m.stops, m.failovers,
		m.graceSeconds, m.failoverSeconds, m.probeSeconds, m.probeFailures, m.reconcileErrors,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) started(p parts, total time.Duration) {
	m.starts.WithLabelValues("ok").Inc()
	for i, name := range p.names {
		m.startSeconds.WithLabelValues(name).Observe(p.took[i].Seconds())
	}
	m.startSeconds.WithLabelValues("total").Observe(total.Seconds())
}

// moved observes the parts of a move.
func (m *Metrics) moved(failover *v1alpha1.Failover) {
	m.failovers.WithLabelValues(failover.From, failover.To).Inc()
	observe := func(part, text string) {
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			m.failoverSeconds.WithLabelValues(failover.Reason, part).Observe(value)
		}
	}
	observe("total", failover.Seconds)
	for part, text := range failover.Parts {
		observe(part, text)
	}
}

// phase counts the export under its phase if it concerns this node.
func (m *Metrics) phase(export string, phase v1alpha1.Phase, here bool) {
	m.lock.Lock()
	defer m.lock.Unlock()
	if old, ok := m.phases[export]; ok {
		m.exports.WithLabelValues(string(old)).Dec()
		delete(m.phases, export)
	}
	if here {
		m.phases[export] = phase
		m.exports.WithLabelValues(string(phase)).Inc()
	}
}

// forget drops an export that is gone.
func (m *Metrics) forget(export string) {
	m.phase(export, "", false)
	m.clients.DeleteLabelValues(export)
	m.probeFailures.DeleteLabelValues(export)
}
