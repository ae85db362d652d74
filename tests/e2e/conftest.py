"""What pytest is told of the end-to-end tests: python3 -m pytest tests/e2e [-k PART].

A check (lib.py) that fails is noted, from any thread, and the test goes on; at its end the test fails, and its report
has all that was noted. What a test skipped stands in the summary: the whole test where it checked nothing else."""
import os
import sys

import pytest

sys.dont_write_bytecode = True

import lib  # noqa: E402

# no tests, or run by themselves
collect_ignore = ["authors.py", "authors_trellis.py", "front.py", "lib.py", "readme.py", "supervise_inner.py",
                  "threads.py"]
# These first, so that what is left for the end is short where several run at a time.
LONG = ("imports", "reload", "cli", "files", "life", "corpus", "supervise", "bench_serve", "load", "security")
_noted = []
_before = [0]


def pytest_configure(config):
    lib.tell[0] = lambda kind, text: _noted.append((kind, text))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One more than there are cores, since many tests wait, and three at most: no test knows of another."""
    return min(3, 1 + len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: LONG.index(i.path.stem) if i.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True, scope="module")
def shared_daemons():
    yield
    lib.stop_shared()
    lib.stop_forgotten()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    failed = "\n".join(text for kind, text in _noted if kind == "failed")
    skipped = [text for kind, text in _noted if kind == "skipped"]
    checks = lib.counts["passed"] + lib.counts["failed"] - _before[0]
    _noted.clear()
    _before[0] += checks
    if failed and report.outcome == "failed":
        report.sections.insert(0, ("checks that failed before", failed))
    elif failed:
        report.outcome, report.longrepr = "failed", failed
    elif call.when == "call" and report.outcome == "passed" and not checks and not skipped:
        report.outcome, report.longrepr = "failed", "nothing was checked"
    elif skipped and not checks and report.outcome == "passed":
        report.outcome, report.longrepr = "skipped", (str(item.path), item.location[1] + 1, "Skipped: " + skipped[0])
        skipped = []
    report.user_properties = [("checks", checks)] + [("skipped in part", text) for text in skipped]


def pytest_terminal_summary(terminalreporter):
    said = [(r.nodeid, *p) for kind in ("", "passed", "failed", "error", "skipped")
            for r in terminalreporter.stats.get(kind, ())
            for p in getattr(r, "user_properties", ())]  # a file that cannot be imported has none
    for test, kind, text in said:
        if kind == "skipped in part":
            terminalreporter.line("%s: skipped in part: %s" % (test, text))
    terminalreporter.line("%d checks" % sum(n for _, kind, n in said if kind == "checks"))
