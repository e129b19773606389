# Run in the image when the packages are installed.

# Programs that read the table of mounts must see the kernel's.
ln -sfn /proc/self/mounts /etc/mtab
