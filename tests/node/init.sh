#!/bin/sh
# Process 1 of a node: it has a process table, a name, and ends when the test does. The
# kernel then ends all others. Argument: the name of its cgroups.
set -eu
mount -t proc proc /proc
hostname node
echo >/run/node/up
# A shell that waits for a program also takes in what others have left behind.
cat >/dev/null
# Here a test was killed that would have removed the cgroups.
kill -KILL -1 || true
# shellcheck disable=SC2034  # what has just left may be busy for a moment
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    find /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.1
done
