package linstor_test

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/LINBIT/golinstor/client"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

// TestReplayOfDriver sends what linstor-csi v1.12.0 sent when it created,
// published, grew, copied and deleted volumes, and demands the same answers.
// (v1.12.0 itself cannot be built here; package csitest runs v1.11.2.)
func TestReplayOfDriver(t *testing.T) {
	w := newWorld(t)
	file, err := os.Open("testdata/linstor-csi-1.12.0.txt")
	w.ok(err)
	defer file.Close()
	request := regexp.MustCompile(`^(\w+) (\S+) ?(.*?) ?-> (\d+)(?: (\d+))?$`)
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "! "):
			w.besides(strings.Fields(line)[1:])
			continue
		}
		m := request.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %d is no request: %s", number, line)
		}
		if strings.Contains(m[2], "/clone/") && m[4] == "200" {
			w.cloneIs("pvc-a", "pvc-c", "COMPLETE")
		}
		status, replies, text := w.call(m[1], m[2], m[3])
		if status == 201 && m[4] == "200" {
			status = 200 // the trace's server did not tell created from ok everywhere
		}
		if fmt.Sprint(status) != m[4] && !answersDifferently(m[1], m[2], status) {
			t.Fatalf("line %d: %s\ngot %d %s", number, line, status, text)
		}
		if m[5] != "" && (len(replies) == 0 || fmt.Sprint(replies[0].RetCode&0x7fff) != m[5]) {
			t.Fatalf("line %d: %s\ngot %s", number, line, text)
		}
	}
	w.ok(lines.Err())

	// What is left is what the trace left.
	var left []string
	for _, d := range w.State().Definitions {
		var sizes []string
		for _, v := range d.Volumes {
			sizes = append(sizes, fmt.Sprintf("%d=%d", v.Number, v.SizeKiB))
		}
		left = append(left, d.Name+" "+strings.Join(sizes, ","))
	}
	w.expect("left", strings.Join(left, "; "), "pvc-q 0=1048576,1=65536; pvc-r 0=3145728,1=65536; pvc-r2 0=5242880,1=65536")
}

// answersDifferently allows 404 for a key-value store that nobody has written:
// the trace's server made up an empty one.
func answersDifferently(method, path string, status int) bool {
	return method == "GET" && strings.HasPrefix(path, "/v1/key-value-store/") && status == 404
}

// besides does what the trace did without the driver.
func (w *world) besides(words []string) {
	w.t.Helper()
	switch node, name := words[1], words[2]; words[0] {
	case "primary":
		w.use(node, name)
	case "secondary":
		w.release(node, name)
	case "diskless":
		w.ok(w.Resources.MakeAvailable(w.t.Context(), name, node, client.ResourceMakeAvailable{}))
		if s, err := w.Replication.State(node, name); err != nil || s.Volumes[0].Disk != drbd.Diskless {
			w.t.Fatalf("got %+v, %v", s, err)
		}
	default:
		w.t.Fatalf("unknown word %q", words[0])
	}
}
