package provisioner

import (
	"fmt"
	"slices"
	"strings"
)

// The mountOptions of a StorageClass are meant for the filesystem of a volume, but
// linstor-csi's NodePublish passes the PersistentVolume's to the NFS mount. So they
// are sorted: what the NFS client understands stays in the PersistentVolume, what
// ext4 and xfs understand goes to the serving node (nfs(5), ext4(5), xfs(5), mount(8)).
var (
	// fixedOptions are set by linstor-csi ("port=N,vers=4"), or need what an NFSv4
	// server of ours does not have.
	fixedOptions = []string{
		"vers", "nfsvers", "minorversion", "v2", "v3", "v4", "v4.0", "v4.1", "v4.2", "port", "proto", "udp", "tcp", "rdma",
		"mountport", "mountproto", "mountvers", "mounthost", "namlen", "lock", "nolock", "local_lock", "sec", "xprtsec", "clientaddr",
	}
	nfsOptions = []string{
		"hard", "soft", "softerr", "intr", "nointr", "timeo", "retrans", "retry", "rsize", "wsize", "nconnect", "max_connect", "trunkdiscovery", "notrunkdiscovery",
		"ac", "noac", "actimeo", "acregmin", "acregmax", "acdirmin", "acdirmax", "lookupcache", "cto", "nocto", "bg", "fg",
		"fsc", "nofsc", "sharecache", "nosharecache", "resvport", "noresvport", "migration", "nomigration", "softreval", "nosoftreval", "write",
		"rdirplus", "nordirplus",
		// Of every mount, and to be kept where the processes are:
		"ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "_netdev", "nofail", "defaults",
		"context", "fscontext", "defcontext", "rootcontext",
	}
	filesystemOptions = []string{
		// Of every mount, and of use only where the filesystem is:
		"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime", "dirsync", "iversion",
		// Of ext4 and xfs:
		"discard", "nodiscard", "barrier", "nobarrier", "data", "commit", "errors", "journal_checksum", "nojournal_checksum", "journal_async_commit",
		"journal_ioprio", "delalloc", "nodelalloc", "auto_da_alloc", "noauto_da_alloc", "stripe", "inode_readahead_blks", "init_itable", "noinit_itable",
		"acl", "noacl", "user_xattr", "nouser_xattr", "dioread_lock", "dioread_nolock", "max_batch_time", "min_batch_time", "data_err", "grpid", "nogrpid", "bsdgroups", "sysvgroups",
		"quota", "noquota", "usrquota", "grpquota", "prjquota", "usrjquota", "grpjquota", "jqfmt", "uquota", "gquota", "pquota", "uqnoenforce", "gqnoenforce", "pqnoenforce",
		"nouuid", "allocsize", "attr2", "noattr2", "filestreams", "ikeep", "noikeep", "inode32", "inode64", "largeio", "nolargeio", "logbufs", "logbsize",
		"noalign", "sunit", "swidth", "swalloc", "wsync", "max_dir_size_kb", "nombcache", "lifetime", "prefetch_block_bitmaps", "no_prefetch_block_bitmaps",
	}
)

// splitMountOptions sorts options; one string may hold several, comma separated.
func splitMountOptions(options []string) (filesystem, nfs []string, err error) {
	for _, option := range strings.Split(strings.Join(options, ","), ",") {
		option = strings.TrimSpace(option)
		name, _, _ := strings.Cut(option, "=")
		switch {
		case name == "":
		case slices.Contains(fixedOptions, name):
			return nil, nil, fmt.Errorf("mount option %q cannot be chosen for a ReadWriteMany volume: remove it, the driver mounts with NFSv4 and the export's port", option)
		case slices.Contains(nfsOptions, name):
			nfs = append(nfs, option)
		case slices.Contains(filesystemOptions, name):
			filesystem = append(filesystem, option)
		default:
			return nil, nil, fmt.Errorf("mount option %q is not known as one of NFS, ext4 or xfs: remove it", option)
		}
	}
	return filesystem, nfs, nil
}
