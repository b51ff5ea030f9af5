# What the scripts here share. Sourced, not run.
# shellcheck shell=bash disable=SC2034  # not every script uses every variable

# The scripts work from any directory, and on the directory they stand in.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
readonly ROOT

# Where a newcomer has things, but PATH often does not: rustup's and Go's own
# places, and the administrator's commands, which Debian hides from users.
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/go/bin:/usr/sbin:/sbin

# What goes onto a node.
readonly RELEASE=(--bin cni-bridge --bin cni-ipam --bin cni-install)

# What is built from other modules. Outside the source tree, so that `cargo clean`
# or a fresh clone does not build it again.
readonly CNITOOL_VERSION=v1.3.0
readonly GO_PLUGINS_VERSION=v1.9.1
readonly NFPM_VERSION=v2.44.2
GO_TOOLS=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cni-bridge-tests/bin
readonly GO_TOOLS

# In bytes, of a release build.
readonly LARGEST_EXECUTABLE=3000000

# Colours are for people: a file or CI gets plain text.
if [[ -t 1 && ${TERM:-dumb} != dumb && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' RESET=$'\e[0m'
else
    BOLD='' DIM='' GREEN='' RED='' RESET=''
fi
readonly BOLD DIM GREEN RED RESET

say() { printf '%s\n' "$*"; }
heading() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$RESET"; }
complain() { printf '%s%s: %s%s\n' "$RED" "${0##*/}" "$*" "$RESET" >&2; }
die() {
    complain "$*"
    exit 1
}

# not_run <name> <reason>: says so, and tells scripts/test, which lists it at its end.
not_run() {
    say "not run: $1: $2"
    [[ -z ${CNI_E2E_NOT_RUN:-} ]] || printf '%s\t%s\n' "$1" "$2" >>"$CNI_E2E_NOT_RUN"
}

# The comment at the top of a script is its help.
print_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"; }

# Where cargo puts the executables of a profile ("debug" or "release"). Cargo is
# asked, since CARGO_TARGET_DIR or the user's own configuration may move it.
executables_dir() {
    local target_dir
    target_dir=$(cd "$ROOT" && cargo metadata --format-version 1 --no-deps |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    printf '%s/%s/%s\n' "$target_dir" "$(cd "$ROOT" && rustc --print host-tuple)" "$1"
}

# check_sizes <directory>: a node loads the file anew for each call, so it has to stay small.
check_sizes() {
    local name size
    for name in cni-bridge cni-ipam; do
        size=$(stat --format %s "$1/$name")
        ((size <= LARGEST_EXECUTABLE)) ||
            die "$name has become too large: $size bytes, at most $LARGEST_EXECUTABLE are allowed"
    done
}

# own_namespaces <options of unshare(1)>: sets NAMESPACES to the command that gives a
# program these namespaces of its own, so that nothing it does reaches this machine. An
# ordinary user gets a user namespace around them.
own_namespaces() {
    NAMESPACES=(unshare "$@")
    if [[ $(id -u) != 0 ]]; then
        NAMESPACES+=(--user --map-root-user)
    fi
    local refusal
    if ! refusal=$("${NAMESPACES[@]}" -- true 2>&1); then
        complain "cannot make namespaces: $refusal"
        if [[ $(id -u) == 0 ]]; then
            complain "root lacks CAP_SYS_ADMIN here; in a container, start it with --privileged"
        else
            complain "user namespaces are not allowed for ordinary users here: run this as root, or allow them until the next boot:"
            complain "  Ubuntu: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
            complain "  others: sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
        fi
        return 1
    fi
}

# To be called inside those namespaces: state of our own under /run, a /var/lib/cni without
# this machine's pods, and a /proc that knows the new process ids. Some containers do not
# allow the latter; then the outer one has to do.
private_state() {
    mount -t proc proc /proc 2>/dev/null || true
    mount -t tmpfs tmpfs /run
    if [[ -d /var/lib/cni ]]; then
        mount -t tmpfs tmpfs /var/lib/cni
    fi
    ip link set lo up
}
