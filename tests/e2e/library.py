"""The library as it is installed: what it exports, its header by itself in three languages, and the examples, compiled
against the installed tree alone and run on the shipped model."""
import functools
import glob
import os
import re
import shutil
import tempfile

from lib import DEQ, DEQD, ROOT, SANITIZED, check, equal, run, skip

CLEAN = {"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": ""}
STORIES = os.path.join(ROOT, "models", "stories")
ONCE = "Once upon a time"


@functools.cache
def installed():
    """The tree, made once: of the compiler's own paths nothing is in it."""
    tree = tempfile.TemporaryDirectory()
    code, out, err = run(["make", "-C", ROOT, "-s", "install", "PREFIX=/usr", "DESTDIR=" + tree.name], env=CLEAN)
    equal(code, 0, "make install: %s%s" % (out, err))
    return tree


def place(*names):
    return os.path.join(installed().name, "usr", *names)


def compiled(source, *flags, compiler="cc"):
    """(exit code, what the compiler said, the program)"""
    env = {"PKG_CONFIG_PATH": place("lib", "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": installed().name}
    code, out, err = run(["pkg-config", "--cflags", "--libs", "deq"], env=env)
    equal((code, err), (0, ""), "pkg-config")
    program = place(os.path.basename(source) + ".run")
    code, _, err = run([compiler, *flags, "-Wall", "-Wextra", "-Wpedantic", "-Werror", source, *out.split(), "-lm",
                        "-o", program])
    return code, err, program


@functools.cache
def built(name):
    code, err, program = compiled(os.path.join(ROOT, "core", "examples", name + ".c"), "-std=c99",
                                  "-D_POSIX_C_SOURCE=200809L")
    equal(code, 0, name + ": " + err)
    return program


def example(name, *args, stdin=""):
    program = built(name)
    code, out, err = run([program, *args], env={"LD_LIBRARY_PATH": place("lib")}, input=stdin.encode())
    equal((code, err), (0, ""), name)
    return out


def skipped():
    missing = [p for p in ("cc", "pkg-config") if not shutil.which(p)]
    if SANITIZED or missing:
        skip("the installed library: " + ("this build is for sanitizers" if SANITIZED else "no " + " ".join(missing)))
    return SANITIZED or bool(missing)


def test_what_is_exported():
    if skipped():
        return
    with open(os.path.join(ROOT, "core", "deq.symbols")) as f:
        listed = f.read().split()
    equal(listed, sorted(listed), "core/deq.symbols is in order")
    with open(place("include", "deq.h")) as f:
        header = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    declared = set(re.findall(r"^\w[\w *]*?\b(deq_\w+)\([^;{}]*\);", header, re.M))
    equal(sorted(declared ^ set(listed)), [], "declared in deq.h or listed in core/deq.symbols, not both")
    (library,) = glob.glob(place("lib", "libdeq.so.*.*.*"))
    code, out, _ = run(["nm", "-D", "--defined-only", "--format=posix", library])
    exported = {line.split("@")[0].split()[0] for line in out.splitlines() if not line.startswith("LIBDEQ_")}
    equal((code, sorted(exported ^ set(listed))), (0, []), "exported or listed, not both")
    code, out, _ = run(["readelf", "-d", library])
    version = os.path.basename(library)[len("libdeq.so."):]
    check("soname: [libdeq.so.%s]" % version.rpartition(".")[0] in out, "its soname: " + out)
    needed = {n.split(".")[0] for n in re.findall(r"NEEDED.*\[(.*?)\]", out)}
    check(needed <= {"libjansson", "libunistring", "libyaml-0", "libm", "libc", "ld-linux-x86-64", "ld-linux-aarch64"},
          "what it needs: %s" % sorted(needed))
    equal(os.readlink(place("lib", "libdeq.so")), "libdeq.so." + version.rpartition(".")[0], "the linker's name")


def test_header_by_itself():
    if skipped():
        return
    source = place("header")
    for name, text in ((".c", "#include <deq.h>\n#include <deq.h>\nint main(void) { return !deq_version(); }\n"),
                       (".cc", "#include <deq.h>\nint main() { deq_event e{}; return e.kind == DEQ_EVENT_END || "
                               "!deq_version(); }\n")):
        with open(source + name, "w") as f:
            f.write(text)
    with open(place("include", "deq.h")) as f:
        text = f.read()
    equal(re.findall(r'#include "|\n\n\n', text), [], "no other header of ours")
    check(max(map(len, text.split("\n"))) <= 120, "its lines")
    for compiler, suffix, standard in (("cc", ".c", "c99"), ("c++", ".cc", "c++11"), ("clang", ".c", "c11"),
                                       ("clang++", ".cc", "c++20")):
        if not shutil.which(compiler):
            skip("deq.h: no " + compiler)
            continue
        # C++ warns of a function and a struct of one name, as stat's are
        flags = ["-std=" + standard] + (["-Wshadow"] if suffix == ".c" else [])
        code, err, program = compiled(source + suffix, *flags, compiler=compiler)
        equal((code, err), (0, ""), "%s -std=%s" % (compiler, standard))
        equal(run([program], env={"LD_LIBRARY_PATH": place("lib")})[0], 0, "and it runs")


def test_static_library():
    if skipped():
        return
    env = {"PKG_CONFIG_PATH": place("lib", "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": installed().name}
    _, out, _ = run(["pkg-config", "--cflags", "--static", "--libs", "deq"], env=env)
    flags = [place("lib", "libdeq.a") if f == "-ldeq" else f for f in out.split()]
    program = place("static")
    code, _, err = run(["cc", os.path.join(ROOT, "core", "examples", "generate.c"), *flags, "-o", program])
    equal(code, 0, err)
    equal(run([program, STORIES, ONCE])[1], example("generate", STORIES, ONCE), "the same text")


def test_example_generate():
    if skipped():
        return
    code, out, _ = run([DEQ, "generate", STORIES, ONCE, "--max-tokens", "40"])
    equal(example("generate", STORIES, ONCE), out, "generate, as deq generate")
    code, out, err = run([built("generate"), "/nowhere", ONCE], env={"LD_LIBRARY_PATH": place("lib")})
    check(code == 1 and out == "" and err.startswith("generate: /nowhere: not a directory"), err)


def test_example_score():
    if skipped():
        return
    out = example("score", STORIES, ONCE).splitlines()
    check(re.fullmatch(r"\d\.\d{3} bits a byte", out[-1]), out[-1])
    check(all(re.match(r" *-?\d+\.\d{4} +\d+ evaluations  ", line) for line in out[:-1]), "a line a token: %s" % out)


def test_example_equilibria():
    if skipped():
        return
    loose, tight = (sum(int(n) for n in re.findall(r"(\d+) evaluations", example("equilibria", STORIES, ONCE, tol)))
                    for tol in ("1e-1", "1e-4"))
    check(0 < loose < tight, "a smaller tolerance takes more evaluations: %d, %d" % (loose, tight))


def test_example_loop():
    if skipped():
        return
    prompts = [ONCE, "Tom had a red ball."] * 6  # more than it takes at once
    out = example("loop", STORIES, stdin="\n".join(prompts) + "\n").splitlines()
    equal(len(out), len(prompts), "a line a prompt: %s" % out)
    equal(len(set(out)), 2, "the same prompt, the same text, in any company")
    check(all(line.endswith(("[stop]", "[length]")) for line in out), "whole: %s" % out)


def test_one_version():
    """What is built and installed has the Makefile's; lint compares the files that say one by themselves."""
    with open(os.path.join(ROOT, "Makefile")) as f:
        version = re.search(r"^VERSION := (\S+)$", f.read(), re.M).group(1)
    for program in (DEQ, DEQD):
        name = os.path.basename(program)
        equal(run([program, "--version"]), (0, "%s %s\n" % (name, version), ""), name + " --version")
    if skipped():
        return
    equal(glob.glob(place("lib", "libdeq.so.*.*.*")), [place("lib", "libdeq.so." + version)], "the library's name")
    for path, pattern in ((place("include", "deq.h"), r'^#define DEQ_VERSION "(.*)"$'),
                          (place("lib", "pkgconfig", "deq.pc"), r"^Version: (.*)$"),
                          *((page, r'^\.TH .* "deqd (.*?)" ') for page in glob.glob(place("share", "man", "*", "*")))):
        with open(path) as f:
            equal(re.findall(pattern, f.read(), re.M), [version], path)
