// Package bench holds what the laboratory's measurements have in common: how values
// are summed up, and how results are written.
package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// Percentiles describe the values of several runs, in seconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	Max float64 `json:"max"`
}

// PercentilesOf sums values up; of none they are 0.
func PercentilesOf(values []float64) Percentiles {
	return Percentiles{P50: Round(Percentile(values, 50)), P95: Round(Percentile(values, 95)), Max: Round(Percentile(values, 100))}
}

// Percentile returns the smallest value that at least so many percent of the
// values do not exceed (nearest rank): one that was measured, never one between.
// Of no values it is 0.
func Percentile(values []float64, percent float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(percent / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// Round keeps milliseconds: there is no more in what was measured.
func Round(seconds float64) float64 { return math.Round(seconds*1000) / 1000 }

// WriteJSON replaces a file of results at once: whoever reads it finds the old
// content or the new one. It makes the folder.
func WriteJSON(path string, results any) error {
	content, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return fmt.Errorf("render the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of the results: %w", err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("replace the results: %w", err)
	}
	return nil
}
