# What the tests with a real Kubernetes need, in $KUBERNETES_TOOLS: kubeadm, kubelet, kubectl,
# the processes of the control plane with etcd, kube-proxy, CoreDNS; and kubectl-validate,
# which knows the schemas of all resources.
#
# Sourced by scripts/setup after common.sh and containerd.sh, not run.
# shellcheck shell=bash

# etcd's and CoreDNS's are those that this kubeadm asks for.
readonly KUBERNETES_VERSION=v1.36.3
readonly ETCD_VERSION=v3.6.8
readonly COREDNS_VERSION=v1.14.2
readonly KUBECTL_VALIDATE_VERSION=v0.0.4
KUBERNETES_TOOLS=$(dirname "$GO_TOOLS")/kubernetes
readonly KUBERNETES_TOOLS

# The longest build first, of which the others take parts.
readonly KUBERNETES_COMMANDS=(
    kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl kubeadm
)

# Never fails: what could not be had is named, and the tests report that they were not run.
kubernetes_tools() {
    if [[ -z $(type -P go) ]]; then
        say "setup: the Go tool chain is missing (1.26 or newer: https://go.dev/dl, unpack into /usr/local): not run: tests with Kubernetes"
        return
    fi
    mkdir -p "$KUBERNETES_TOOLS"
    kubernetes_tool "kubectl-validate $KUBECTL_VALIDATE_VERSION" build_kubectl_validate
    kubernetes_tool "Kubernetes $KUBERNETES_VERSION" build_kubernetes
    kubernetes_tool "etcd $ETCD_VERSION" build_etcd
    kubernetes_tool "CoreDNS $COREDNS_VERSION" build_coredns
}

# kubernetes_tool <name and version> <function>: has the function build into a directory, which
# is its argument, unless this version is there.
kubernetes_tool() {
    local version=$1 build=$2
    local mark=$KUBERNETES_TOOLS/.${version%% *}
    if [[ -f $mark && $(<"$mark") == "$version" ]]; then
        return
    fi
    local note=once
    [[ $version != Kubernetes* ]] || note="once; takes some minutes, and 9 GB for Go's caches"
    say "setup: building $version into $KUBERNETES_TOOLS ($note)"
    local temporary
    temporary=$(mktemp -d "$KUBERNETES_TOOLS/.build-XXXXXX")
    mkdir "$temporary"/{module,files}
    if (cd "$temporary/module" && "$build" "$temporary/files"); then
        mv -f "$temporary"/files/* "$KUBERNETES_TOOLS/"
        say "$version" >"$mark"
    else
        say "setup: cannot build $version (see above): not run: tests with Kubernetes that need it"
    fi
    rm -rf "$temporary"
}

static_go() { CGO_ENABLED=0 GOFLAGS='-trimpath -mod=mod' go "$@"; }

# k8s.io/kubernetes cannot be installed by its name: it refers to its libraries by directories
# of its repository. A module around it refers to the published ones.
build_kubernetes() {
    local published=v0${KUBERNETES_VERSION#v1} command file
    file=$(go mod download -json "k8s.io/kubernetes@$KUBERNETES_VERSION" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
    [[ -f $file ]] || return 1
    {
        say "module tools"
        grep -E '^(go|godebug) ' "$file"
        say "require k8s.io/kubernetes $KUBERNETES_VERSION"
        sed -n "s|^[[:space:]]*\(k8s.io/[^ ]*\) => ./staging/.*|replace \1 => \1 $published|p" "$file"
    } >go.mod
    local minor=${KUBERNETES_VERSION#v1.} package=k8s.io/component-base/version
    minor=${minor%%.*}
    for command in "${KUBERNETES_COMMANDS[@]}"; do
        static_go build -o "$1/" -ldflags "-s -w -X $package.gitVersion=$KUBERNETES_VERSION -X $package.gitMajor=1 -X $package.gitMinor=$minor" \
            "k8s.io/kubernetes/cmd/$command" || return 1
    done
}

build_etcd() {
    printf 'module tools\ngo 1.26\nrequire go.etcd.io/etcd/server/v3 %s\n' "$ETCD_VERSION" >go.mod
    # The package is called "server", the program is not.
    static_go build -o "$1/etcd" -ldflags '-s -w' go.etcd.io/etcd/server/v3
}

build_coredns() {
    GOBIN=$1 static_go install -ldflags '-s -w' "github.com/coredns/coredns@$COREDNS_VERSION"
}

build_kubectl_validate() {
    GOBIN=$1 static_go install -ldflags '-s -w' "sigs.k8s.io/kubectl-validate@$KUBECTL_VALIDATE_VERSION"
}
