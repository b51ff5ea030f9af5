# What the tests with a real containerd need, below $CONTAINERD_TOOLS:
#
#   distribution/   containerd, its shim and ctr, runc and a static busybox, out of the
#                   distribution's packages. They are unpacked and not installed:
#                   installing them would start a service.
#   current/        a current containerd, its shim and ctr, built from its module
#   cri             the CRI client in tests/cri
#
# Sourced by scripts/setup after common.sh, not run.
# shellcheck shell=bash

readonly CONTAINERD_VERSION=v2.4.2
CONTAINERD_TOOLS=$(dirname "$GO_TOOLS")/containerd
readonly CONTAINERD_TOOLS

readonly CONTAINERD_PACKAGES=(containerd runc busybox-static)
readonly CONTAINERD_FILES=(usr/bin/containerd usr/bin/containerd-shim-runc-v2 usr/bin/ctr usr/sbin/runc bin/busybox)

# Never fails: what could not be had is named, and the tests report that they were not run.
containerd_tools() {
    mkdir -p "$CONTAINERD_TOOLS"
    distribution_containerd || lost "the distribution's containerd, runc and busybox"
    if [[ -z $(type -P go) ]]; then
        say "setup: the Go tool chain is missing (1.26 or newer: https://go.dev/dl, unpack into /usr/local): not run: tests with containerd"
        return
    fi
    current_containerd || lost "containerd $CONTAINERD_VERSION"
    cri_client || lost "the CRI client"
}

lost() { say "setup: there is no $1 (see above): not run: tests with containerd that need it"; }

distribution_containerd() {
    if [[ -x $CONTAINERD_TOOLS/distribution/containerd ]]; then
        return
    fi
    if [[ -z $(type -P apt-get) || -z $(type -P dpkg-deb) ]]; then
        say "setup: ${CONTAINERD_PACKAGES[*]} are unpacked from packages of Debian or Ubuntu; here are neither"
        return 1
    fi
    say "setup: unpacking ${CONTAINERD_PACKAGES[*]} into $CONTAINERD_TOOLS/distribution (once)"
    local temporary file
    temporary=$(mktemp -d "$CONTAINERD_TOOLS/.distribution-XXXXXX")
    mkdir "$temporary"/{packages,root,files}
    {
        download_packages "$temporary/packages" &&
            for file in "$temporary"/packages/*.deb; do
                dpkg-deb --extract "$file" "$temporary/root" || return 1
            done &&
            for file in "${CONTAINERD_FILES[@]}"; do
                # Also where the distribution has merged /bin into /usr/bin.
                mv "$temporary/root/$file" "$temporary/files/" 2>/dev/null ||
                    mv "$temporary/root/usr/$file" "$temporary/files/" || return 1
            done &&
            "$temporary/files/runc" --version >"$temporary/said" 2>&1 &&
            mv -T "$temporary/files" "$CONTAINERD_TOOLS/distribution"
    } || cat "$temporary/said" >&2
    rm -rf "$temporary"
    # Another run may have been quicker.
    [[ -x $CONTAINERD_TOOLS/distribution/containerd ]]
}

# download_packages <directory>. Needs no root, unless the lists of packages are stale.
download_packages() {
    (
        cd "$1" || return 1
        { lists_are_fresh && apt-get -q download "${CONTAINERD_PACKAGES[@]}"; } ||
            { can_use_apt && apt_get update && apt-get -q download "${CONTAINERD_PACKAGES[@]}"; }
    ) >"$1/../said" 2>&1
}

current_containerd() {
    if [[ -f $CONTAINERD_TOOLS/current/.version && $(<"$CONTAINERD_TOOLS/current/.version") == "$CONTAINERD_VERSION" ]]; then
        return
    fi
    say "setup: building containerd $CONTAINERD_VERSION into $CONTAINERD_TOOLS/current (once)"
    local temporary package packages=()
    temporary=$(mktemp -d "$CONTAINERD_TOOLS/.current-XXXXXX")
    for package in containerd containerd-shim-runc-v2 ctr; do
        packages+=("github.com/containerd/containerd/v2/cmd/$package@$CONTAINERD_VERSION")
    done
    if (cd / && GOBIN=$temporary CGO_ENABLED=0 GOFLAGS=-trimpath go install -ldflags '-s -w' "${packages[@]}"); then
        say "$CONTAINERD_VERSION" >"$temporary/.version"
        rm -rf "$CONTAINERD_TOOLS/current"
        mv -T "$temporary" "$CONTAINERD_TOOLS/current"
    fi
    rm -rf "$temporary"
    [[ -x $CONTAINERD_TOOLS/current/containerd ]]
}

# Built again when its source or its versions have changed.
cri_client() {
    local source=$ROOT/tests/cri sum
    sum=$(cat "$source"/{go.mod,go.sum,main.go} | sha256sum)
    if [[ -x $CONTAINERD_TOOLS/cri && -f $CONTAINERD_TOOLS/.cri && $(<"$CONTAINERD_TOOLS/.cri") == "$sum" ]]; then
        return
    fi
    say "setup: building the CRI client into $CONTAINERD_TOOLS (once)"
    local temporary=$CONTAINERD_TOOLS/.cri-$$
    if (cd "$source" && go vet . && CGO_ENABLED=0 GOFLAGS='-trimpath -mod=readonly' go build -ldflags '-s -w' -o "$temporary" .); then
        mv -f "$temporary" "$CONTAINERD_TOOLS/cri"
        say "$sum" >"$CONTAINERD_TOOLS/.cri"
    fi
    [[ -x $CONTAINERD_TOOLS/cri ]]
}
