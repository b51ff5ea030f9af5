#!/bin/sh
# Arguments: the name of the node's cgroups. What a node of a cluster needs of the file system
# beyond what prepare.sh has made: kubeadm, the kubelet and the pods of the control plane write
# into more directories of the machine.
set -eu
mkdir -p /run/node/usr/upper /run/node/usr/work
mount -t overlay overlay -o lowerdir=/usr,upperdir=/run/node/usr/upper,workdir=/run/node/usr/work /usr
mkdir -p /usr/lib/modules
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /var/lib/cni /run/node/home
mount --bind /run/node/disk/cni /var/lib/cni

# As a new machine has them: the runtime's template is another way to the same end.
rm -rf /etc/kubernetes /opt/cni
sed -i '/^conf_template/d' /etc/containerd/config.toml

# Nobody answers here, at once. CoreDNS must not be told to ask itself.
echo "nameserver 127.0.0.1" >/etc/resolv.conf
echo "nameserver 203.0.113.10" >/run/node/resolv.conf

# The kubelet wants to find the root of its cgroups.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    read -r controllers </sys/fs/cgroup/cgroup.controllers
    for controller in $controllers; do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    mkdir -p "/sys/fs/cgroup/$1"
    exit
fi
for hierarchy in /sys/fs/cgroup/*/; do
    mkdir -p "$hierarchy$1"
done
for file in cpuset.cpus cpuset.mems; do
    cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$1/$file"
done
