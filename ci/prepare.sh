#!/usr/bin/env bash
# Installs the Debian packages that the laboratory and the checks need, if any is
# missing. Debian 12; needs root. Used by `make demo`, `make test` and .ci/run.
set -euo pipefail

packages=(
  # The nodes: guests of user-mode-linux, for which a small library is compiled.
  user-mode-linux gcc libc6-dev
  # Root trees of guests and images, and the modules and filesystems in them.
  debootstrap zstd e2fsprogs xfsprogs kmod util-linux
  # Images are imported into the guests' disk before they start.
  containerd
  # Networks and processes of the laboratory, for people who look at them.
  iproute2 procps
  # The rules of the ganesha pod are tested on this machine's kernel.
  iptables
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
  # containerd is not wanted as a service of this machine.
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
