#!/bin/sh
# etc/prometheus and etc/grafana against a real Prometheus that scrapes a loaded daemon; two minutes. Needs Debian's prometheus, whose package is
# unpacked under build/ when the system has none.
#   tests/observe/run.sh [--picture etc/grafana/deqd.png] [filter ...]
# --picture also draws the board (matplotlib, in a Python environment under build/).
set -u
cd "$(dirname "$0")/../.." || exit 2
debs=$PWD/build/clients/debs
python=python3

PATH="$PATH:/usr/sbin"
if ! command -v prometheus >/dev/null && ! [ -e "$debs/prometheus" ]; then
    mkdir -p "$debs"
    (cd "$debs" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg -x prometheus_*.deb prometheus.part &&
        mv prometheus.part prometheus) >"$debs/log" 2>&1 || tail -n 2 "$debs/log"
fi
PATH="$PATH:$debs/prometheus/usr/bin"
if ! prometheus --version >/dev/null 2>&1; then
    echo "observe: skipped: no prometheus, and its package could not be had"
    exit 0
fi
if [ "${1:-}" = --picture ]; then
    env=build/observe-venv
    [ -x "$env/bin/python" ] || python3 -m venv "$env" || exit 1
    "$env/bin/pip" install --quiet --disable-pip-version-check 'matplotlib>=3.9,<4' || exit 1
    python=$env/bin/python
fi
exec "$python" tests/observe/observe.py "$@"
