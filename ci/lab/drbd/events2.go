package drbd

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// eventsOptions are the flags of `drbdsetup events2`.
type eventsOptions struct {
	resource   string // "" means all
	statistics bool
	timestamps bool
	full       bool // print all fields in changes too
}

// stream is one running events2.
type stream struct {
	options eventsOptions

	mu    sync.Mutex
	wake  *sync.Cond
	lines []string
	ended bool
}

func newStream(options eventsOptions) *stream {
	s := &stream{options: options}
	s.wake = sync.NewCond(&s.mu)
	return s
}

// next blocks until there are lines; false when the stream has ended.
func (s *stream) next() ([]string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.lines) == 0 && !s.ended {
		s.wake.Wait()
	}
	lines := s.lines
	s.lines = nil
	return lines, len(lines) > 0
}

func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.wake.Broadcast()
}

func (s *stream) add(now time.Time, lines ...string) {
	if len(lines) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range lines {
		if s.options.timestamps {
			line = now.UTC().Format("2006-01-02T15:04:05.000000-07:00") + " " + line
		}
		s.lines = append(s.lines, line)
	}
	s.wake.Signal()
}

func (s *stream) wants(resource string) bool {
	return s.options.resource == "" || s.options.resource == resource
}

// exists adds the present state of a resource.
func (s *stream) exists(now time.Time, address func(string) string, state State) {
	if s.wants(state.Resource) {
		s.add(now, s.dump("exists", address, state)...)
	}
}

// finish ends the initial dump.
func (s *stream) finish(now time.Time) { s.add(now, "exists -") }

func connectionContext(id int, name string) string {
	return fmt.Sprintf("peer-node-id:%d conn-name:%s", id, name)
}

func volumeContext(number, minor int) string {
	return fmt.Sprintf(" volume:%d minor:%d", number, minor)
}

// dump prints everything of a resource, in the order of the kernel's dump:
// later connections and volumes first.
func (s *stream) dump(verb string, address func(string) string, state State) []string {
	name := " name:" + state.Resource
	lines := []string{verb + " resource" + name + s.resourceFields(nil, state)}
	for i := len(state.Connections) - 1; i >= 0; i-- {
		lines = append(lines, verb+" connection"+name+s.connectionFields(nil, state.Connections[i]))
	}
	for i := len(state.Volumes) - 1; i >= 0; i-- {
		lines = append(lines, verb+" device"+name+s.deviceFields(nil, state, state.Volumes[i]))
	}
	for i := len(state.Connections) - 1; i >= 0; i-- {
		connection := state.Connections[i]
		for j := len(connection.Volumes) - 1; j >= 0; j-- {
			lines = append(lines, verb+" peer-device"+name+s.peerFields(nil, connection, connection.Volumes[j]))
		}
		lines = append(lines, pathLine(verb, address, state, connection))
	}
	return lines
}

func pathLine(verb string, address func(string) string, state State, connection ConnectionState) string {
	return fmt.Sprintf("%s path name:%s %s local:%s peer:%s established:%s", verb, state.Resource,
		connectionContext(connection.PeerID, connection.Peer),
		address(state.Node), address(connection.Peer), yesNo(connection.State == stateConnected))
}

func (s *stream) resourceFields(old *State, now State) string {
	var b strings.Builder
	all := old == nil || s.options.full
	if all || old.Role != now.Role {
		b.WriteString(" role:" + now.Role)
	}
	if all || old.suspended() != now.suspended() {
		b.WriteString(" suspended:" + now.suspended())
	}
	if all || old.ForceIOFailures != now.ForceIOFailures {
		b.WriteString(" force-io-failures:" + yesNo(now.ForceIOFailures))
	}
	if all && s.options.statistics {
		b.WriteString(" write-ordering:" + now.writeOrdering())
	}
	if all || old.MayPromote != now.MayPromote || old.PromotionScore != now.PromotionScore {
		fmt.Fprintf(&b, " may_promote:%s promotion_score:%d", yesNo(now.MayPromote), now.PromotionScore)
	}
	return b.String()
}

func (s *stream) connectionFields(old *ConnectionState, now ConnectionState) string {
	var b strings.Builder
	all := old == nil || s.options.full
	if all || old.State != now.State {
		b.WriteString(" connection:" + now.State)
	}
	if all || old.PeerRole != now.PeerRole {
		b.WriteString(" role:" + now.PeerRole)
	}
	if b.Len() == 0 {
		return ""
	}
	if all && s.options.statistics {
		b.WriteString(" congested:no ap-in-flight:0 rs-in-flight:0")
	}
	return " " + connectionContext(now.PeerID, now.Peer) + b.String()
}

func (s *stream) deviceFields(old *VolumeState, state State, now VolumeState) string {
	var b strings.Builder
	if old == nil || s.options.full || old.Disk != now.Disk || old.Client != now.Client || old.Quorum != now.Quorum {
		fmt.Fprintf(&b, " backing_dev:%s disk:%s client:%s quorum:%s", now.backing(state.Resource), now.Disk, yesNo(now.Client), yesNo(now.Quorum))
	} else if old.SizeBytes == now.SizeBytes {
		return ""
	}
	if s.options.statistics {
		b.WriteString(" " + strings.Join(deviceStatistics(state, now), " "))
	} else if b.Len() == 0 {
		return ""
	}
	return volumeContext(now.Number, now.Minor) + b.String()
}

func (s *stream) peerFields(old *PeerVolumeState, connection ConnectionState, now PeerVolumeState) string {
	var b strings.Builder
	all := old == nil || s.options.full
	if all || old.Replication != now.Replication {
		b.WriteString(" replication:" + now.Replication)
	}
	if all || old.Disk != now.Disk || old.Client != now.Client {
		fmt.Fprintf(&b, " peer-disk:%s peer-client:%s", now.Disk, yesNo(now.Client))
	}
	if now.DonePercent >= 0 && (all || old.DonePercent != now.DonePercent) {
		fmt.Fprintf(&b, " done:%.2f", now.DonePercent)
	}
	if all || old.ResyncSuspended != now.ResyncSuspended {
		b.WriteString(" resync-suspended:" + now.ResyncSuspended)
	}
	if b.Len() == 0 {
		return ""
	}
	if s.options.statistics {
		b.WriteString(" " + strings.Join(peerStatistics(now), " "))
	}
	return fmt.Sprintf(" %s volume:%d%s", connectionContext(connection.PeerID, connection.Peer), now.Number, b.String())
}

// change prints what is different: resource, connections, devices, peer
// devices, paths.
func (s *stream) change(now time.Time, address func(string) string, old *State, state State) {
	if !s.wants(state.Resource) {
		return
	}
	if old == nil {
		s.add(now, s.dump("create", address, state)...)
		return
	}
	var lines []string
	name := " name:" + state.Resource
	add := func(kind, fields string) {
		if fields != "" {
			lines = append(lines, "change "+kind+name+fields)
		}
	}
	if old.resourceDiffers(state) {
		add("resource", s.resourceFields(old, state))
	}
	was := map[string]ConnectionState{}
	for _, connection := range old.Connections {
		was[connection.Peer] = connection
	}
	for _, connection := range state.Connections {
		before, known := was[connection.Peer]
		delete(was, connection.Peer)
		if !known {
			lines = append(lines, "create connection"+name+s.connectionFields(nil, connection))
		} else if before.State != connection.State || before.PeerRole != connection.PeerRole {
			add("connection", s.connectionFields(&before, connection))
		}
	}
	volumes := map[int]VolumeState{}
	for _, v := range old.Volumes {
		volumes[v.Number] = v
	}
	for i := len(state.Volumes) - 1; i >= 0; i-- {
		v := state.Volumes[i]
		before, known := volumes[v.Number]
		delete(volumes, v.Number)
		if !known {
			lines = append(lines, "create device"+name+s.deviceFields(nil, state, v))
		} else if before.differs(v) {
			add("device", s.deviceFields(&before, state, v))
		}
	}
	for _, connection := range state.Connections {
		lines = append(lines, s.peerChanges(address, old, state, connection)...)
	}
	for peer, connection := range was {
		lines = append(lines, "destroy connection"+name+" "+connectionContext(connection.PeerID, peer))
	}
	for number, v := range volumes {
		lines = append(lines, "destroy device"+name+volumeContext(number, v.Minor))
	}
	s.add(now, lines...)
}

func (s *stream) peerChanges(address func(string) string, old *State, state State, connection ConnectionState) []string {
	var before ConnectionState
	for _, candidate := range old.Connections {
		if candidate.Peer == connection.Peer {
			before = candidate
		}
	}
	var lines []string
	for i := len(connection.Volumes) - 1; i >= 0; i-- {
		v := connection.Volumes[i]
		var was *PeerVolumeState
		for j := range before.Volumes {
			if before.Volumes[j].Number == v.Number {
				was = &before.Volumes[j]
			}
		}
		switch {
		case was == nil:
			lines = append(lines, "create peer-device name:"+state.Resource+s.peerFields(nil, connection, v))
		case was.differs(v):
			lines = append(lines, "change peer-device name:"+state.Resource+s.peerFields(was, connection, v))
		}
	}
	switch connected := connection.State == stateConnected; {
	case before.Peer == "":
		lines = append(lines, pathLine("create", address, state, connection))
	case connected != (before.State == stateConnected):
		lines = append(lines, pathLine("change", address, state, connection))
	}
	return lines
}

// destroy prints the end of a resource.
func (s *stream) destroy(now time.Time, address func(string) string, state State) {
	if !s.wants(state.Resource) {
		return
	}
	var lines []string
	name := " name:" + state.Resource
	for _, connection := range state.Connections {
		context := connectionContext(connection.PeerID, connection.Peer)
		lines = append(lines,
			fmt.Sprintf("destroy path%s %s local:%s peer:%s", name, context, address(state.Node), address(connection.Peer)),
			"destroy connection"+name+" "+context)
	}
	for _, v := range state.Volumes {
		lines = append(lines, "destroy device"+name+volumeContext(v.Number, v.Minor))
	}
	s.add(now, append(lines, "destroy resource"+name)...)
}

// helper prints the call of a handler and its response.
func (s *stream) helper(now time.Time, resource, context, helper string) {
	if s.wants(resource) {
		s.add(now, "call helper"+context+" helper:"+helper, "response helper"+context+" helper:"+helper+" status:0")
	}
}

func (old *State) resourceDiffers(now State) bool {
	return old.Role != now.Role || old.suspended() != now.suspended() || old.ForceIOFailures != now.ForceIOFailures ||
		old.MayPromote != now.MayPromote || old.PromotionScore != now.PromotionScore
}

func (old *VolumeState) differs(now VolumeState) bool {
	return old.Disk != now.Disk || old.Client != now.Client || old.Quorum != now.Quorum || old.SizeBytes != now.SizeBytes
}

func (old *PeerVolumeState) differs(now PeerVolumeState) bool {
	return old.Replication != now.Replication || old.Disk != now.Disk || old.Client != now.Client ||
		old.ResyncSuspended != now.ResyncSuspended
}
