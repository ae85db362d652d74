#!/bin/sh
# The Python package as its wheel has it, in a virtual environment that make made: types, tests, the commands of its chapter, and the example.
#   tests/python/run.sh ENVIRONMENT WHEELS
set -eu
cd "$(dirname "$0")/../.."
env=$1
"$env/bin/pip" install --quiet --disable-pip-version-check -r tests/python/requirements.txt ||
    { echo "test-python: skipped: its packages could not be had"; exit 0; }
"$env/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$2"/deq-*.whl
"$env/bin/python" -m mypy --config-file core/python/pyproject.toml --cache-dir build/python-mypy -p deq
exec "$env/bin/python" -m pytest -q -p no:cacheprovider tests/python
