package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/linbit/linstor-rwx/ci/lab/cluster"
	"github.com/linbit/linstor-rwx/ci/lab/linstor/control"
)

// Storage returns the control API of the stand-ins for LINSTOR and DRBD: faults
// that concern storage only, and questions. Faults of whole nodes and of
// networks belong to Node, which tells the stand-ins by itself.
func (l *Lab) Storage() *control.Client {
	dial := cluster.Dialer(l.cluster.Config().Name)
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	return control.NewClient(ControlAddress, &http.Client{Transport: transport})
}

func (l *Lab) hasStorage() bool { return len(l.cluster.Config().StorageProgram) > 0 }

// connectDRBD connects a node's DRBD to its peers or cuts it off. The stand-in
// knows the whole partition only, so the nodes that are cut off are kept in a
// file: several test programs may break one laboratory after another.
func (l *Lab) connectDRBD(ctx context.Context, node string, connected bool) error {
	cut, err := l.cutNodes()
	if err != nil {
		return err
	}
	cut = slices.DeleteFunc(cut, func(name string) bool { return name == node })
	if !connected {
		cut = append(cut, node)
	}
	if err := l.partition(ctx, cut); err != nil {
		return fmt.Errorf("switch DRBD's network of %s: %w", node, err)
	}
	content, err := json.Marshal(cut)
	if err != nil {
		return err
	}
	return os.WriteFile(l.cutFile(), content, 0o644)
}

func (l *Lab) partition(ctx context.Context, cut []string) error {
	if len(cut) == 0 {
		return l.Storage().Heal(ctx)
	}
	// A node in no set is alone.
	var rest []string
	for _, node := range l.cluster.Config().Nodes {
		if !slices.Contains(cut, node.Name) {
			rest = append(rest, node.Name)
		}
	}
	return l.Storage().Partition(ctx, rest)
}

func (l *Lab) cutNodes() ([]string, error) {
	content, err := os.ReadFile(l.cutFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which nodes are cut off: %w", err)
	}
	var nodes []string
	if err := json.Unmarshal(content, &nodes); err != nil {
		return nil, fmt.Errorf("read which nodes are cut off: %w", err)
	}
	return nodes, nil
}

func (l *Lab) cutFile() string {
	return filepath.Join(l.cluster.Config().Directory, "drbd-cut.json")
}

// storageLeaks lists what LINSTOR still holds.
func (l *Lab) storageLeaks(ctx context.Context) ([]string, error) {
	state, err := l.Storage().State(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask LINSTOR what it holds: %w", err)
	}
	var leaks []string
	for _, definition := range state.Definitions {
		leaks = append(leaks, "LINSTOR resource definition "+definition.Name)
	}
	for _, snapshot := range state.Snapshots {
		leaks = append(leaks, fmt.Sprintf("LINSTOR snapshot %s of %s", snapshot.Name, snapshot.Resource))
	}
	return leaks, nil
}
