#!/usr/bin/env bash
# Installs the Debian packages that the laboratory and the checks need, if any is
# missing. Debian 12; needs root. Used by `make demo`, `make test` and .ci/run.
set -euo pipefail

packages=(
  # The nodes: guests of user-mode-linux with containerd and kubelet.
  user-mode-linux containerd runc containernetworking-plugins
  # Root trees of guests and images, and the filesystems in them.
  debootstrap e2fsprogs xfsprogs zstd
  # Networks of the laboratory.
  iproute2 iptables conntrack procps util-linux kmod
  # An NFS client for the nodes.
  nfs-common
  # A small preloaded library for user-mode-linux is compiled.
  gcc libc6-dev
  # Checks.
  shellcheck git ca-certificates
)

missing=()
for package in "${packages[@]}"; do
  # dpkg-query also knows removed packages whose configuration is still there.
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "Not installed: ${missing[*]}. Run this as root, or install them." >&2
    exit 1
  fi
  echo "Installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # containerd and NFS services are not wanted on the host itself.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v go >/dev/null; then
  echo "Go is missing: install the version that go.mod names, or newer." >&2
  exit 1
fi
