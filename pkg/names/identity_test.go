package names

import (
	"regexp"
	"testing"

	"github.com/google/uuid"
)

// A changed rule would only concern new exports, but a wrong one their every client.
func TestIdentityIsConstantAndInRange(t *testing.T) {
	const known = "52111efd-bf7e-4478-a70f-e4a8bf6bfc64"
	if id, fsid := ExportID(known), FSID(known); id != 11770 || fsid != "69620941.90606583" {
		t.Errorf("export id %d, fsid %s: the rule has changed", id, fsid)
	}
	pattern := regexp.MustCompile(`^[1-9][0-9]*\.[1-9][0-9]*$`)
	seen := map[string]bool{}
	for range 1000 {
		id := uuid.NewString()
		if n := ExportID(id); n < 1 || n > 65535 {
			t.Errorf("export id %d of %s", n, id)
		}
		fsid := FSID(id)
		if !pattern.MatchString(fsid) || seen[fsid] {
			t.Errorf("fsid %s of %s", fsid, id)
		}
		seen[fsid] = true
	}
}
