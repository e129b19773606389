// Package failover breaks a served volume in every way that it has to survive,
// while clients on several nodes use it, and measures what they notice. The
// end-to-end tests run each Scenario once, the bench runs it many times.
//
// It only looks from outside: at what clients saw (ci/lab/cmd/workload), at the
// status of the export, at the metrics of the supervisors, and at what the
// stand-ins of LINSTOR and DRBD call a violation. Like package scenario it must
// run in the laboratory's network.
package failover
