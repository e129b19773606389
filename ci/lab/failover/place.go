package failover

import (
	"slices"
)

// placement says where the clients of a scenario run, apart from the node
// without storage, which always has one.
type placement int

const (
	// besideServer: on a storage node that does not serve.
	besideServer placement = iota
	// besideAndDoomed: there, and on the serving node one whose fate with that
	// node does not count.
	besideAndDoomed
	// withServer: on the serving node.
	withServer
)

// seat is a node with a client.
type seat struct {
	node string
	// doomed clients die with their node: what they notice is not measured.
	doomed bool
}

// choose returns the seats for a placement. Of several nodes that would do it
// takes one that has a client already (taken), because a new one takes seconds.
func choose(where placement, server, consumer string, storage, taken []string) []seat {
	seats := []seat{{node: consumer}}
	if where == withServer {
		return append(seats, seat{node: server})
	}
	seats = append(seats, seat{node: beside(server, storage, taken)})
	if where == besideAndDoomed {
		seats = append(seats, seat{node: server, doomed: true})
	}
	return seats
}

// beside returns a storage node that does not serve.
func beside(server string, storage, taken []string) string {
	var free []string
	for _, node := range storage {
		if node != server {
			free = append(free, node)
		}
	}
	for _, node := range free {
		if slices.Contains(taken, node) {
			return node
		}
	}
	return free[0]
}
