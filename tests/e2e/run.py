"""End-to-end tests of deqd and deq: python3 tests/e2e/run.py [part of a test's name]...

Closes with "N passed, N failed[, N skipped]"; exit code 1 when something failed. DEQ_TIMES=1 prints how long each test took."""
import importlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import lib

MODULES = ("completions", "contract", "streams", "borders", "endpoints", "openapi", "errors", "raw", "corpus", "wordlevel", "imports", "build", "load", "security", "origins", "reload", "life", "supervise", "cli", "bench_serve")

if __name__ == "__main__":
    sys.exit(lib.run_tests([importlib.import_module(m) for m in MODULES], sys.argv[1:]))
