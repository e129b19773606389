// Package launcher is the server side of ganesha-launcher: PID 1 of the
// ganesha container, which starts, stops, lists and reaps the ganesha processes
// for the supervisor in the container beside it.
package launcher
