#!/bin/sh
# Stands in for systemd and the unit of the package kubelet: starts the kubelet when kubeadm
# has written its configuration, and again when it ends. Arguments: more flags.
set -eu
# Volumes of pods are mounted while the pods run.
mount --make-rshared /

# A kubelet sets these switches of the machine. Here it finds them set.
switch() {
    mkdir -p "/run/node/switches/${1%/*}"
    echo "$2" >"/run/node/switches/$1"
    mount --bind "/run/node/switches/$1" "/proc/sys/$1"
}
switch vm/overcommit_memory 1
switch vm/panic_on_oom 0
switch kernel/panic 10
switch kernel/panic_on_oops 1
switch kernel/keys/root_maxkeys 1000000
switch kernel/keys/root_maxbytes 25000000

while :; do
    until [ -e /var/lib/kubelet/config.yaml ] && [ -e /var/lib/kubelet/kubeadm-flags.env ]; do
        sleep 0.1
    done
    KUBELET_KUBEADM_ARGS=
    # shellcheck source=/dev/null
    . /var/lib/kubelet/kubeadm-flags.env
    # shellcheck disable=SC2086  # as systemd splits it
    kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
        --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml \
        $KUBELET_KUBEADM_ARGS "$@" || true
    sleep 1
done
