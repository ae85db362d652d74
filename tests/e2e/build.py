"""make itself: what it says when something is missing, how much it prints, what help lists; the man pages."""
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

from lib import DEQ, DEQD, ROOT, check, equal, run, skip

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
        with open(os.path.join(tmp, "cmocka.h"), "w") as f:
            f.write("#error not installed\n")
        code, out, err = make("CC=cc", "needed-unit", "CFLAGS=-I" + tmp)
        check(code == 2 and "missing cmocka.h." in err and err.split("\n")[1].endswith("recommends libcmocka-dev"), err)
    equal(make("CC=cc", "needed-unit"), (0, "", ""), "with everything there for the unit tests")


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
    code, out, err = make("pytest", "PYTEST=")
    check(code == 2 and out == "" and err.split("\n")[1].endswith(" python3-pytest python3-pytest-xdist"),
          "without pytest, the line to type: %d %s%s" % (code, out, err))


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
    inner = {"cov-run", "link", "needed", "needed-unit", "objects", "places", "pytest", "python",
             "sanitized", "sanitized-threads"}
    code, out, _ = make("help")
    equal((code, set(re.findall(r"^  ([a-z0-9-]+) +\S", out, re.M))), (0, phony - inner), "make help")
    check(max(map(len, out.split("\n"))) <= 100, "its lines are short")


def test_configuration_is_the_tables():
    code, out, err = run([DEQD, "--print-config"])
    with open(os.path.join(ROOT, "etc", "deqd.yaml"), encoding="utf-8") as f:
        want = f.read()
    differ = [(a, b) for a, b in zip(out.split("\n"), want.split("\n")) if a != b]
    check(code == 0 and out == want, "etc/deqd.yaml is what deqd --print-config prints: %s %s" % (differ[:3], err))


def listed(program, *command):
    """What the help of a command lists: names, each with what it is."""
    code, out, _ = run([program, *command, "--help"])
    block = re.search(r"^(?:Commands|Kinds):\n((?:  .*\n)+)", out, re.M)
    text = re.sub(r"\n {10,}", " ", block.group(1)) if block else ""
    return dict(re.findall(r"^  ([a-z]+) +(.*)$", text, re.M))


def test_man_pages():
    """A page for every command that --help lists, with the right name, whole sections and no warnings."""
    if not shutil.which("help2man"):
        skip("man pages: there is no help2man")
        return
    with tempfile.TemporaryDirectory() as tmp:
        def pages(to):
            code, out, err = run(["sh", "etc/man.sh", os.path.dirname(DEQ), to, "1.2.3"], cwd=ROOT,
                                 env={"SOURCE_DATE_EPOCH": "86400"})
            equal((code, out, err), (0, "", ""), "etc/man.sh")
            return {name: open(os.path.join(to, name), encoding="utf-8").read() for name in os.listdir(to)}

        with ThreadPoolExecutor() as pool:
            found, again = pool.map(pages, (os.path.join(tmp, "one"), os.path.join(tmp, "two")))
        equal(again, found, "the same time, the same bytes")
        names = {"deq.1": None, "deqd.8": None}
        for c, about in listed(DEQ).items():
            names[f"deq-{c}.1"] = about
            names.update((f"deq-{c}-{k}.1", what) for k, what in listed(DEQ, c).items())
        check(len(names) >= 18, "commands were found: %s" % sorted(names))
        equal(sorted(found), sorted(names), "a page each")
        for name, about in names.items():
            text = found.get(name, "")
            command = name[:-2]
            plain = text.replace("\\-", "-")
            said = re.search(r'^\.TH \S+ "(.)" "(\S+)" "(.*?)".*\n\.SH NAME\n(\S+) - (.*)\n', plain, re.M)
            equal(said and said.groups()[:4], (name[-1], "1970-01-02", "deqd 1.2.3", command), name)
            check(said and about in (None, said.group(5)), "%s: what it is, as in the list: %s" % (name, said))
            program = command.split("-")
            synopsis = re.search(r"^\.SH SYNOPSIS\n\.B (.*)\n(.*)\n\.SH DESCRIPTION\n\w", text, re.M)
            check(synopsis and synopsis.group(1).split() == program and not set(program) & set(
                re.findall(r"\w+", synopsis.group(2))), "%s: synopsis: %s" % (name, synopsis))
            flags = set(re.findall(r"^  (--[a-z0-9-]+)", run([DEQD if command == "deqd" else DEQ, *program[1:],
                                                         "--help"])[1], re.M))
            check(all(re.search(r"^\\fB%s\\fR" % flag, plain, re.M) for flag in flags), "%s: its flags" % name)
            others = re.findall(r"^\.BR (\S+) \((.)\)", text[text.index(".SH \"SEE ALSO\""):], re.M)
            check(others and all(f"{o}.{n}" in found for o, n in others if o != "systemctl"), "%s: %s" % (name, others))
        for tool, line in (("mandoc", ["mandoc", "-T", "lint", "-W", "warning"]), ("lexgrog", ["lexgrog"]),
                           ("man", ["man", "--warnings", "-E", "UTF-8", "-l"])):
            if not shutil.which(tool):
                skip(f"man pages: there is no {tool}")
                continue
            for name in sorted(found):
                code, out, err = run([*line, os.path.join(tmp, "one", name)])
                check(code == 0 and not err and (tool != "mandoc" or not out), "%s: %s: %s%s" % (tool, name, err, out))


def test_man_pages_without_help2man():
    code, out, err = run(["/bin/sh", "etc/man.sh", os.path.dirname(DEQ), "/nowhere/man", "1.2.3"], cwd=ROOT,
                         env={"PATH": "/nowhere"})
    equal((code, out, err), (0, "man: skipped: there is no help2man (apt-get install help2man)\n", ""), "says why")


def test_places_to_install():
    """What the shell would take for two paths, or for something else, is refused before anything is touched."""
    for place in ("DESTDIR=/a b", "PREFIX=/a b", "PREFIX=a", "MANDIR=/a|b", "LIBDIR=/a&b", "SYSCONFDIR=/*"):
        code, _, err = make("places", place)
        check(code == 2 and err.startswith("make: %s: expected a path " % place), "%s: %d %s" % (place, code, err))
    equal(make("places", "DESTDIR=a", "PREFIX="), (0, "", ""), "a DESTDIR that is not of the root, and no PREFIX")
    with tempfile.TemporaryDirectory() as tmp:
        os.makedirs(os.path.join(tmp, "a", "share", "deqd"))
        for target in ("install", "uninstall"):
            code, _, err = make(target, "CC=cc", "DESTDIR=" + tmp, "PREFIX=/a /b")
            check(code == 2 and "make: PREFIX=/a /b: expected" in err, "%s: %d %s" % (target, code, err))
        equal([files for _, _, files in os.walk(tmp)], [[]] * 4, "nothing was installed")
        check(os.path.isdir(os.path.join(tmp, "a", "share", "deqd")), "nothing was removed")
