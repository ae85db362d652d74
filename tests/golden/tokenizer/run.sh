#!/bin/sh
# Compares our tokenizer with the tokenizers library, in a virtual environment of its own under build/.
set -eu
cd "$(dirname "$0")/../../.."
venv=build/tokenizer-venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet tokenizers==0.23.3
"$venv/bin/python" tests/golden/tokenizer/check_hf.py "$@"
"$venv/bin/python" tests/golden/tokenizer/check_wordlevel.py "$@"
