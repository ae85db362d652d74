#!/bin/sh
# Builds docker/Dockerfile for real and runs the result: no registry, no daemon, nothing installed into the system.
# The base image is made by debootstrap from the mirror that this machine's apt is set to, and tagged with the Dockerfile's base name; buildah builds
# without namespaces (chroot isolation); smoke.py tells how the result is run. What was made stays under build/docker for the next run.
#   tests/docker/run.sh [FILTER...]       only tests whose name holds a filter
#   DEQ_RUNNER=podman|chroot              insist on a way to run it (default: the first that works)
set -u
cd "$(dirname "$0")/../.." || exit 2
here=$PWD/build/docker
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
# shellcheck disable=SC2086
if ! buildah $store images -q "$tag" >/dev/null 2>&1; then
    said=$(sh tests/docker/base.sh) || skip "$(echo "$said" | tail -n 1)"
    c=$(buildah $store from scratch) && buildah $store add --quiet "$c" "$here/base.tar" / >/dev/null && buildah $store config --cmd bash "$c" &&
        buildah $store commit --quiet --rm "$c" "$tag" >/dev/null || exit 1
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
