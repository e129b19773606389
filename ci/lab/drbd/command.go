package drbd

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Exit codes of drbdsetup 9.22.
const (
	exitOK         = 0
	exitArgument   = 10 // no such resource or minor
	exitRefused    = 11 // state change refused
	exitNoUpToDate = 17
	exitUsage      = 20
)

//go:embed usage.txt
var usage string

// commandUsages are what a command prints when its argument is missing.
var commandUsages = map[string]string{
	"primary":    "drbdsetup primary - Change the role of a node in a resource to primary.\n\nUSAGE: drbdsetup primary {resource}\n    [--force={yes|no}]\n",
	"secondary":  "drbdsetup secondary - Change the role of a node in a resource to secondary.\n\nUSAGE: drbdsetup secondary {resource}\n    [--force={yes|no}]\n",
	"role":       "drbdsetup role - Show the current role of a resource.\n\nUSAGE: drbdsetup role {resource}\n",
	"dstate":     "drbdsetup dstate - Show the current disk state of a lower-level device.\n\nUSAGE: drbdsetup dstate {minor}\n",
	"detach":     "drbdsetup detach - Detach the lower-level device of a replicated device.\n\nUSAGE: drbdsetup detach {minor}\n    [--force={yes|no}] [--diskless={yes|no}]\n",
	"suspend-io": "drbdsetup suspend-io - Suspend I/O on a replicated device.\n\nUSAGE: drbdsetup suspend-io {minor}\n",
	"resume-io":  "drbdsetup resume-io - Resume I/O on a replicated device.\n\nUSAGE: drbdsetup resume-io {minor}\n",
	"outdate":    "drbdsetup outdate - Mark the data on a lower-level device as outdated.\n\nUSAGE: drbdsetup outdate {minor}\n    [--force={yes|no}]\n",
}

// flagsOf lists the flags of the commands that the stand-in has; the others
// are refused as unknown.
var flagsOf = map[string][]string{
	"status":     {"json", "verbose", "statistics", "color"},
	"events2":    {"now", "poll", "statistics", "timestamps", "full", "color"},
	"show":       {"json"},
	"primary":    {"force"},
	"secondary":  {"force"},
	"role":       nil,
	"dstate":     nil,
	"detach":     {"force"},
	"suspend-io": nil,
	"resume-io":  nil,
	"outdate":    nil,
}

// invocation is a parsed command line.
type invocation struct {
	command   string
	flags     map[string]bool
	arguments []string
}

// Run executes a drbdsetup command line (without the program's name) on a node
// and returns its exit code. Output goes to out and diagnostics to diag as the
// real one's; events2 without --now goes on until ctx ends or the node dies.
func (c *Cluster) Run(ctx context.Context, node string, arguments []string, out, diag io.Writer) int {
	call, code := parse(arguments, out, diag)
	if call == nil {
		return code
	}
	argument := ""
	if len(call.arguments) > 0 {
		argument = call.arguments[0]
	}
	switch call.command {
	case "status":
		return c.runStatus(node, argument, call.flags, out, diag)
	case "show":
		return c.runShow(node, argument, call.flags["json"], out)
	case "events2":
		return c.runEvents(ctx, node, argument, call.flags, out)
	case "primary":
		return report(c.Promote(ctx, node, argument, call.flags["force"]), argument, diag)
	case "secondary":
		return report(c.Demote(ctx, node, argument, call.flags["force"]), argument, diag)
	case "role":
		return c.runRole(node, argument, out, diag)
	default:
		return c.runMinor(node, call.command, argument, out, diag)
	}
}

// parse understands a command line, or prints why not.
func parse(arguments []string, out, diag io.Writer) (*invocation, int) {
	if len(arguments) == 0 {
		_, _ = io.WriteString(out, usage+"\n")
		return nil, exitUsage
	}
	call := &invocation{command: arguments[0], flags: map[string]bool{}}
	known, ok := flagsOf[call.command]
	if !ok {
		_, _ = io.WriteString(out, usage+"\n\ninvalid command\n")
		return nil, exitUsage
	}
	for _, argument := range arguments[1:] {
		name, isFlag := strings.CutPrefix(argument, "--")
		if !isFlag {
			call.arguments = append(call.arguments, argument)
			continue
		}
		name, value, _ := strings.Cut(name, "=")
		if !slices.Contains(known, name) {
			_, _ = fmt.Fprintf(diag, "%s: unrecognized option '%s'\n", call.command, argument)
			_, _ = io.WriteString(out, usage+"\n")
			return nil, exitUsage
		}
		call.flags[name] = value != "no"
	}
	if text := commandUsages[call.command]; text != "" && len(call.arguments) == 0 {
		_, _ = io.WriteString(out, text)
		_, _ = io.WriteString(diag, "Missing argument 1 to command\n")
		return nil, exitUsage
	}
	return call, exitOK
}

// report prints the outcome of a change of role.
func report(err error, resource string, diag io.Writer) int {
	var refused *StateError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &refused):
		_, _ = fmt.Fprintf(diag, "%s: State change failed: (%d) %s\n", resource, refused.Code, refused.Text)
		if refused.Info != "" {
			_, _ = fmt.Fprintf(diag, "additional info from kernel:\n%s\n", refused.Info)
		}
		if refused.Code == codeNoUpToDateData {
			return exitNoUpToDate
		}
		return exitRefused
	case errors.Is(err, ErrUnknown):
		_, _ = fmt.Fprintf(diag, "%s: Failure: (158) Unknown resource\nadditional info from kernel:\nunknown resource\n", resource)
		return exitArgument
	default:
		// Not DRBD's: the laboratory itself is in trouble.
		_, _ = fmt.Fprintf(diag, "laboratory: %v\n", err)
		return exitUsage
	}
}

// states returns what the node knows of one or ("", "all") every resource.
func (c *Cluster) states(node, resource string) []State {
	names := []string{resource}
	if resource == "" || resource == "all" {
		names = c.Resources(node)
	}
	var states []State
	for _, name := range names {
		if s, err := c.State(node, name); err == nil {
			states = append(states, s)
		}
	}
	return states
}

const nothingConfigured = "# No currently configured DRBD found.\n"

func (c *Cluster) runStatus(node, resource string, flags map[string]bool, out, diag io.Writer) int {
	states := c.states(node, resource)
	switch {
	case flags["json"]:
		_, _ = io.WriteString(out, statusJSON(states))
	case len(states) == 0:
		_, _ = io.WriteString(out, nothingConfigured)
	}
	if len(states) == 0 && resource != "" && resource != "all" {
		_, _ = fmt.Fprintf(diag, "%s: No such resource\n", resource)
		return exitArgument
	}
	if !flags["json"] {
		for _, s := range states {
			_, _ = io.WriteString(out, statusText(s, flags["verbose"], flags["statistics"]))
		}
	}
	return exitOK
}

func (c *Cluster) runRole(node, resource string, out, diag io.Writer) int {
	s, err := c.State(node, resource)
	if err != nil {
		_, _ = fmt.Fprintf(diag, "%s: Unknown resource\n", resource)
		return exitArgument
	}
	_, _ = fmt.Fprintln(out, s.Role)
	return exitOK
}

// runMinor executes the commands whose argument is a minor.
func (c *Cluster) runMinor(node, command, argument string, out, diag io.Writer) int {
	resource, number, ok := c.findMinor(node, argument)
	if !ok {
		_, _ = fmt.Fprintf(diag, "%s: Failure: (127) Device minor not allocated\nadditional info from kernel:\nunknown minor\n", argument)
		return exitArgument
	}
	var err error
	switch command {
	case "dstate":
		_, _ = fmt.Fprintln(out, c.diskStates(node, resource, number))
	case "detach":
		err = c.DetachDisk(node, resource, number)
	case "outdate":
		err = c.Outdate(node, resource, number)
	case "suspend-io", "resume-io":
		err = c.suspendNode(node, resource, command == "suspend-io")
	}
	return report(err, argument, diag)
}

func (c *Cluster) findMinor(node, argument string) (resource string, number int, ok bool) {
	minor, err := strconv.Atoi(strings.TrimPrefix(argument, "minor-"))
	if err != nil {
		return "", 0, false
	}
	for _, s := range c.states(node, "") {
		for _, v := range s.Volumes {
			if v.Minor == minor {
				return s.Resource, v.Number, true
			}
		}
	}
	return "", 0, false
}

// diskStates prints the own disk and the peers', later peers first.
func (c *Cluster) diskStates(node, resource string, number int) string {
	s, err := c.State(node, resource)
	if err != nil {
		return string(DUnknown)
	}
	var list []string
	for _, v := range s.Volumes {
		if v.Number == number {
			list = append(list, string(v.Disk))
		}
	}
	for i := len(s.Connections) - 1; i >= 0; i-- {
		for _, p := range s.Connections[i].Volumes {
			if p.Number == number {
				list = append(list, string(p.Disk))
			}
		}
	}
	return strings.Join(list, "/")
}

// suspendNode suspends or resumes the resource on one node, as drbdsetup does
// for any of its minors.
func (c *Cluster) suspendNode(node, resource string, suspend bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.running(node, resource)
	if err != nil {
		return err
	}
	r.suspendedUser = suspend
	c.settle(r.res)
	return nil
}

// runEvents prints the present state and then every change.
func (c *Cluster) runEvents(ctx context.Context, nodeName, resource string, flags map[string]bool, out io.Writer) int {
	if resource == "all" {
		resource = ""
	}
	s := newStream(eventsOptions{
		resource: resource, statistics: flags["statistics"] || flags["full"], timestamps: flags["timestamps"], full: flags["full"],
	})
	c.mu.Lock()
	n := c.nodes[nodeName]
	if n == nil || !n.up {
		c.mu.Unlock()
		return exitUsage
	}
	names := make([]string, 0, len(c.resources))
	for name := range c.resources {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if r := c.resources[name].replicas[nodeName]; r != nil {
			s.exists(time.Now(), c.addresses(r.res), c.snapshot(r))
		}
	}
	s.finish(time.Now())
	if flags["now"] {
		s.end()
	} else {
		n.streams[s] = struct{}{}
	}
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, s.end)
	defer stop()
	defer func() {
		c.mu.Lock()
		delete(n.streams, s)
		c.mu.Unlock()
	}()
	for {
		lines, ok := s.next()
		if !ok {
			return exitOK
		}
		if _, err := io.WriteString(out, strings.Join(lines, "\n")+"\n"); err != nil {
			return exitOK // the reader has gone
		}
	}
}
