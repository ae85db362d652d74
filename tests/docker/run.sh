#!/bin/sh
# Builds docker/Dockerfile for real and runs the result: no registry, no daemon, nothing installed into the system.
# The base image is made by debootstrap from the mirror that this machine's apt is set to, and tagged with the Dockerfile's base name; buildah builds
# without namespaces (chroot isolation); smoke.py tells how the result is run. What was made stays under build/docker for the next run.
#   tests/docker/run.sh [FILTER...]       only tests whose name holds a filter
#   DEQ_RUNNER=podman|chroot              insist on a way to run it (default: the first that works)
set -u
cd "$(dirname "$0")/../.." || exit 2
here=$PWD/build/docker
suite=bookworm
skip() { echo "docker: skipped: $*"; exit 0; }

[ "$(id -u)" = 0 ] || skip "needs root (debootstrap, chroot)"
missing=
for tool in buildah debootstrap; do command -v "$tool" >/dev/null || missing="$missing $tool"; done
[ -z "$missing" ] || skip "no$missing; apt-get install --no-install-recommends buildah debootstrap podman runc crun docker-compose"

mkdir -p "$here" || exit 1
export DEQ_STORE="--root $here/storage --runroot $here/run"
# overlay mounts fail on some file systems (on overlay itself): then whole copies
driver=$(cat "$here/driver" 2>/dev/null)
for try in ${driver:-overlay vfs}; do
    store="$DEQ_STORE --storage-driver $try"
    # shellcheck disable=SC2086
    c=$(buildah $store from scratch 2>"$here/log") && buildah $store mount "$c" >/dev/null 2>"$here/log" && buildah $store rm "$c" >/dev/null && break
    [ -z "$driver" ] && rm -rf "$here/storage" "$here/run"
    store=
done
[ -n "$store" ] || skip "buildah has no storage here: $(tail -n 1 "$here/log")"
echo "$try" >"$here/driver"
export DEQ_STORE="$store"

base=$(sed -n 's/^ARG BASE=//p' docker/Dockerfile)
tag=docker.io/library/$base
sources() { # every index of this release that apt uses here: site, suite, component
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN)|$(SITE)|$(RELEASE)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' -v s="$suite" '$1 == "Debian" && ($4 == s || index($4, s "-") == 1) { print $2, $4, $5 }' | sort -u
}
# shellcheck disable=SC2086
if ! buildah $store images -q "$tag" >/dev/null 2>&1; then
    site=$(sources | awk -v s="$suite" '$2 == s && $3 == "main" { print $1; exit }')
    [ -n "$site" ] || skip "apt here knows no Debian $suite to make a base image from (apt-get update?)"
    echo "docker: making $base by debootstrap"
    rm -rf "$here/base"
    proxy=$(apt-config dump --format '%v' Acquire::http::Proxy)
    http_proxy=${http_proxy:-$proxy} debootstrap --variant=minbase "$suite" "$here/base" "$site" >"$here/debootstrap.log" 2>&1 ||
        skip "debootstrap failed: $(tail -n 1 "$here/debootstrap.log") ($here/debootstrap.log)"
    # apt in the build gets its packages the way apt here does
    sources | sed 's/^/deb /' >"$here/base/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(http|https|Check-|Retries)' >"$here/base/etc/apt/apt.conf.d/90host"
    rm -rf "$here"/base/var/cache/apt/archives/*.deb "$here"/base/var/lib/apt/lists/*
    c=$(buildah $store from scratch) && buildah $store add --quiet "$c" "$here/base" / >/dev/null && buildah $store config --cmd bash "$c" &&
        buildah $store commit --quiet --rm "$c" "$tag" >/dev/null || exit 1
    rm -rf "$here/base"
fi

# a clean checkout: what git has or would take, without what lies about
rm -rf "$here/context"
mkdir -p "$here/context"
git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -cf - | tar -xf - -C "$here/context" || exit 1

build() { # context, tag, more arguments
    context=$1 name=$2
    shift 2
    # HEALTHCHECK is of docker's format only
    # shellcheck disable=SC2086
    nice -n 10 buildah $store build --isolation chroot --layers --pull-never --format docker --timestamp 1700000000 --build-arg SOURCE_DATE_EPOCH=1700000000 \
        --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null)" "$@" -f "$context/docker/Dockerfile" -t "$name" "$context" >"$here/build.log" 2>&1 ||
        { tail -n 20 "$here/build.log"; echo "docker: the build failed ($here/build.log)"; exit 1; }
}
layers() {
    # shellcheck disable=SC2086
    buildah $store inspect --type image "$1" | python3 -c 'import json, sys; print(*json.load(sys.stdin)["Docker"]["rootfs"]["diff_ids"])'
}
bad=0
begin=$(date +%s)
build "$here/context" localhost/deqd:test
echo "docker: built in $(($(date +%s) - begin)) s"
if [ $# = 0 ]; then
    python3 tests/docker/compose.py || bad=1
    # the same sources at another time, in another place: compiled again, from the first line on that this comment makes differ
    rm -rf "$here/again"
    cp -r "$here/context" "$here/again"
    echo '# again' >>"$here/again/Makefile"
    build "$here/again" localhost/deqd:again
    if [ "$(layers localhost/deqd:test)" = "$(layers localhost/deqd:again)" ]; then
        echo "docker: built again: the same bytes, $(layers localhost/deqd:test)"
    else
        echo "FAIL docker: built again, the image's layer differs: $(layers localhost/deqd:test) and $(layers localhost/deqd:again)"
        bad=1
    fi
    rm -rf "$here/again"
fi
python3 tests/docker/smoke.py "$@" || bad=1
exit "$bad"
