package reconnector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the metrics of one reconnector; see README.md.
type Metrics struct {
	registry *prometheus.Registry

	sockets        *prometheus.CounterVec
	translations   prometheus.Counter
	destroySeconds prometheus.Histogram
	lookSeconds    prometheus.Histogram
	errors         prometheus.Counter
}

// NewMetrics returns metrics with a registry of their own.
func NewMetrics() *Metrics {
	const prefix = "linstor_rwx_reconnector_"
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		sockets: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "sockets_destroyed_total",
			Help: "Stale connections destroyed, by reason."}, []string{"reason"}),
		translations: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "translations_deleted_total",
			Help: "Entries of connection tracking deleted."}),
		destroySeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "destroy_seconds",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15},
			Help:    "Time from the move of an export, as this node learned of it, to the destruction of a connection."}),
		lookSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "look_seconds",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1},
			Help:    "Duration of one look at the connections."}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "errors_total",
			Help: "Looks that failed, and failed attempts to publish this node's addresses."}),
	}
	m.registry.MustRegister(m.sockets, m.translations, m.destroySeconds, m.lookSeconds, m.errors,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// destroyed counts a connection. Its age counts only if the move was seen: at the
// start nobody knows when the export has moved.
func (m *Metrics) destroyed(reason Reason, seen bool, sinceMove time.Duration) {
	m.sockets.WithLabelValues(string(reason)).Inc()
	if seen {
		m.destroySeconds.Observe(sinceMove.Seconds())
	}
}

// Serve answers /metrics and /healthz until ctx ends, nowhere if address is empty.
func (m *Metrics) Serve(ctx context.Context, address string) error {
	if address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics at %s: %w", address, err)
	}
	return nil
}
