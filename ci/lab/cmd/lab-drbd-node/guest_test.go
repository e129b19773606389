//go:build uml

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/ci/lab/drbd"
)

// This test proves the whole path on a real kernel: two user-mode-linux guests
// with lab-drbd-node, their nbd devices and real filesystems. It needs root,
// user-mode-linux, busybox and a C compiler:
//
//	go test -tags uml ./cmd/lab-drbd-node
//
// It puts itself into its own network namespace.
func TestMain(m *testing.M) {
	if os.Getenv("LAB_GUEST_TEST") == "" {
		command := exec.Command("unshare", append([]string{"--net", "--", os.Args[0]}, os.Args[1:]...)...)
		command.Env = append(os.Environ(), "LAB_GUEST_TEST=1")
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		if err := command.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// guestInit is PID 1 of a guest whose root is the host's, read-only. A CGI
// script runs what the test sends.
const guestInit = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /mnt; mkdir -p /mnt/www/cgi-bin /mnt/data
cat >/mnt/www/cgi-bin/sh <<'END'
#!/bin/sh
echo "Content-Type: text/plain"; echo
head -c "$CONTENT_LENGTH" >/mnt/script.$$
sh /mnt/script.$$ 2>&1
echo "exit $?"
END
chmod 755 /mnt/www/cgi-bin/sh
for word in $(cat /proc/cmdline); do case $word in node=*|address=*|programs=*) eval "export $word";; esac; done
export PATH=$programs:$PATH
ip link set lo up; ip addr add $address/24 dev vec0; ip link set vec0 up
insmod /usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko nbds_max=0 max_part=0
busybox httpd -p 7000 -h /mnt/www
exec lab-drbd-node --node=$node --listen=$address:7001 -v=2
`

// guests is the laboratory of this test.
type guests struct {
	*drbd.Cluster
	t        *testing.T
	programs string
	running  map[string]*exec.Cmd
	blocks   context.CancelFunc
	options  drbd.ResourceOptions
}

// someGuests is a driver that leaves out the tiebreaker, which has no guest.
type someGuests struct{ *drbd.AgentDriver }

func (s someGuests) Attach(ctx context.Context, node string, device drbd.Device) error {
	if node == "n3" {
		return nil
	}
	return s.AgentDriver.Attach(ctx, node, device)
}

func (s someGuests) Openers(ctx context.Context, node string, device drbd.Device) ([]drbd.Opener, error) {
	if node == "n3" {
		return nil, nil
	}
	return s.AgentDriver.Openers(ctx, node, device)
}

func (s someGuests) Flush(ctx context.Context, node string, device drbd.Device) error {
	if node == "n3" {
		return nil
	}
	return s.AgentDriver.Flush(ctx, node, device)
}

func (s someGuests) Resize(ctx context.Context, node string, device drbd.Device) error {
	if node == "n3" {
		return nil
	}
	return s.AgentDriver.Resize(ctx, node, device)
}

func (g *guests) command(name string, args ...string) {
	g.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		g.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func newGuests(t *testing.T) *guests {
	g := &guests{t: t, programs: t.TempDir(), running: map[string]*exec.Cmd{}, options: drbd.ResourceOptions{Quorum: drbd.QuorumMajority}}
	g.command("ip", "link", "set", "lo", "up")
	g.command("ip", "link", "add", "br0", "type", "bridge")
	g.command("ip", "addr", "add", "10.88.0.1/24", "dev", "br0")
	g.command("ip", "link", "set", "br0", "up")
	t.Cleanup(func() {
		g.command("ip", "link", "del", "br0")
		g.blocks()
	})
	t.Setenv("CGO_ENABLED", "0")
	g.command("go", "build", "-o", g.programs+"/", ".", "../drbdsetup")
	g.command("gcc", "-O2", "-shared", "-fPIC", "-o", g.programs+"/shim.so", "../../cluster/umlshim/umlshim.c", "-ldl")
	if err := os.WriteFile(g.programs+"/init", []byte(guestInit), 0o755); err != nil {
		t.Fatal(err)
	}
	for directory := g.programs; directory != "/"; directory = filepath.Dir(directory) {
		_ = os.Chmod(directory, 0o755)
		if directory == os.TempDir() {
			break
		}
	}
	g.Cluster = drbd.New(drbd.Options{Driver: someGuests{drbd.NewAgentDriver()}, Violation: func(text string) { t.Errorf("violation: %s", text) }})
	t.Cleanup(g.Close)
	listener, err := net.Listen("tcp", "10.88.0.1:3371")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() { _ = http.Serve(listener, g.ControlHandler()) }()
	g.serveBlocks()
	for _, name := range []string{"n1", "n2", "n3"} {
		g.AddNode(name)
	}
	t.Cleanup(func() {
		for name := range g.running {
			g.kill(name)
		}
	})
	return g
}

// serveBlocks starts the block exports, again after blocks() ended them.
func (g *guests) serveBlocks() {
	var ctx context.Context
	ctx, g.blocks = context.WithCancel(context.Background())
	var listener net.Listener
	var err error
	for range 50 {
		if listener, err = net.Listen("tcp", "10.88.0.1:3372"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	go func() { _ = g.ServeBlocks(ctx, listener) }()
}

func address(node string) string { return "10.88.0.1" + node[1:] }

// boot starts a guest.
func (g *guests) boot(node string) {
	g.t.Helper()
	tap := "tap-" + node
	if exec.Command("ip", "link", "show", tap).Run() != nil {
		g.command("ip", "tuntap", "add", tap, "mode", "tap")
	}
	g.command("ip", "link", "set", tap, "master", "br0")
	g.command("ip", "link", "set", tap, "up")
	log, err := os.Create(filepath.Join(g.programs, node+".log"))
	if err != nil {
		g.t.Fatal(err)
	}
	guest := exec.Command("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "linux.uml",
		"mem=160M", "umid=guesttest-"+node, "uml_dir="+g.programs, "root=/dev/root", "rootfstype=hostfs", "ro", "init="+g.programs+"/init",
		"vec0:transport=tap,ifname="+tap+",depth=64,gro=1", "con=null", "con0=fd:0,fd:1", "random.trust_cpu=on", "quiet",
		"node="+node, "address="+address(node), "programs="+g.programs)
	guest.Env = []string{"PATH=/usr/bin:/bin", "LD_PRELOAD=" + g.programs + "/shim.so", "TMPDIR=/dev/shm", "HOME=" + g.programs}
	guest.Stdout, guest.Stderr = log, log
	guest.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := guest.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.running[node] = guest
	g.eventually(node+" answers", 60*time.Second, func() bool {
		out, err := g.try(node, "ls /dev/.lab-drbd.sock && drbdsetup status")
		return err == nil && strings.HasSuffix(out, "exit 0\n")
	})
}

func (g *guests) kill(node string) {
	_ = g.running[node].Process.Kill()
	_ = g.running[node].Wait()
	delete(g.running, node)
}

func (g *guests) try(node, script string) (string, error) {
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Post("http://"+address(node)+":7000/cgi-bin/sh", "text/plain", strings.NewReader(script))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	out, err := io.ReadAll(response.Body)
	return string(out), err
}

// sh runs a script in a guest; it must print what is wanted and exit with the
// code.
func (g *guests) sh(node, script string, code int, want ...string) string {
	g.t.Helper()
	start := time.Now()
	out, err := g.try(node, script)
	if err != nil {
		state, _ := g.try(node, "ps ax -o pid,stat,wchan:30,args | tail -30; dmesg | tail -30")
		g.t.Fatalf("%s$ %s: %v\n%s", node, script, err, state)
	}
	g.t.Logf("%s$ %s   (%v)\n%s", node, script, time.Since(start).Round(time.Millisecond), out)
	if !strings.HasSuffix(out, fmt.Sprintf("exit %d\n", code)) {
		g.t.Errorf("%s$ %s: want exit code %d", node, script, code)
	}
	for _, text := range want {
		if !strings.Contains(out, text) {
			g.t.Errorf("%s$ %s: output lacks %q", node, script, text)
		}
	}
	return out
}

func (g *guests) eventually(what string, limit time.Duration, condition func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if condition() {
			return
		}
	}
	for node := range g.running {
		log, _ := os.ReadFile(filepath.Join(g.programs, node+".log"))
		g.t.Logf("%s:\n%s", node, log)
	}
	g.t.Fatalf("in vain: %s", what)
}

func (g *guests) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *guests) configure(file string, nodes ...string) {
	g.t.Helper()
	for _, node := range nodes {
		g.must(g.Configure(g.t.Context(), node, drbd.ResourceConfig{
			Name: "pvc-a", NodeID: -1, Options: g.options,
			Volumes: []drbd.VolumeConfig{{Number: 0, Minor: 1000, SizeBytes: 64 << 20, BackingFile: file, Diskless: node == "n3"}},
		}))
	}
}

func (g *guests) upToDate(node string) bool {
	s, err := g.State(node, "pvc-a")
	return err == nil && s.Volumes[0].Disk == drbd.UpToDate && s.Volumes[0].Quorum && s.Connections[0].State == "Connected"
}

func TestRealKernelSeesWhatItsRoleAllows(t *testing.T) {
	g := newGuests(t)
	file := filepath.Join(t.TempDir(), "pvc-a_00000")
	g.must(os.WriteFile(file, nil, 0o600))
	g.boot("n1")
	g.boot("n2")
	g.must(g.Register(t.Context(), "n3", "none"))
	g.configure(file, "n1", "n2", "n3")

	// A Primary formats, mounts and writes; nobody else reads.
	g.sh("n1", "stat -c %t:%T /dev/drbd1000; drbdsetup primary pvc-a", 0, "2b:0")
	g.sh("n1", "mkfs.ext4 -q /dev/drbd1000 && mount /dev/drbd1000 /mnt/data && echo one >/mnt/data/file && sync", 0)
	g.sh("n2", "dd if=/dev/drbd1000 of=/dev/null bs=4k count=1", 1, "Input/output error")
	g.sh("n2", "drbdsetup primary pvc-a", 11, "pvc-a: State change failed: (-1) Multiple primaries not allowed by config")
	g.sh("n1", "drbdsetup secondary pvc-a", 11, "(-12) Device is held open by someone", "drbd1000 opened by mount (pid ")

	// Suspension by a snapshot hangs writers, and lets them go on.
	g.must(g.SuspendIO(t.Context(), "pvc-a"))
	written := make(chan string, 1)
	go func() {
		out, _ := g.try("n1", "dd if=/dev/zero of=/mnt/data/direct bs=4k count=1 oflag=direct conv=fsync")
		written <- out
	}()
	select {
	case out := <-written:
		t.Errorf("write did not wait for the end of suspension: %s", out)
	case <-time.After(2 * time.Second):
	}
	g.must(g.ResumeIO("pvc-a"))
	if out := <-written; !strings.HasSuffix(out, "exit 0\n") {
		t.Errorf("suspended write failed: %s", out)
	}

	// The block connection may break: nothing fails.
	g.blocks()
	g.serveBlocks()
	g.sh("n1", "echo two >>/mnt/data/file && sync -f /mnt/data/file", 0)

	// The device grows on all nodes while it is written to, and then its filesystem.
	// No request fails, and all of the new part can be written.
	loaded := make(chan string, 1)
	go func() {
		out, _ := g.try("n1", "for i in $(seq 40); do dd if=/dev/zero of=/mnt/data/load bs=64k count=4 oflag=direct conv=fsync 2>&1 || exit 3; sleep 0.1; done")
		loaded <- out
	}()
	time.Sleep(time.Second)
	g.must(g.Resize(t.Context(), "pvc-a", 0, 128<<20))
	g.sh("n1", "blockdev --getsize64 /dev/drbd1000; drbdsetup status --json", 0, "134217728", `"size": 131072`)
	g.sh("n2", "cat /sys/block/nbd0/size; drbdsetup status --json", 0, "262144", `"size": 131072`)
	g.sh("n1", "resize2fs /dev/drbd1000 && df -m /mnt/data && dd if=/dev/zero of=/mnt/data/new bs=1M count=80 conv=fsync && rm /mnt/data/new", 0, "80+0 records out")
	if out := <-loaded; !strings.HasSuffix(out, "exit 0\n") {
		t.Errorf("a write failed while the device grew: %s", out)
	}

	// Forced demotion: I/O errors for the mounted filesystem, the peer takes
	// over and replays the journal; the flag goes with the last close.
	g.sh("n1", "drbdsetup secondary --force pvc-a && drbdsetup status pvc-a", 0, "pvc-a role:Secondary force-io-failures:yes")
	g.sh("n1", "echo lost >/mnt/data/lost; sync -f /mnt/data/file", 1, "Input/output error")
	g.sh("n1", "drbdsetup primary pvc-a", 11, "(-12) Device is held open by someone")
	g.sh("n2", "drbdsetup primary pvc-a && mount /dev/drbd1000 /mnt/data && cat /mnt/data/file && ls /mnt/data/lost; echo three >>/mnt/data/file; sync", 0, "one\ntwo\n", "No such file")
	g.sh("n1", "umount -l /mnt/data; sleep 1; drbdsetup status pvc-a", 0)
	g.eventually("force-io-failures ends", 10*time.Second, func() bool {
		s, err := g.State("n1", "pvc-a")
		return err == nil && !s.ForceIOFailures
	})

	// Back on n1: nothing stale is read.
	g.sh("n2", "umount /mnt/data && drbdsetup secondary pvc-a", 0)
	g.sh("n1", "drbdsetup primary pvc-a && mount /dev/drbd1000 /mnt/data && cat /mnt/data/file", 0, "one\ntwo\nthree\n")

	// n1 loses its power: one call on n2, about a second.
	g.sh("n1", "echo four >>/mnt/data/file && sync", 0)
	g.kill("n1")
	g.PowerOff("n1")
	start := time.Now()
	g.sh("n2", "drbdsetup primary pvc-a && mount /dev/drbd1000 /mnt/data && cat /mnt/data/file && dmesg | grep -i recover", 0, "four", "recovery complete")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("take-over took %v", took)
	}
	g.PowerOn("n1")
	g.boot("n1")
	g.eventually("n1 resyncs", 20*time.Second, func() bool { return g.upToDate("n1") })

	// The Primary n2 is cut off: its writes hang, then fail.
	go func() {
		time.Sleep(time.Second)
		g.Partition([]string{"n1", "n3"})
	}()
	g.sh("n2", "for i in $(seq 1000); do dd if=/dev/zero of=/mnt/data/loop bs=4k count=1 oflag=direct conv=fsync 2>&1 || break; sleep 0.1; done | tail -5", 0, "Input/output error")
	g.sh("n1", "drbdsetup primary pvc-a && mount /dev/drbd1000 /mnt/data && cat /mnt/data/file", 0, "four")
	g.sh("n2", "drbdsetup primary pvc-a; drbdsetup status pvc-a; drbdsetup secondary --force pvc-a; umount /mnt/data; sleep 1; drbdsetup primary pvc-a", 11, "quorum:no", "(-25) No quorum", "1 of 2 nodes visible, need 2 for quorum")
	g.Heal()
	g.eventually("n2 is back", 30*time.Second, func() bool { return g.upToDate("n2") })
	g.sh("n2", "timeout 3 drbdsetup events2 pvc-a; true", 0, "exists resource name:pvc-a role:Secondary suspended:no force-io-failures:no may_promote:no", "exists -")
	g.sh("n1", "umount /mnt/data && drbdsetup secondary pvc-a && drbdsetup status --json", 0)
	for _, node := range []string{"n1", "n2"} {
		g.must(g.Deconfigure(t.Context(), node, "pvc-a"))
		g.sh(node, "ls /dev/drbd1000 /sys/block/nbd0/pid; drbdsetup status", 0, "No such file", "No currently configured DRBD found")
	}
}
