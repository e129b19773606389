#!/bin/sh
# Debian's kernel 7.2 for user-mode-linux has no way to translate addresses: it
# comes without the legacy tables of iptables, and with nf_tables that know
# neither IPv4 nor IPv6. kube-proxy and linstor-rwx need one of them. This
# compiles the modules of the legacy tables from Debian's source of the same
# kernel with the same configuration, and puts them beside the package's own.
# Nor can it destroy sockets, which nfs-reconnector needs.
set -eu

mount -t proc proc /proc
cd /usr/src
tar --extract --file=linux-source-7.2.tar.xz
cd linux-source-7.2

# The patch level of the source may be newer; a module has to name the kernel's.
version=$(linux.uml --version)
sed -i "s/^SUBLEVEL = .*/SUBLEVEL = ${version##*.}/" Makefile
linux.uml --showconfig >.config
cat >>.config <<CONFIG
CONFIG_NETFILTER_XTABLES_LEGACY=y
CONFIG_IP_NF_IPTABLES_LEGACY=m
CONFIG_IP_NF_FILTER=m
CONFIG_IP_NF_NAT=m
CONFIG_IP_NF_MANGLE=m
CONFIG_IP_NF_RAW=m
CONFIG_IP6_NF_IPTABLES_LEGACY=m
CONFIG_IP6_NF_FILTER=m
CONFIG_IP6_NF_NAT=m
CONFIG_IP6_NF_MANGLE=m
CONFIG_IP6_NF_RAW=m
CONFIG

# The kernel has the listing of TCP sockets built in, without their destruction.
# This module is the same code with it; it puts itself in the place of the
# built-in one, which is an entry in a table.
sed 's/^\treturn inet_diag_register(/\tinet_diag_unregister(\&tcp_diag_handler);\n&/' \
	net/ipv4/tcp_diag.c >net/ipv4/tcp_diag_destroy.c
if cmp -s net/ipv4/tcp_diag.c net/ipv4/tcp_diag_destroy.c; then
	echo "tcp_diag.c does not register its handler as it used to" >&2
	exit 1
fi
cat >>net/ipv4/Makefile <<MAKEFILE
obj-m += tcp_diag_destroy.o
CFLAGS_tcp_diag_destroy.o := -DCONFIG_INET_DIAG_DESTROY
MAKEFILE

# x_tables is replaced: the package's lacks what the tables call.
modules="net/netfilter/x_tables.ko net/ipv4/tcp_diag_destroy.ko"
for table in ip_tables iptable_filter iptable_nat iptable_mangle iptable_raw; do
	modules="$modules net/ipv4/netfilter/$table.ko"
done
for table in ip6_tables ip6table_filter ip6table_nat ip6table_mangle ip6table_raw; do
	modules="$modules net/ipv6/netfilter/$table.ko"
done
make ARCH=um olddefconfig
make ARCH=um -j"$(nproc)" modules_prepare
# Without a compiled kernel nobody knows which symbols it exports.
# shellcheck disable=SC2086 # a list
make ARCH=um -j"$(nproc)" KBUILD_MODPOST_WARN=1 $modules
for module in $modules; do
	cp "$module" "/usr/lib/uml/modules/$version/kernel/$module"
done
cd /
rm -rf /usr/src/linux-source-7.2*
