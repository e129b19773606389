// Package scenario is the vocabulary of the laboratory's end-to-end tests and
// of the demo: classes, claims, pods and exports of a real cluster, and waiting
// for what a user would wait for. It talks to the API server only, so the same
// scenarios run against any cluster; what breaks nodes and networks is in
// package lab.
package scenario
