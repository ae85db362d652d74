"""The harnesses of the unit and the end-to-end tests: what must fail does, and says why."""
import os
import re
import shutil
import sys
import tempfile

from lib import DEQD, ROOT, TINY, check, equal, run, skip

UNIT = r"""
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include "tests/unit/test.h"
static void *fails(void *seconds)
{
    sleep(seconds ? 1 : 0);
    CHECK(!"in a thread");
    return NULL;
}
static void start(void *seconds, int join)
{
    pthread_t t;
    CHECK(!pthread_create(&t, NULL, fails, seconds));
    join ? pthread_join(t, NULL) : pthread_detach(t);
}
TEST(good) { CHECK(1); }
TEST(thread) { start(NULL, 1); }
TEST(behind) { start(&test_checks, 0); }
TEST(longer) { sleep(2); CHECK(1); }
TEST(nothing) { }
TEST(leaves) { exit(0); }
TEST(crashes) { CHECK(!"before"); abort(); }
TEST(skipped) { CHECK(!"before"); SKIP("why"); }
"""


def test_unit_tests():
    built = os.path.dirname(os.path.realpath(DEQD))
    if os.path.basename(built) != "release":
        skip("the harness of the unit tests: it is linked with the release build")
        return
    with tempfile.TemporaryDirectory() as tmp:
        path, program = os.path.join(tmp, "cases.c"), os.path.join(tmp, "cases")
        with open(path, "w") as f:
            f.write(UNIT)
        code, out, err = run(["cc", "-std=gnu11", "-I" + ROOT, path, os.path.join(ROOT, "tests", "unit", "main.c"),
                              os.path.join(built, "libdeq.a"), "-lcmocka", "-ljansson", "-lyaml", "-lzip",
                              "-lunistring", "-lm", "-lpthread", "-o", program])
        if not check(code == 0, "it is built: %s%s" % (out, err)):
            return
        for names, want, says in ((["good"], 0, "1 checks"), (["thread"], 1, 'failed: !"in a thread"'),
                                  (["good", "none_of_this_name"], 1, r"no test is named \*none_of_this_name\*"),
                                  (["nothing"], 1, "failed: a test checks something"),
                                  (["leaves"], 1, "a test ended the program"),
                                  (["crashes"], -6, 'failed: !"before"'), (["skipped"], 1, 'failed: !"before"'),
                                  (["behind", "longer"], 1, 'failed: !"in a thread"')):
            code, out, err = run([program, *names])
            check(code == want and re.search(says, out), "unit %s: %d %s%s" % (names, code, out, err))


E2E = """
import os, threading
import pytest
from lib import Daemon, check, shared, skip
@pytest.fixture
def broken():
    raise RuntimeError("broken")
def test_good(): check(True, "")
def test_skipped(): skip("why")
def test_check(): check(False, "it holds")
def test_check_in_thread(): thread(lambda: check(False, "it holds"))
def test_raises(): raise KeyError("raised")
def test_raises_in_thread(): check(True, ""), thread(lambda: {}["raised"])
def test_leaves(): raise SystemExit(0)
def test_nothing(): pass
def test_skips_behind_failure(): check(False, "it holds"), pytest.skip("why")
def test_fixture(broken): check(True, "")
def thread(fn):
    t = threading.Thread(target=fn)
    t.start()
    t.join()
"""
DAEMONS = """
from lib import Daemon, check
def test_forgets(): check(Daemon(model=%r).first, "it starts")
""" % TINY


def test_suites_of_their_own():
    """lib.main(), which runs what pytest does not."""
    with tempfile.TemporaryDirectory() as tmp:
        for name in ("good", "check", "check_in_thread", "raises", "raises_in_thread", "leaves"):
            body = next(line for line in E2E.split("\n") if line.startswith("def test_%s(" % name))
            with open(os.path.join(tmp, "cases.py"), "w") as f:
                f.write("import threading\nfrom lib import check, main\n%s%s\n\nraise SystemExit(main('cases'))\n" %
                        (E2E[E2E.index("def thread("):], body))
            code, out, err = run([sys.executable, os.path.join(tmp, "cases.py")],
                                 env={"PYTHONPATH": os.path.join(ROOT, "tests", "e2e")})
            equal(code, int(name != "good"), "%s: %s%s" % (name, out, err))


def test_end_to_end_tests():
    """Each test that must fail does, in a copy of the harness with a broken file beside it."""
    with tempfile.TemporaryDirectory() as tmp:
        there = os.path.join(tmp, "tests", "e2e")
        os.makedirs(there)
        for name in ("conftest.py", "lib.py", "pytest.ini"):
            shutil.copy(os.path.join(ROOT, "tests", "e2e", name), there)
        for name, text in (("cases.py", E2E), ("daemons.py", DAEMONS)):
            with open(os.path.join(there, name), "w") as f:
                f.write(text)
        env = {"DEQ_BUILD": os.path.dirname(DEQD), "PYTEST_ADDOPTS": ""}

        def pytest(*more):
            return run([sys.executable, "-m", "pytest", "-q", there, *more], env=env, cwd=tmp)[:2]

        code, out = pytest()
        found = dict(reversed(r) for r in re.findall(r"^(FAILED|ERROR|SKIPPED).*?::(test_\w+)", out, re.M))
        want = {name: "FAILED" for name in re.findall(r"^def (test_\w+)", E2E, re.M)}
        want.update(test_fixture="ERROR", test_forgets="ERROR")
        del want["test_good"], want["test_skipped"]
        equal((code, found), (1, want), "what fails: " + out)
        check(re.search(r"^SKIPPED .*: why$", out, re.M), "what was skipped: " + out)
        for says in ("KeyError: 'raised'", "it holds", "nothing was checked", "a daemon was left running"):
            check(says in out, "it says %r: %s" % (says, out))
        code, out = pytest("-k", "none_of_this_name")
        equal(code, 5, "no test of the name: " + out)
        with open(os.path.join(there, "unimportable.py"), "w") as f:
            f.write("import none_of_this_name\n")
        code, out = pytest()
        check(code == 2 and "No module named 'none_of_this_name'" in out and "conftest.py" not in out,
              "a file that cannot be imported: %d %s" % (code, out))
