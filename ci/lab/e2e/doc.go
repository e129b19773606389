// Package e2e holds the promises of linstor-rwx to its users, one file per
// promise. The tests run against a laboratory that is up and has the chart
// installed (make test, make lab-up): real nodes, kubelets, kernel NFS clients,
// ganesha, filesystems and the unmodified LINSTOR CSI driver.
//
// Every test ends with the laboratory's leak check: what a test made must be
// gone from Kubernetes, LINSTOR and the nodes.
package e2e
