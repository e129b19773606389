package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/utils/exec"
)

// legacyTables writes the rules to the kernel's legacy tables by the programs
// iptables-legacy-save and iptables-legacy-restore, and those of ip6tables. A
// table changes in one step, however many chains are written.
type legacyTables struct {
	programs exec.Interface
	// known are our rules as they were written or read last, per IP version; none if
	// that failed.
	known map[ipVersion]map[string]legacyTable
}

const (
	legacyPrefix    = "LINSTOR-RWX-"
	legacyTryPrefix = legacyPrefix + "TRY-"
)

func (l *legacyTables) name() string { return "iptables-legacy" }

func (l *legacyTables) try(ctx context.Context, version ipVersion) error {
	// Nothing leads to these chains.
	wanted := legacyRules(samplePlan(version), legacyTryPrefix)
	for i := range wanted {
		wanted[i].jumps = nil
	}
	err := l.replace(ctx, version, wanted, legacyTryPrefix)
	// Also what a failure left half done.
	if removed := l.replace(ctx, version, noLegacyRules(), legacyTryPrefix); err == nil {
		err = removed
	}
	return err
}

// apply writes what differs from what is known, without a look at what is there:
// clients may be waiting. If nothing does, it looks.
func (l *legacyTables) apply(ctx context.Context, plans []plan) error {
	changed := false
	for _, p := range plans {
		there, known := l.known[p.version]
		wanted := legacyRules(p, legacyPrefix)
		if !known || legacyChange(there, wanted) == "" {
			continue
		}
		if err := l.learn(p.version, wanted, l.write(ctx, p.version, there, wanted)); err != nil {
			return err
		}
		changed = true
	}
	for _, p := range plans {
		if _, known := l.known[p.version]; known && changed {
			continue
		}
		wanted := legacyRules(p, legacyPrefix)
		if err := l.learn(p.version, wanted, l.replace(ctx, p.version, wanted, legacyPrefix)); err != nil {
			return err
		}
	}
	return nil
}

// learn notes what is there now, unless writing it failed.
func (l *legacyTables) learn(version ipVersion, written []legacyTable, err error) error {
	if err != nil {
		delete(l.known, version)
		return err
	}
	tables := map[string]legacyTable{}
	for _, table := range written {
		tables[table.name] = table
	}
	if l.known == nil {
		l.known = map[ipVersion]map[string]legacyTable{}
	}
	l.known[version] = tables
	return nil
}

func (l *legacyTables) remove(ctx context.Context) error {
	l.known = nil
	for _, version := range ipVersions {
		err := l.replace(ctx, version, noLegacyRules(), legacyPrefix)
		if errors.Is(err, exec.ErrExecutableNotFound) {
			// Then nobody can have written rules by it.
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replace looks what is there and writes what differs.
func (l *legacyTables) replace(ctx context.Context, version ipVersion, wanted []legacyTable, prefix string) error {
	text, err := l.run(ctx, program(version, "save"), nil)
	if err != nil {
		return fmt.Errorf("read the rules for %s: %w", version, err)
	}
	return l.write(ctx, version, parseLegacy(text, prefix), wanted)
}

// write makes what is wanted of what is there.
func (l *legacyTables) write(ctx context.Context, version ipVersion, there map[string]legacyTable, wanted []legacyTable) error {
	change := legacyChange(there, wanted)
	if change == "" {
		return nil
	}
	// --noflush leaves the chains alone that are not in the text. Another program
	// may hold the lock of the tables for a moment.
	if _, err := l.run(ctx, program(version, "restore"), strings.NewReader(change), "--noflush", "--wait", "5"); err != nil {
		return fmt.Errorf("write the rules for %s: %w", version, err)
	}
	return nil
}

func program(version ipVersion, verb string) string {
	if version == 6 {
		return "ip6tables-legacy-" + verb
	}
	return "iptables-legacy-" + verb
}

// run is the one place that runs a program and waits for it.
func (l *legacyTables) run(ctx context.Context, name string, input io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	command := l.programs.CommandContext(ctx, name, args...)
	command.SetEnv([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"})
	command.SetStdin(input)
	command.SetStdout(&stdout)
	command.SetStderr(&stderr)
	err := command.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s did not end in time: %w", name, ctx.Err())
	}
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", name, err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return stdout.String(), nil
}
