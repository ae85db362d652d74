#!/bin/sh
# Runs a script here with Debian's HAProxy. Where the system has none, its package and the libraries of it that are missing are unpacked under build/; nothing is
# installed and no root is needed.
#   tests/scaleout/run.sh scaleout|throughput [arguments of the script]
set -u
cd "$(dirname "$0")/../.."
debs=$PWD/build/scaleout
PATH="$PATH:/usr/sbin"

unpacked() {
    LD_LIBRARY_PATH="$debs/root/usr/lib/$(gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    PATH="$PATH:$debs/root/usr/sbin"
    export LD_LIBRARY_PATH
    haproxy -v >/dev/null 2>&1
}
download() {
    mkdir -p "$debs/root"
    cd "$debs" && apt-get download -qq haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 && for f in ./*.deb; do dpkg -x "$f" root || return; done
}
if ! command -v haproxy >/dev/null && ! unpacked; then
    { (download) || { apt-get update -qq && (download); }; } >"$debs.log" 2>&1
    haproxy -v >/dev/null 2>&1 || { echo "scale-out: skipped: no haproxy, and its package could not be had or does not run ($debs.log)"; exit 0; }
fi
script=$1
shift
exec python3 "tests/scaleout/$script.py" "$@"
