# Building packages and the image. Sourced after common.sh, not run.
# shellcheck shell=bash disable=SC2034  # not every script uses every variable

# As in conf/kubernetes.
IMAGE=$(sed -n 's/^ *image: //p' "$ROOT/conf/kubernetes/cni-bridge.yaml")
readonly IMAGE

# nfpm: .deb and .rpm from one description, in Go, without the tools of either (MIT). Never
# fails the caller by itself: answers whether it is there.
nfpm() {
    if [[ -f $GO_TOOLS/.nfpm && $(<"$GO_TOOLS/.nfpm") == "$NFPM_VERSION" ]]; then
        return
    fi
    if [[ -z $(type -P go) ]]; then
        say "the Go tool chain is missing (https://go.dev/dl, unpack into /usr/local): without it no nfpm"
        return 1
    fi
    say "building nfpm $NFPM_VERSION into $GO_TOOLS (once)"
    local temporary
    mkdir -p "$GO_TOOLS"
    temporary=$(mktemp -d "$GO_TOOLS/.nfpm-XXXXXX")
    if (cd / && GOBIN=$temporary CGO_ENABLED=0 GOFLAGS=-trimpath \
        go install -ldflags '-s -w' "github.com/goreleaser/nfpm/v2/cmd/nfpm@$NFPM_VERSION"); then
        mv -f "$temporary/nfpm" "$GO_TOOLS/nfpm"
        say "$NFPM_VERSION" >"$GO_TOOLS/.nfpm"
    fi
    rm -rf "$temporary"
    [[ -f $GO_TOOLS/.nfpm && $(<"$GO_TOOLS/.nfpm") == "$NFPM_VERSION" ]]
}
