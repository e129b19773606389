package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/bench"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// size is a change that df showed: asked first then, another size asked last before.
func size(bytes int64, asked, before float64) saw {
	return saw{Event: "size", Bytes: bytes, Asked: at(asked), Before: at(before)}
}

func TestAClaimAheadOfDfIsALie(t *testing.T) {
	first := size(950, -9, -9)
	growths := []growth{
		{asked: at(0), shown: at(2), from: 1000, to: 2000},
		{asked: at(10), shown: at(12), from: 2000, to: 3000},
	}
	second := size(2850, 11, 10.98)
	for name, test := range map[string]struct {
		sizes []saw
		want  []string
	}{
		"df was first":                {[]saw{first, size(1900, 1.9, 1.88), second}, nil},
		"asked before, answered late": {[]saw{first, size(1900, 2.1, 1.99), second}, nil},
		"grown in steps":              {[]saw{first, size(1500, 1.5, 1.4), size(1900, 1.9, 1.88), second}, nil},
		"the claim was first":         {[]saw{first, size(1900, 2.3, 2.25), second}, []string{"growth 1: df was still behind 250ms"}},
		"the last step was late":      {[]saw{first, size(1500, 1.5, 1.4), size(1900, 2.5, 2.4), second}, []string{"growth 1: df was still behind 400ms"}},
		"it never grew":               {[]saw{first, second}, []string{"growth 1: df went from 950 to 950"}},
		"it grew a little":            {[]saw{first, size(1900, 1.9, 1.88), size(2100, 11, 10.9)}, []string{"growth 2: df went from 1900 to 2100"}},
		"nothing was seen":            {nil, []string{"growth 1", "growth 2"}},
		"with the next growth only":   {[]saw{first, size(1900, 10.5, 10.4), second}, []string{"growth 1: df went from 950 to 950"}},
	} {
		got := lies(growths, test.sizes, at(20))
		if len(got) != len(test.want) {
			t.Errorf("%s: got %q", name, got)
			continue
		}
		for i, want := range test.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: got %q, want %q", name, got[i], want)
			}
		}
	}
}

func TestOutputOfTheWorkloadIsUnderstood(t *testing.T) {
	output, err := parse([]byte(`{"event":"writing","file":"/data/a","first":0,"time":"2026-11-21T12:00:00Z"}
{"event":"failed","error":"write line 3: no space left on device","errno":"ENOSPC","time":"2026-11-21T12:00:00Z"}
{"event":"size","bytes":1048576,"asked":"2026-11-21T12:00:01.5Z","before":"0001-01-01T00:00:00Z","time":"2026-11-21T12:00:02Z"}
{"event":"done","steps":7,"longest":0.75,"seconds":9,"time":"2026-11-21T12:00:09Z"}
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := refused(output); len(got) != 1 || got[0] != "write line 3: no space left on device" {
		t.Errorf("refused: %q", got)
	}
	if stall, steps, ended := longest(output); stall != 0.75 || steps != 7 || !ended {
		t.Errorf("longest step %g of %d, ended %v", stall, steps, ended)
	}
	if got := sizeAt(output, at(2)); got.Bytes != 1<<20 || !got.Asked.Equal(at(1.5)) {
		t.Errorf("size %+v", got)
	}
	if _, _, ended := longest(output[:3]); ended {
		t.Error("work that goes on counts as ended")
	}
	if _, _, ended := longest([]saw{{Event: "error"}}); !ended {
		t.Error("work that failed is waited for")
	}
	if _, err := parse([]byte("panic: oops\n")); err == nil {
		t.Error("what is no event was taken")
	}
}

// The file's form is what others read.
func TestResultIsWrittenInTheAgreedForm(t *testing.T) {
	growths := []growth{{asked: at(0), shown: at(1.25)}, {asked: at(2), shown: at(2.5)}, {asked: at(3), shown: at(5)}}
	path := filepath.Join(t.TempDir(), "resize.json")
	result := Result{Runs: 3, Seconds: bench.PercentilesOf(seconds(growths)), Lies: 1, IOErrors: 2, WriterStallSecondsMax: 0.5}
	if err := bench.WriteJSON(path, result); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, content); err != nil {
		t.Fatal(err)
	}
	want := `{"runs":3,"seconds":{"p50":1.25,"p95":2,"max":2},"lies":1,"ioErrors":2,"writerStallSecondsMax":0.5}`
	if got := strings.TrimSpace(compact.String()); got != want {
		t.Errorf("the file holds\n%s\nwant\n%s", got, want)
	}
}
