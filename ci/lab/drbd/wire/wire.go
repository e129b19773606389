// Package wire has what drbdsetup's stand-in, the nodes' agent and the host say
// to each other. It is apart so that drbdsetup stays small and starts fast: the
// real one is a C program, and what the stand-in needs to start is counted as
// the product's time. Hence neither JSON nor HTTP on the way to the agent.
package wire

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
)

// Request asks for a drbdsetup command on a node. The agent adds the node.
type Request struct {
	Node string   `json:"node"`
	Args []string `json:"args"`
}

// Frame is a piece of the answer; the last one has Exit. From the host to the
// agent it is one JSON object per line.
type Frame struct {
	Out  string `json:"out,omitempty"`
	Err  string `json:"err,omitempty"`
	Exit *int   `json:"exit,omitempty"`
}

// Kind says what a piece is, between drbdsetup and the agent.
type Kind byte

// The kinds: drbdsetup's arguments, separated by zero bytes; what it shall print;
// its exit code, which ends the answer; and why the laboratory cannot answer,
// which ends it as well.
const (
	Arguments Kind = 'a'
	Output    Kind = 'o'
	ErrorText Kind = 'e'
	ExitCode  Kind = 'x'
	Failure   Kind = 'f'
)

// maxPiece is more than any command or answer needs.
const maxPiece = 16 << 20

// WritePiece sends one piece: its kind, its length as a decimal number, and a
// newline before the text.
func WritePiece(to io.Writer, kind Kind, text string) error {
	_, err := io.WriteString(to, string(kind)+strconv.Itoa(len(text))+"\n"+text)
	return err
}

// ReadPiece receives one piece. It fails with io.EOF if nothing comes any more.
func ReadPiece(from *bufio.Reader) (Kind, string, error) {
	head, err := from.ReadString('\n')
	if err != nil {
		return 0, "", err
	}
	length, err := strconv.Atoi(strings.TrimSuffix(head[1:], "\n"))
	if err != nil || length < 0 || length > maxPiece {
		return 0, "", errors.New("a piece begins with " + strconv.Quote(head))
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(from, text); err != nil {
		return 0, "", err
	}
	return Kind(head[0]), string(text), nil
}

// JoinArguments makes the text of a piece of Arguments; SplitArguments undoes it.
func JoinArguments(args []string) string { return strings.Join(args, "\x00") }

// SplitArguments returns nil for an empty text: drbdsetup without arguments.
func SplitArguments(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\x00")
}
