package drbd

import (
	"fmt"
	"strings"
)

// suspended is drbdsetup's summary of the reasons.
func (s State) suspended() string {
	var reasons []string
	if s.SuspendedUser {
		reasons = append(reasons, "user")
	}
	if s.SuspendedQuorum {
		reasons = append(reasons, "quorum")
	}
	if len(reasons) == 0 {
		return "no"
	}
	return strings.Join(reasons, ",")
}

func (s State) writeOrdering() string {
	for _, v := range s.Volumes {
		if v.Disk != Diskless {
			return "flush"
		}
	}
	return "none"
}

// backing is the name of the backing device as a satellite's LVM would have it.
func (v VolumeState) backing(resource string) string {
	if v.Disk == Diskless {
		return "none"
	}
	return backingDevice(resource, v.Number)
}

func backingDevice(resource string, number int) string {
	return fmt.Sprintf("/dev/lab/%s_%05d", resource, number)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func deviceStatistics(s State, v VolumeState) []string {
	blocked := "no"
	if s.SuspendedUser || s.SuspendedQuorum {
		blocked = "upper"
	}
	return []string{
		fmt.Sprintf("size:%d", v.SizeBytes>>10), fmt.Sprintf("read:%d", v.ReadBytes>>10), fmt.Sprintf("written:%d", v.WrittenBytes>>10),
		"al-writes:0", "bm-writes:0", "upper-pending:0", "lower-pending:0", "al-suspended:no", "blocked:" + blocked,
	}
}

func peerStatistics(p PeerVolumeState) []string {
	return []string{"received:0", "sent:0", fmt.Sprintf("out-of-sync:%d", p.OutOfSyncBytes>>10), "pending:0", "unacked:0"}
}

// wrapper prints words like drbdsetup: a line that would reach the 80th column
// is broken, and continued with an indentation.
type wrapper struct {
	strings.Builder
	column int
}

func (w *wrapper) start(indent int, word string) {
	w.WriteString(strings.Repeat(" ", indent) + word)
	w.column = indent + len(word)
}

func (w *wrapper) add(indent int, words ...string) {
	for _, word := range words {
		if w.column+1+len(word) >= 80 {
			w.newline()
		}
		if w.column == 0 {
			w.start(indent, word)
			continue
		}
		w.WriteString(" " + word)
		w.column += 1 + len(word)
	}
}

func (w *wrapper) newline() {
	w.WriteString("\n")
	w.column = 0
}

// statusText prints one resource as `drbdsetup status` does.
func statusText(s State, verbose, statistics bool) string {
	w := &wrapper{}
	w.start(0, s.Resource)
	if verbose {
		w.add(4, fmt.Sprintf("node-id:%d", s.NodeID))
	}
	w.add(4, "role:"+s.Role)
	if verbose || s.suspended() != "no" {
		w.add(4, "suspended:"+s.suspended())
	}
	if verbose || s.ForceIOFailures {
		w.add(4, "force-io-failures:"+yesNo(s.ForceIOFailures))
	}
	if statistics {
		w.newline()
		w.add(4, "write-ordering:"+s.writeOrdering())
	}
	w.newline()
	single := len(s.Volumes) == 1 && s.Volumes[0].Number == 0
	for _, v := range s.Volumes {
		volumeText(w, s, v, single, verbose, statistics)
	}
	for _, connection := range s.Connections {
		connectionText(w, connection, single, verbose, statistics)
	}
	w.newline()
	return w.String()
}

func volumeText(w *wrapper, s State, v VolumeState, single, verbose, statistics bool) {
	disk := "disk:" + string(v.Disk)
	if verbose || !single {
		w.start(2, fmt.Sprintf("volume:%d", v.Number))
		if verbose {
			w.add(6, fmt.Sprintf("minor:%d", v.Minor))
		}
		w.add(6, disk)
	} else {
		w.start(2, disk)
	}
	if v.Disk == Diskless {
		w.add(6, "client:"+yesNo(v.Client))
	}
	if verbose {
		w.add(6, "backing_dev:"+v.backing(s.Resource))
	}
	if verbose || !v.Quorum {
		w.add(6, "quorum:"+yesNo(v.Quorum))
	}
	if statistics {
		w.newline()
		w.add(6, deviceStatistics(s, v)...)
	}
	w.newline()
}

func connectionText(w *wrapper, connection ConnectionState, single, verbose, statistics bool) {
	connected := connection.State == stateConnected
	w.start(2, connection.Peer)
	if verbose {
		w.add(6, fmt.Sprintf("node-id:%d", connection.PeerID))
	}
	if verbose || !connected {
		w.add(6, "connection:"+connection.State)
	}
	if verbose || connected {
		w.add(6, "role:"+connection.PeerRole)
	}
	if verbose {
		w.add(6, "congested:no")
	}
	if statistics {
		w.add(6, "ap-in-flight:0", "rs-in-flight:0")
	}
	w.newline()
	if !verbose && !connected {
		return
	}
	for _, p := range connection.Volumes {
		peerText(w, p, single, verbose, statistics)
	}
}

func peerText(w *wrapper, p PeerVolumeState, single, verbose, statistics bool) {
	var words []string
	if verbose || !single {
		words = append(words, fmt.Sprintf("volume:%d", p.Number))
	}
	if verbose || (p.Replication != "Established" && p.Replication != "Off") {
		words = append(words, "replication:"+p.Replication)
	}
	words = append(words, "peer-disk:"+string(p.Disk))
	if p.Disk == Diskless {
		words = append(words, "peer-client:"+yesNo(p.Client))
	}
	if p.DonePercent >= 0 {
		words = append(words, fmt.Sprintf("done:%.2f", p.DonePercent))
	}
	if verbose || p.ResyncSuspended != "no" {
		words = append(words, "resync-suspended:"+p.ResyncSuspended)
	}
	w.start(4, words[0])
	w.add(8, words[1:]...)
	if statistics {
		w.newline()
		w.add(8, peerStatistics(p)...)
	}
	w.newline()
}

// statusJSON prints resources as `drbdsetup status --json` does, byte for byte
// with its spaces.
func statusJSON(states []State) string {
	var b strings.Builder
	b.WriteString("[\n")
	for i, s := range states {
		if i > 0 {
			b.WriteString(",\n")
		}
		resourceJSON(&b, s)
	}
	if len(states) > 0 {
		b.WriteString("\n")
	}
	b.WriteString("]\n\n")
	return b.String()
}

func resourceJSON(b *strings.Builder, s State) {
	suspended := s.SuspendedUser || s.SuspendedQuorum
	fmt.Fprintf(b, `{
  "name": %q,
  "node-id": %d,
  "role": %q,
  "suspended": %t,
  "suspended-user": %t,
  "suspended-no-data": false,
  "suspended-fencing": false,
  "suspended-quorum": %t,
  "force-io-failures": %t,
  "write-ordering": %q,
  "devices": [
`, s.Resource, s.NodeID, s.Role, suspended, s.SuspendedUser, s.SuspendedQuorum, s.ForceIOFailures, s.writeOrdering())
	for i, v := range s.Volumes {
		fmt.Fprintf(b, `    {
      "volume": %d,
      "minor": %d,
      "disk-state": %q,
      "client": %t,
      "quorum": %t,
      "size": %d,
      "read": %d,
      "written": %d,
      "al-writes": 0,
      "bm-writes": 0,
      "upper-pending": 0,
      "lower-pending": 0
    }%s`, v.Number, v.Minor, v.Disk, v.Client, v.Quorum, v.SizeBytes>>10, v.ReadBytes>>10, v.WrittenBytes>>10, separator(i, len(s.Volumes)))
	}
	b.WriteString(" ],\n  \"connections\": [\n")
	for i, connection := range s.Connections {
		fmt.Fprintf(b, `    {
      "peer-node-id": %d,
      "name": %q,
      "connection-state": %q, 
      "congested": false,
      "peer-role": %q,
      "ap-in-flight": 0,
      "rs-in-flight": 0,
      "peer_devices": [
`, connection.PeerID, connection.Peer, connection.State, connection.PeerRole)
		for j, p := range connection.Volumes {
			peerJSON(b, p)
			b.WriteString(separator(j, len(connection.Volumes)))
		}
		b.WriteString(" ]\n    }" + separator(i, len(s.Connections)))
	}
	b.WriteString(" ]\n}")
}

func peerJSON(b *strings.Builder, p PeerVolumeState) {
	percent := 100.0
	if p.DonePercent >= 0 {
		percent = p.DonePercent
	}
	fmt.Fprintf(b, `        {
          "volume": %d,
          "replication-state": %q,
          "peer-disk-state": %q,
          "peer-client": %t,
          "resync-suspended": %q,
          "received": 0,
          "sent": 0,
          "out-of-sync": %d,
          "pending": 0,
          "unacked": 0,
          "has-sync-details": %t,
          "has-online-verify-details": false,
          "percent-in-sync": %.2f`, p.Number, p.Replication, p.Disk, p.Client, p.ResyncSuspended, p.OutOfSyncBytes>>10, p.DonePercent >= 0, percent)
	if p.DonePercent >= 0 {
		fmt.Fprintf(b, `,
          "rs-failed": 0,
          "percent-resync-done": %.2f`, p.DonePercent)
	}
	b.WriteString("\n        }")
}

func separator(i, count int) string {
	if i < count-1 {
		return ",\n"
	}
	return ""
}
