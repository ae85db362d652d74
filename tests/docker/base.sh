#!/bin/sh
# build/docker/base.tar: the root of a minimal Debian, made once by debootstrap from the mirror that this machine's apt is set to. apt in it gets its
# packages the way apt here does. make test-docker builds its image on it, make test-deb installs packages into it. Needs root.
# What hinders it is its last line; then it exits 1.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/build/docker
suite=bookworm
[ -e "$here/base.tar" ] && exit
hindered() { echo "$*"; exit 1; }
sources() { # every index of this release that apt uses here: site, suite, component
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN)|$(SITE)|$(RELEASE)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' -v s="$suite" '$1 == "Debian" && ($4 == s || index($4, s "-") == 1) { print $2, $4, $5 }' | sort -u
}
site=$(sources | awk -v s="$suite" '$2 == s && $3 == "main" { print $1; exit }')
[ -n "$site" ] || hindered "apt here knows no Debian $suite to make a base of (apt-get update?)"
echo "making a base of Debian $suite by debootstrap"
rm -rf "$here/base"
mkdir -p "$here"
proxy=$(apt-config dump --format '%v' Acquire::http::Proxy)
http_proxy=${http_proxy:-$proxy} debootstrap --variant=minbase "$suite" "$here/base" "$site" >"$here/debootstrap.log" 2>&1 ||
    hindered "debootstrap failed: $(tail -n 1 "$here/debootstrap.log") ($here/debootstrap.log)"
sources | sed 's/^/deb /' >"$here/base/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::(http|https|Check-|Retries)' >"$here/base/etc/apt/apt.conf.d/90host"
rm -rf "$here"/base/var/cache/apt/archives/*.deb "$here"/base/var/lib/apt/lists/*
tar -cf "$here/base.tmp" --numeric-owner -C "$here/base" .
mv "$here/base.tmp" "$here/base.tar"
rm -rf "$here/base"
