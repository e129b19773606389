package cluster

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// guestInit is PID 1 of every guest.
const guestInit = kubernetesDirectory + "/lab-agent"

func (c *Cluster) nodePath(node Node, name string) string {
	return c.config.path("nodes", node.Name, name)
}

// startGuest boots a node. With keepDisk it finds what it wrote before,
// otherwise the base image.
func (c *Cluster) startGuest(node Node, keepDisk bool) error {
	if err := os.MkdirAll(c.nodePath(node, "uml"), 0o755); err != nil {
		return err
	}
	if err := ensureTaps(c.config.Name, node); err != nil {
		return err
	}
	disk := c.nodePath(node, "disk.cow")
	if !keepDisk {
		if err := os.RemoveAll(disk); err != nil {
			return err
		}
	}
	memory, err := c.memoryDirectory()
	if err != nil {
		return err
	}
	// A guest's kernel and its processes are processes of the host that take
	// turns, one system call or page fault after the other: on one processor
	// the turn passes at once, between two it waits for the other to wake up,
	// which makes everything half as fast.
	command := []string{"taskset", "--cpu-list", strconv.Itoa(node.Number() % runtime.NumCPU())}
	if len(c.config.Kernel) == 0 {
		command = append(command, "linux.uml")
	}
	command = append(command, c.config.Kernel...)
	return c.Start(Process{
		Name: node.Name,
		Environment: []string{
			"LD_PRELOAD=" + c.config.Shim,
			"TMPDIR=" + memory,
		},
		Command: append(command,
			fmt.Sprintf("mem=%dM", node.MemoryMiB),
			"umid="+node.Name,
			"uml_dir="+c.nodePath(node, "uml"),
			// The first file takes what is written, the second is only read.
			"ubda="+disk+","+c.config.Base,
			"ubdbr="+c.nodePath(node, "files.tar"),
			"root=/dev/ubda", "rootfstype=ext4", "rw",
			"init="+guestInit,
			// Without gro the guest drops the large frames that the host's TCP
			// sends to a tap.
			"vec0:transport=tap,ifname="+node.kubernetesTap()+",depth=128,gro=1",
			"vec1:transport=tap,ifname="+node.controlTap()+",depth=128,gro=1",
			"con=null", "con0=null,fd:1",
			"random.trust_cpu=on",
			"quiet",
		),
	})
}

// writeNodeFiles renders what the guest reads at its next boot.
func (c *Cluster) writeNodeFiles(node Node, keys *pki) error {
	files, err := nodeFiles(&c.config, node, keys)
	if err != nil {
		return err
	}
	content, err := archive(files)
	if err != nil {
		return fmt.Errorf("pack files of %s: %w", node.Name, err)
	}
	if err := os.MkdirAll(c.config.path("nodes", node.Name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(c.nodePath(node, "files.tar"), content, 0o600)
}

// memoryDirectory returns where the guests' memory is kept. /dev/shm is the
// right place unless it is small, as it is in many containers, or noexec.
func (c *Cluster) memoryDirectory() (string, error) {
	const shared = "/dev/shm"
	var need uint64
	for _, n := range c.config.Nodes {
		need += uint64(n.MemoryMiB) << 20
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(shared, &stat); err == nil {
		free := stat.Bavail * uint64(stat.Bsize)
		if stat.Flags&unix.ST_NOEXEC == 0 && free > need {
			return shared, nil
		}
	}
	directory := c.config.path("memory")
	return directory, os.MkdirAll(directory, 0o755)
}
