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

func (l *legacyTables) apply(ctx context.Context, plans []plan) error {
	for _, p := range plans {
		if err := l.replace(ctx, p.version, legacyRules(p, legacyPrefix), legacyPrefix); err != nil {
			return err
		}
	}
	return nil
}

func (l *legacyTables) remove(ctx context.Context) error {
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

// replace puts the wanted tables in place of what chains with this prefix hold.
func (l *legacyTables) replace(ctx context.Context, version ipVersion, wanted []legacyTable, prefix string) error {
	text, err := l.run(ctx, program(version, "save"), nil)
	if err != nil {
		return fmt.Errorf("read the rules for %s: %w", version, err)
	}
	change := legacyChange(parseLegacy(text, prefix), wanted)
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
