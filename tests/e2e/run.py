"""End-to-end tests of deqd and deq: python3 tests/e2e/run.py [part of a test's name]...

Closes with "N passed, N failed[, N skipped]"; exit code 1 when something failed. DEQ_TIMES=1 prints how long each test
took."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import lib

# The long ones first, so that what is left for the end is short.
LONG = ("imports", "reload", "cli", "files", "life", "corpus", "supervise", "bench_serve", "load", "security")
MODULES = LONG + (
    "bench",
    "borders",
    "build",
    "chapters",
    "completions",
    "chat",
    "contract",
    "depth_control",
    "endpoints",
    "equilibria",
    "errors",
    "fields",
    "forms",
    "further",
    "imports_looped",
    "library",
    "model_chapters",
    "openapi",
    "origins",
    "page",
    "raw",
    "sequences",
    "states",
    "streams",
    "timings",
    "traces",
    "trellis",
    "twins",
    "wordlevel",
)

if __name__ == "__main__":
    sys.exit(lib.run_tests(MODULES, sys.argv[1:]))
