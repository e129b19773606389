#!/bin/sh
# Changes a node's disk image, in a mount and process namespace of its own that
# ends with this script:
#
#	bake.sh IMAGE COPIES TAR...
#
# COPIES is a file with one line per file of the image: "copy SOURCE TARGET" or
# "link CONTENT TARGET".
# Every TAR is a container image to import, in this order.
set -eu

image=$1
copies=$2
shift 2

mount --make-rprivate /
# The sockets' paths have to be short, and nobody else needs to see this.
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/disk /mnt/state
mount -o loop "$image" /mnt/disk

while read -r action source target; do
	mkdir -p "/mnt/disk$(dirname "$target")"
	rm -f "/mnt/disk$target"
	case $action in
	copy)
		cp "$source" "/mnt/disk$target"
		chmod 755 "/mnt/disk$target"
		;;
	link)
		ln -s "$source" "/mnt/disk$target"
		;;
	esac
done <"$copies"

if [ $# -gt 0 ]; then
	mount -t proc proc /proc
	cat >/mnt/containerd.toml <<CONFIG
version = 2
root = "/mnt/disk/var/lib/containerd"
state = "/mnt/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/mnt/state/containerd.sock"
CONFIG
	containerd --config=/mnt/containerd.toml >/mnt/containerd.log 2>&1 &
	daemon=$!
	attempts=0
	until ctr --address=/mnt/state/containerd.sock version >/dev/null 2>&1; do
		attempts=$((attempts + 1))
		if [ $attempts -gt 300 ]; then
			cat /mnt/containerd.log >&2
			exit 1
		fi
		sleep 0.1
	done
	for tar in "$@"; do
		ctr --address=/mnt/state/containerd.sock --namespace=k8s.io images import --platform=linux/amd64 "$tar"
	done
	kill "$daemon"
	wait "$daemon" || true
fi

umount /mnt/disk
