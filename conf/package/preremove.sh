#!/bin/sh
# Before the package is removed, but not when it is replaced by another version: the network
# goes first, and not while pods are connected by it. A failure here keeps the package.
set -eu
case ${1:-} in
remove | 0) ;;
*) exit 0 ;;
esac
# The configuration, what pods shared, and the executables themselves, in that order.
/usr/sbin/cni-install --uninstall
if [ -d /run/systemd/system ]; then
    systemctl disable --quiet --now cni-bridge-reconcile.timer cni-bridge-firewall.service || true
fi
