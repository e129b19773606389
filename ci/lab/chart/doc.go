// Package chart tests the Helm chart without a cluster: what it renders for some
// sets of values, and what its schema refuses. Its tests are all it has.
package chart
