//go:build ganesha

package ganeshatest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/linbit/linstor-rwx/pkg/ganesha"
	"github.com/linbit/linstor-rwx/pkg/ganesha/nfs"
)

func TestMeasure(t *testing.T) {
	r := NewRoot(t)
	r.Prepare(t)
	r.MountImage(t, "/srv/data", "ext4", "64M")
	r.MountImage(t, "/srv/recovery", "ext4", "16M", "dirsync", "noatime")
	rec := r.Path + "/srv/recovery"
	t0 := time.Now()
	show := func(what string) {
		out, _ := exec.Command("sh", "-c", "cd "+r.Path+"/srv/recovery; find v4recov -printf '%T+ %p -> %l\n'").CombinedOutput()
		x, e1 := ganesha.Records(rec)
		y, e2 := ganesha.GraceState(rec)
		t.Logf("== %v %s\n%s\n%+v %v %+v %v", time.Since(t0), what, out, x, e1, y, e2)
	}
	config := ganesha.Config{Export: "pvc-1", ExportID: 7, FSID: "1.2", ServerScope: "pvc-1", DataPath: "/srv/data", PseudoPath: "/pvc-1", RecoveryRoot: "/srv/recovery", Port: FreePort(t), Lease: 6 * time.Second, Grace: 30 * time.Second}
	wait := func(s *Server) {
		start := time.Now()
		for {
			ctx, c := context.WithTimeout(t.Context(), time.Second)
			err := ganesha.Probe(ctx, s.Address, "/pvc-1")
			c()
			if err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
			if time.Since(start) > 10*time.Second {
				t.Fatal("no")
			}
		}
		t.Log("probe ok after", time.Since(start))
	}
	s := r.Start(t, config)
	wait(s)
	time.Sleep(1500 * time.Millisecond)
	c1, err := nfs.ConnectAs(t.Context(), s.Address, "client-1")
	must(t, err)
	must(t, c1.ReclaimComplete())
	c2, err := nfs.ConnectAs(t.Context(), s.Address, "client-2/x")
	must(t, err)
	must(t, c2.ReclaimComplete())
	show("two clients")
	p, err := nfs.Connect(t.Context(), s.Address)
	must(t, err)
	s.Kill(t)
	p.Abandon()
	show("killed in the middle of a probe")
	s = r.Start(t, config)
	wait(s)
	show("restarted")
	c1, err = nfs.ConnectAs(t.Context(), s.Address, "client-1")
	must(t, err)
	show("c1 back")
	must(t, c1.ReclaimComplete())
	show("c1 complete")
	t.Log("grace lookup of c1: ")
	t.Log(c1.Lookup("/pvc-1"))
	s.Kill(t)
	show("killed in grace")
	t.Log(ganesha.DropProbeRecords(rec))
	t.Log(ganesha.RemoveOrphans(rec))
	show("cleaned")
	s = r.Start(t, config)
	wait(s)
	c1, err = nfs.ConnectAs(t.Context(), s.Address, "client-1")
	must(t, err)
	must(t, c1.ReclaimComplete())
	c2, err = nfs.ConnectAs(t.Context(), s.Address, "client-2/x")
	must(t, err)
	must(t, c2.ReclaimComplete())
	show("both back")
	for i := 0; i < 100; i++ {
		g, err := ganesha.GraceState(rec)
		must(t, err)
		if !g.Active {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	show("lifted?")
	time.Sleep(8 * time.Second)
	show("leases over")
	// cost of a probe
	cpu := func() string {
		b, _ := exec.Command("sh", "-c", "cut -d' ' -f14,15 /proc/"+itoa(s.PID())+"/stat; grep -E ' loop' /proc/diskstats | awk '$8>0{print $3,$8,$10}'").Output()
		return strings.TrimSpace(string(b))
	}
	a := cpu()
	st := time.Now()
	for i := 0; i < 200; i++ {
		must(t, ganesha.Probe(t.Context(), s.Address, "/pvc-1"))
	}
	t.Log("200 probes", time.Since(st), a, "->", cpu())
	a = cpu()
	st = time.Now()
	sess, err := nfs.Connect(t.Context(), s.Address)
	must(t, err)
	for i := 0; i < 200; i++ {
		_, _, err := sess.Lookup("/pvc-1")
		must(t, err)
	}
	t.Log("200 lookups", time.Since(st), a, "->", cpu())
	sess.Close()
	show("after")
	s.Kill(t)

	// limits
	b, _ := ganesha.Render(config)
	for _, g := range []string{"180", "181", "300"} {
		s = r.StartRendered(t, config, bytes.Replace(b, []byte("Grace_Period = 30"), []byte("Grace_Period = "+g), 1), ganesha.Command("x", "/etc/ganesha-test.conf", "/run/x.pid").Args)
		select {
		case <-s.ended:
			t.Log("grace", g, s.WaitEnd(t, time.Second), s.Log())
		case <-time.After(time.Second):
			t.Log("grace", g, "runs")
			s.Kill(t)
		}
	}
}
func itoa(i int) string { return strings.TrimSpace(strings.Join([]string{fmtInt(i)}, "")) }

func fmtInt(i int) string { return fmt.Sprint(i) }
