module github.com/linbit/linstor-rwx/ci/lab

go 1.26.0

require github.com/linbit/linstor-rwx v0.0.0

replace github.com/linbit/linstor-rwx => ../..
