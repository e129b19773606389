package main

import (
	"github.com/kubernetes-csi/csi-lib-utils/standardflags"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo/leaderelection" // registers leader election metrics in the default legacy registry
	_ "k8s.io/component-base/metrics/prometheus/workqueue"               // registers work queue metrics in the default legacy registry
	libmetrics "sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller/metrics"

	"github.com/linbit/linstor-rwx/pkg/sidecar"
)

var provisionRegistry = prometheus.NewRegistry()

// provisionMetrics registers the library's metrics where serve finds them.
func provisionMetrics() libmetrics.Metrics {
	m := libmetrics.New("controller")
	provisionRegistry.MustRegister(
		m.PersistentVolumeClaimProvisionTotal, m.PersistentVolumeClaimProvisionFailedTotal, m.PersistentVolumeClaimProvisionDurationSeconds,
		m.PersistentVolumeDeleteTotal, m.PersistentVolumeDeleteFailedTotal, m.PersistentVolumeDeleteDurationSeconds)
	return m
}

// serve serves metrics and the leader's health, whether or not this process leads.
func (p *process) serve() error {
	address, err := sidecar.Address()
	if err != nil || address == "" {
		return err
	}
	gatherers := prometheus.Gatherers{legacyregistry.DefaultGatherer, p.csiMetrics.GetRegistry(), provisionRegistry}
	p.mux.Handle(standardflags.Configuration.MetricsPath,
		promhttp.InstrumentMetricHandler(provisionRegistry, promhttp.HandlerFor(gatherers, promhttp.HandlerOpts{})))
	if p.options.enableProfile {
		sidecar.AddProfiles(p.mux)
	}
	sidecar.Serve(address, p.mux)
	return nil
}
