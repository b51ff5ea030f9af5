#!/bin/sh
# Arguments: the directory that survives a reboot. What a node needs of the file system, made
# in the mount namespace of the test's thread, which already has a /run of its own: the test
# sees the files of the node.
set -eu
mkdir -p /run/node/calls /run/node/log /run/node/disk "$1/containerd" "$1/cni"
mount --bind "$1" /run/node/disk

# The sysfs shows this network, but covers the cgroups: they are put back into it.
mkdir /run/node/sys
mount -t sysfs sysfs /run/node/sys
until [ -n "$(ls /sys/fs/cgroup)" ]; do umount /sys; done
mount --rbind /sys/fs/cgroup /run/node/sys/fs/cgroup
mount --move /run/node/sys /sys

# The machine's own, with changes that are the node's alone.
for dir in etc opt; do
    mkdir -p "/run/node/$dir/upper" "/run/node/$dir/work"
    mount -t overlay overlay -o "lowerdir=/$dir,upperdir=/run/node/$dir/upper,workdir=/run/node/$dir/work" "/$dir"
done
rm -rf /etc/cni /opt/cni /etc/containerd
mkdir -p /etc/cni/net.d /etc/containerd /opt/cni/bin /opt/cni/recorded

# libcni's cache.
mount --bind /run/node/disk/cni /var/lib/cni
