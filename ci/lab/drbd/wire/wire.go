// Package wire has what drbdsetup's stand-in, the nodes' agent and the host say
// to each other. It is apart so that drbdsetup stays small and starts fast.
package wire

// Request asks for a drbdsetup command on a node. The agent adds the node.
type Request struct {
	Node string   `json:"node"`
	Args []string `json:"args"`
}

// Frame is a piece of the answer, one JSON object per line; the last one has
// Exit.
type Frame struct {
	Out  string `json:"out,omitempty"`
	Err  string `json:"err,omitempty"`
	Exit *int   `json:"exit,omitempty"`
}
