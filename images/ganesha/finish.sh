# Run in the image when the packages are installed.

# Programs that read the table of mounts must see the kernel's.
ln -sfn /proc/self/mounts /etc/mtab

# ganesha resolves its host's name when it starts. A DNS server that does not
# answer would delay each start, and so each fail-over, by five seconds; kubelet
# writes the name into /etc/hosts.
sed -i 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf
grep -q '^hosts: files$' /etc/nsswitch.conf

# The backend must load: a package of another build would only fail when the
# first export is served.
ganesha.nfsd -v | grep -q 'Release = V9\.14'
