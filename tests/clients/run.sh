#!/bin/sh
# The official openai client for Python against the daemon, in a virtual environment of its own under build/.
set -eu
cd "$(dirname "$0")/../.."
venv=build/clients-venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet openai==3.54.0
exec "$venv/bin/python" tests/clients/openai_client.py
