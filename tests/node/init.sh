#!/bin/sh
# Process 1 of a node: it has a process table, a name, and ends when the test does. The
# kernel then ends all others.
set -eu
mount -t proc proc /proc
hostname node
echo >/run/node/up
# A shell that waits for a program also takes in what others have left behind.
cat >/dev/null
