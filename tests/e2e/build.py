"""make itself: what it says when something is missing, how much it prints, what help lists."""
import os
import re
import shutil
import tempfile

from lib import ROOT, check, equal, run

# nothing of the make that runs this
CLEAN = {"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": "", "CC": "", "CFLAGS": ""}


def make(*args, **more):
    return run(["make", "-C", ROOT, "--no-print-directory", *args], env=CLEAN, **more)


def test_missing_libraries_are_named():
    with tempfile.TemporaryDirectory() as tmp:
        os.mkdir(os.path.join(tmp, "gnutls"))
        for name in ("yaml.h", "microhttpd.h", "gnutls/gnutls.h"):
            with open(os.path.join(tmp, name), "w") as f:
                f.write("#error not installed\n")
        code, out, err = make("CC=cc", "OUT=" + os.path.join(tmp, "build"), "CFLAGS=-I" + tmp)
        check(code == 2 and "CC " not in out, "it ends before anything is compiled: %d %s" % (code, out))
        lines = err.split("\n")
        check(lines[0].startswith("deqd cannot be built: missing yaml.h microhttpd.h gnutls/gnutls.h."), lines[0])
        check(lines[1].endswith(" install -y --no-install-recommends libyaml-dev libmicrohttpd-dev"),
              "the line to type: " + lines[1])


def test_missing_compiler_is_named():
    code, out, err = make("CC=/nowhere/cc", "needed")
    check(code == 2 and '"/nowhere/cc" does not work' in err and err.split("\n")[1].endswith(" gcc libc6-dev"), err)
    equal(make("CC=cc", "needed"), (0, "", ""), "with everything there")


def test_missing_python_is_named():
    code, out, err = run([shutil.which("make"), "-C", ROOT, "--no-print-directory", "python"],
                         env={**CLEAN, "PATH": "/nowhere"})
    check(code == 2 and out == "" and err.split("\n")[1].endswith(" python3 python3-venv"),
          "the line to type: %d %s%s" % (code, out, err))
    equal(make("python"), (0, "", ""), "with Python there")


def test_building_is_quiet():
    with tempfile.TemporaryDirectory() as tmp:
        what = [os.path.join(tmp, "release", "core", "base", "err.o")]
        code, out, err = make("CC=cc", "OUT=" + tmp, *what)
        equal((code, out, err), (0, "  CC   core/base/err.c\n", ""), "a line a file")
        os.remove(what[0])
        code, out, err = make("CC=cc", "OUT=" + tmp, "CFLAGS=-Wpedantic -Werror=pedantic -DDEQ_BASE_ERR_H -Wundef",
                              *what)
        check(code == 2 and out == "" and err.startswith("  CC   core/base/err.c\ncore/base/err.c:"),
              "a failure shows what the compiler said: %s%s" % (out, err))
        code, out, err = make("CC=cc", "OUT=" + tmp, "V=1", *what)
        check(code == 0 and out.startswith("cc -std=gnu11 ") and len(out.strip().split("\n")) == 1,
              "V=1 shows the command: %s" % out)


def test_help_lists_every_target():
    with open(os.path.join(ROOT, "Makefile")) as f:
        text = f.read()
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", text, re.M)).split())
    inner = {"cov-run", "link", "needed", "needed-unit", "objects", "python", "sanitized", "sanitized-threads"}
    code, out, _ = make("help")
    equal((code, set(re.findall(r"^  ([a-z0-9-]+) +\S", out, re.M))), (0, phony - inner), "make help")
