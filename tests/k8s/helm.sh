#!/bin/sh
# Prints the path of helm: $HELM, else one in PATH, else one built from its Go module into build/tools/ (some two minutes, and 1 GB of caches that
# are removed again). Debian packages no helm, and its Go is older than helm asks for: a Go of 1.18 or newer, from PATH or from Debian's package
# unpacked beside, fetches the compiler that is named here as the Go module it also is. With `crd` instead: the path of the Prometheus Operator's
# CustomResourceDefinition of a ServiceMonitor, out of the operator's module. Nothing is installed, no root is needed.
set -u
cd "$(dirname "$0")/../.." || exit
helm_version=v3.19.5 go_version=1.24.13 operator_version=v0.85.0
tools=$PWD/build/tools
work=$tools/go-$$
mkdir -p "$work" || exit
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

fail() {
    echo "$1" >&2
    exit 1
}
# the user's own settings of Go stay out: same input, same tools
go_() { env -u GOROOT -u GOEXPERIMENT GOENV=off GOWORK=off GOTOOLCHAIN=local GOFLAGS=-modcacherw GOPATH="$work/path" GOCACHE="$work/cache" CGO_ENABLED=0 "$@"; }
any_go() {
    command -v go && return
    (cd "$work" && { apt-get download -qq golang-1.19-go || { apt-get update -qq && apt-get download -qq golang-1.19-go; }; } && dpkg -x golang-1.19-go_*.deb deb) \
        >"$work/log" 2>&1 || { tail -n 2 "$work/log" >&2; return 1; }
    echo "$work/deb/usr/lib/go-1.19/bin/go"
}
module() { # path@version: unpacks it, and compares it with the checksum database
    go_ "$go" mod download "$1" >"$work/log" 2>&1 || { tail -n 2 "$work/log" >&2; return 1; }
}

case ${1:-helm} in
helm)
    out=$tools/helm-$helm_version
    for have in "${HELM:-}" "$(command -v helm)" "$out"; do
        [ -x "$have" ] && echo "$have" && exit
    done
    case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) fail "no helm, and no recipe to build it for $(uname -m)" ;; esac
    go=$(any_go) || fail "no helm, and no Go to build it: neither in PATH nor as Debian's package"
    module "golang.org/toolchain@v0.0.1-go$go_version.linux-$arch" || fail "no helm, and the Go modules to build it could not be had"
    root=$work/path/pkg/mod/golang.org/toolchain@v0.0.1-go$go_version.linux-$arch
    chmod -R +x "$root/bin" "$root/pkg/tool"
    echo "building helm $helm_version ..." >&2
    GOBIN=$work/bin go_ "$root/bin/go" install -trimpath -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@$helm_version" >"$work/log" 2>&1 ||
        { tail -n 3 "$work/log" >&2; fail "no helm, and it could not be built"; }
    mv "$work/bin/helm" "$out"
    ;;
crd)
    out=$tools/servicemonitor-$operator_version.yaml
    [ -e "$out" ] && echo "$out" && exit
    go=$(any_go) || fail "no Go to fetch the Prometheus Operator's module"
    module "github.com/prometheus-operator/prometheus-operator@$operator_version" || fail "the Prometheus Operator's module could not be had"
    mv "$work/path/pkg/mod/github.com/prometheus-operator/prometheus-operator@$operator_version/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml" "$out"
    ;;
*) fail "usage: helm.sh [helm|crd]" ;;
esac
echo "$out"
