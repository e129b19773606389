package supervisor

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/drbd"
	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// mustServeUntouched fails unless the node serves, with a server that got no signal.
func mustServeUntouched(t *testing.T, w *world, node string) {
	t.Helper()
	mustServe(t, w, node)
	if m := w.machine(node); len(m.signals) != 0 {
		t.Errorf("the server was touched: %v", m.journal)
	}
}

// mustServe fails the test unless the export is served, completely, by node.
func mustServe(t *testing.T, w *world, node string) {
	t.Helper()
	m := w.machine(node)
	if got := w.serving(); !slices.Equal(got, []string{node}) {
		t.Fatalf("served by %v, want %s; it did: %v; events: %v", got, node, m.journal, m.events())
	}
	if !m.primary || len(m.mounts) != 2 {
		t.Errorf("served without Primary (%v) or without both mounts (%v)", m.primary, m.mounts)
	}
	status := w.export().Status
	if status.Phase != v1alpha1.PhaseServing || status.Node != node || !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("status is %s on %q: %s", status.Phase, status.Node, status.Message)
	}
	if want := fmt.Sprintf("%s:%d", m.ip, 20497); w.endpoint() != want || status.Endpoint != want {
		t.Errorf("clients are sent to %q, status says %q, want %q", w.endpoint(), status.Endpoint, want)
	}
	if status.Size == nil || status.Size.Value() != w.disks[1000].fsBytes {
		t.Errorf("status.size is %v, the filesystem has %d", status.Size, w.disks[1000].fsBytes)
	}
}

// mustBeFree fails the test if node still holds anything of the export. Its
// clients may be kept waiting for another server.
func mustBeFree(t *testing.T, w *world, node string) {
	t.Helper()
	m := w.machine(node)
	if p := m.processes[testExport]; p != nil && p.Running {
		t.Errorf("ganesha still runs on %s", node)
	}
	if m.primary || len(m.mounts) > 0 {
		t.Errorf("node %s is still Primary (%v) or has mounts %v; it did: %v", node, m.primary, m.mounts, m.journal)
	}
	rule := m.rule()
	if rule != nil && !rule.Frozen {
		t.Errorf("clients are still let in on %s", node)
	}
	if rule == nil && strings.HasPrefix(w.endpoint(), m.ip+":") {
		t.Errorf("clients are still sent to %s", node)
	}
}

func TestAttachedExportIsServed(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	m.settle()
	mustServe(t, w, "n1")

	if w.disks[1000].formatted != 0 || w.disks[1001].formatted != 1 {
		t.Errorf("formatted: data %d times, recovery %d times; want 0 and 1", w.disks[1000].formatted, w.disks[1001].formatted)
	}
	if stamp := w.disks[1001].stamp; stamp == nil || stamp.ResourceDefinitionUUID != testUUID || stamp.ExportID != 7 {
		t.Errorf("recovery volume is stamped %+v", stamp)
	}
	if w.disks[1000].rootApplied != 1 {
		t.Errorf("owner and mode of the root directory were applied %d times, want once", w.disks[1000].rootApplied)
	}
	status := w.export().Status
	if status.BootEpoch != 1 || status.Since == nil || status.ConfigHash == "" || status.ObservedGeneration != 1 {
		t.Errorf("status is incomplete: %+v", status)
	}
	for _, condition := range []string{v1alpha1.ConditionQuorum, v1alpha1.ConditionRecoveryVolume, v1alpha1.ConditionGrown} {
		if !meta.IsStatusConditionTrue(status.Conditions, condition) {
			t.Errorf("condition %s is not true: %+v", condition, status.Conditions)
		}
	}
	events := m.events()
	if len(events) != 2 || !strings.HasPrefix(events[0], "Normal Serving") || !strings.HasPrefix(events[1], "Normal Serving") {
		t.Errorf("events are %q, want one on the export and one on the claim", events)
	}
}

func TestUnchangedExportIsNotWritten(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	m.settle()
	writes, journal := w.writes, len(m.journal)
	for range 5 {
		m.observe()
		m.settle()
	}
	if w.writes != writes || len(m.journal) != journal {
		t.Errorf("an unchanged export was worked on: %v", m.journal[journal:])
	}
}

func TestNeverFormatsARecoveryVolumeWithData(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	w.disks[1001].fsType = "ext4" // as LINSTOR may have made it
	w.disks[1001].records = []string{"10.0.0.9-(20:0xabc)"}
	w.disks[1001].stamp = &ganesha.Identity{ResourceDefinitionUUID: testUUID, Export: testExport, ExportID: 7}
	w.machine("n1").settle()
	mustServe(t, w, "n1")
	if w.disks[1001].formatted != 0 || w.disks[1001].wiped != 0 || len(w.disks[1001].records) != 1 {
		t.Errorf("records of the export's own clients were lost: %+v", w.disks[1001])
	}
}

func TestNeverFormatsTheDataVolume(t *testing.T) {
	for name, fsType := range map[string]string{"blank": "", "another filesystem": "xfs"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			w.attached[testExport] = true
			w.disks[1000].fsType = fsType
			m := w.machine("n1")
			m.settle()
			if w.disks[1000].formatted != 0 || w.disks[1000].fsType != fsType {
				t.Errorf("the data volume was formatted")
			}
			mustBeFree(t, w, "n1")
			status := w.export().Status
			if status.Phase != v1alpha1.PhaseFailed || !strings.Contains(status.Message, "ext4 is expected") {
				t.Errorf("status is %s: %s", status.Phase, status.Message)
			}
			if events := m.events(); len(events) == 0 || !strings.HasPrefix(events[0], "Warning StartFailed") {
				t.Errorf("events are %q", events)
			}
		})
	}
}

func TestForeignClientRecordsAreWipedAfterRestore(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	w.disks[1000].users = true
	w.disks[1001].fsType = "ext4"
	w.disks[1001].marks[rootMark] = true
	w.disks[1001].records = []string{"10.0.0.9-(20:0xabc)", "10.0.0.8-(20:0xdef)"}
	w.disks[1001].stamp = &ganesha.Identity{ResourceDefinitionUUID: "of-the-source", Export: "pvc-0", ExportID: 3}
	m := w.machine("n1")
	m.settle()
	mustServe(t, w, "n1")
	if w.disks[1001].wiped != 1 || w.disks[1001].stamp.ResourceDefinitionUUID != testUUID {
		t.Errorf("wiped %d times, stamp %+v", w.disks[1001].wiped, w.disks[1001].stamp)
	}
	if w.disks[1000].rootApplied != 0 {
		t.Errorf("the root directory of restored data was changed")
	}
	if wipe, stamp := slices.Index(m.journal, "wipe records"), slices.Index(m.journal, "stamp"); wipe > stamp {
		t.Errorf("stamped before it was wiped: a crash in between would keep foreign records")
	}
}

func TestRootOfAVolumeWithFilesIsLeftAlone(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	w.disks[1000].users = true // it was ReadWriteOnce before: no recovery volume came with it
	w.machine("n1").settle()
	mustServe(t, w, "n1")
	if w.disks[1000].rootApplied != 0 {
		t.Errorf("owner and mode of a user's directory were changed")
	}
}

func TestRootModeKnowsTheSpecialBits(t *testing.T) {
	for text, want := range map[string]fs.FileMode{
		"": 0o777, "0777": 0o777, "755": 0o755, "2775": 0o775 | fs.ModeSetgid,
		"1777": 0o777 | fs.ModeSticky, "4755": 0o755 | fs.ModeSetuid, "07777": 0o777 | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky,
	} {
		if got, err := rootMode(text); err != nil || got != want {
			t.Errorf("rootMode(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	if _, err := rootMode("0999"); err == nil {
		t.Errorf("a mode that is not octal was accepted")
	}
}

func TestGaneshaThatDoesNotServeIsNeverPublished(t *testing.T) {
	for name, breakIt := range map[string]func(*machine){
		"it ends at once":        func(m *machine) { m.cannotStart = true },
		"it listens but is hung": func(m *machine) { m.hung = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "n1")
			w.attached[testExport] = true
			m := w.machine("n1")
			breakIt(m)
			m.settle()
			if w.endpoint() != "" {
				t.Errorf("clients are sent to a server that does not answer")
			}
			mustBeFree(t, w, "n1") // so that another node may try
			if status := w.export().Status; status.Phase != v1alpha1.PhaseFailed || !strings.Contains(status.Message, "Export root not found") {
				t.Errorf("status is %s: %s; want ganesha's own words", status.Phase, status.Message)
			}
			starts := m.processStarts
			m.settle()
			if m.processStarts != starts {
				t.Errorf("tried again without a pause")
			}
			m.cannotStart, m.hung = false, false
			w.advance(failedStartMaxDelay)
			m.settle()
			mustServe(t, w, "n1")
		})
	}
}

func TestExportIsServedWithoutTheAPIServer(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	m.apiDown = true
	m.settle()
	if !slices.Equal(w.serving(), []string{"n1"}) {
		t.Fatalf("not served: %v", m.journal)
	}
	pid := m.processes[testExport].PID
	m.apiDown = false
	m.settle()
	mustServe(t, w, "n1")
	if m.processes[testExport].PID != pid {
		t.Errorf("ganesha was restarted when the API server came back")
	}
}

func TestLargerDeviceIsGrownAtStart(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	w.disks[1000].bytes = 2 * gib // restored into a larger claim
	w.machine("n1").settle()
	mustServe(t, w, "n1")
	if w.disks[1000].fsBytes != 2*gib {
		t.Errorf("the filesystem has %d bytes", w.disks[1000].fsBytes)
	}
}

func TestFailedGrowthDoesNotKeepClientsFromTheirData(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	w.disks[1000].bytes = 2 * gib
	m := w.machine("n1")
	m.growFails = true
	m.settle()
	mustServe(t, w, "n1")
	grown := meta.FindStatusCondition(w.export().Status.Conditions, v1alpha1.ConditionGrown)
	if grown == nil || grown.Status != "False" || !strings.Contains(grown.Message, "permission denied") {
		t.Errorf("condition Grown is %+v", grown)
	}
	m.growFails = false
	w.advance(growRetry)
	m.settle()
	mustServe(t, w, "n1")
	if w.disks[1000].fsBytes != 2*gib || !meta.IsStatusConditionTrue(w.export().Status.Conditions, v1alpha1.ConditionGrown) {
		t.Errorf("the growth was not tried again: %+v", w.export().Status)
	}
}

func TestInconsistentReplicaDoesNotServe(t *testing.T) {
	for _, state := range []string{drbd.DiskInconsistent, drbd.DiskOutdated, drbd.DiskDiskless, drbd.DiskConsistent} {
		t.Run(state, func(t *testing.T) {
			w := newWorld(t, "n1", "n2")
			w.attached[testExport] = true
			w.machine("n1").disk = state
			w.machine("n1").settle()
			w.advance(complainAfter)
			w.machine("n1").settle()
			if w.machine("n1").promotions != 0 {
				t.Errorf("a node whose replica is %s was promoted", state)
			}
			w.machine("n2").settle()
			mustServe(t, w, "n2")
		})
	}
}

func TestStartConvergesAfterACrashAtEachStep(t *testing.T) {
	for _, kind := range []string{"supervisor restarts", "pod restarts"} {
		for _, after := range []bool{false, true} {
			for step := 1; ; step++ {
				if step > 60 {
					t.Fatal("a start has no end")
				}
				w := newWorld(t, "n1")
				w.attached[testExport] = true
				w.disks[1000].bytes = 2 * gib
				m := w.machine("n1")
				m.crashAt, m.crashAfter = step, after
				m.settle()
				if m.ctx.Err() == nil {
					break // the whole start passed
				}
				t.Run(fmt.Sprintf("%s/%d after=%v %s", kind, step, after, m.journal[len(m.journal)-1]), func(t *testing.T) {
					w.t = t
					if kind == "pod restarts" {
						m.restartPod()
					} else {
						m.restartSupervisor()
					}
					m.settle()
					mustServe(t, w, "n1")
					if w.disks[1000].formatted != 0 || w.disks[1001].formatted != 1 {
						t.Errorf("formatted: data %d times, recovery %d times", w.disks[1000].formatted, w.disks[1001].formatted)
					}
					if w.disks[1000].fsBytes != 2*gib {
						t.Errorf("the filesystem was not grown")
					}
				})
			}
		}
	}
}

func TestPromotionAloneProvesNothing(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	m.losesQuorum = true
	m.settle()
	mustBeFree(t, w, "n1")
	if m.did("mount data")+m.did("mount recovery")+m.did("format /dev/drbd1001") != 0 {
		t.Errorf("used a volume without quorum: %v", m.journal)
	}
	if status := w.export().Status; !meta.IsStatusConditionFalse(status.Conditions, v1alpha1.ConditionQuorum) {
		t.Errorf("condition Quorum: %+v", status.Conditions)
	}
}

func TestPortIsFreeAndStays(t *testing.T) {
	w := newWorld(t, "n1")
	m := w.machine("n1")
	f := Facts{Name: testExport, Export: newExport()}
	first, err := m.agent.port(&starting{Facts: f, export: f.Export})
	if err != nil || first != 20497 {
		t.Fatalf("port %d, %v; want the place of export id 7", first, err)
	}
	other := Facts{Name: "pvc-2", Export: newExport()} // the same id modulo the range
	second, err := m.agent.port(&starting{Facts: other, export: other.Export})
	if err != nil || second == first {
		t.Errorf("two exports share port %d (%v)", second, err)
	}
	if again, _ := m.agent.port(&starting{Facts: f, export: f.Export}); again != first {
		t.Errorf("the port changed from %d to %d", first, again)
	}
}

// kube-proxy needs a while to follow, which passes while the server starts.
func TestServiceLeadsToTheServerBeforeItAnswersAndSaysSo(t *testing.T) {
	w := newWorld(t, "n1")
	w.attached[testExport] = true
	m := w.machine("n1")
	m.cannotStart = true
	awaited := ""
	m.onProbe = func() {
		w.lock.Lock()
		defer w.lock.Unlock()
		if slice := w.slices[testExport]; slice != nil {
			awaited = slice.Annotations[names.AwaitedAnnotation]
		}
	}
	m.settle()
	if awaited != "true" {
		t.Fatalf("while ganesha did not answer the slice said %q", awaited)
	}
	if w.endpoint() != "" || m.rule() != nil {
		t.Errorf("the start failed, and clients are sent to %q, let in by %+v", w.endpoint(), m.rule())
	}
	m.cannotStart = false
	w.advance(failedStartMaxDelay)
	m.settle()
	mustServe(t, w, "n1")
	if text := w.slices[testExport].Annotations[names.AwaitedAnnotation]; text != "" {
		t.Errorf("it serves, and the slice says that it is awaited")
	}
}
