#!/bin/sh
# Builds the Debian packages (make deb), has lintian look at them, and installs, uses, upgrades, removes and purges them in a Debian root of their own,
# which debootstrap makes (tests/docker/base.sh) and in which no service is started but by packages.py. Nothing is installed into this system.
set -u
cd "$(dirname "$0")/../.." || exit 2
skip() { echo "deb: skipped: $*"; exit 0; }

[ "$(id -u)" = 0 ] || skip "needs root (debootstrap, chroot)"
missing=
for tool in debootstrap dh dpkg-buildpackage help2man lintian objdump; do command -v "$tool" >/dev/null || missing="$missing $tool"; done
[ -z "$missing" ] || skip "no$missing; apt-get install --no-install-recommends debootstrap build-essential debhelper help2man lintian"
apart="unshare --mount --pid --fork --kill-child --net"
$apart true 2>/dev/null || skip "no namespaces here: $($apart true 2>&1)"
said=$(sh tests/docker/base.sh) || skip "$(echo "$said" | tail -n 1)"

out=$PWD/build/deb
begin=$(date +%s)
env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make deb >build/deb.log 2>&1 || { tail -n 20 build/deb.log; echo "deb: the build failed (build/deb.log)"; exit 1; }
echo "deb: built in $(($(date +%s) - begin)) s"
bad=0
lintian --allow-root --no-cfg --fail-on error,warning --info "$out"/*.changes || bad=1

# mounts in the root end with this namespace
unshare --mount --pid --fork --kill-child python3 tests/deb/packages.py "$out" || bad=1
exit "$bad"
