"""The front page, README.md: its examples print what it shows, its moving picture is what the shipped model does, the
figures of its table of peers stand in the chapters that have their commands, and its bars are the table's. --write of
readme.py puts in what is printed and drawn today.

An example is a command with a fenced block behind it. White space is not compared. "…" stands for what is left out: of
JSON the keys that the page does not name, of lines those whose first word it does not have. Not compared are rates
(tokens/s) and numbers below 1e-4, which are what rounding leaves and depend on the CPU."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap

sys.path.append("tests/bench/peers")
import plot  # noqa: E402

PAGE, HERE, WIDTH, WAVEFRONT = "README.md", "127.0.0.1:8080", 100, "core/wavefront.svg"
CHAPTERS = ("tests/bench/README.md", "models/claims/README.md")  # where measured figures stand
# an indented line, and lines behind it that are indented further
COMMAND = r"^    (\S.*(?:\n {5,}\S.*)*)$"
EXAMPLE = re.compile(COMMAND + r"(?:\n\n```(\w+)\n((?:(?!```).*\n)*)```$)?", re.M)


def steady(printed, language):
    """What the next run prints again."""
    if language == "json":
        return json.dumps(json.loads(printed), ensure_ascii=False)
    return re.sub(r"[\d.]+ tokens/s", "… tokens/s", printed)


def agree(shown, printed):
    def bare(text):
        return re.sub(r"\d\.\d+e-(0[5-9]|\d\d)", "~", re.sub(r"\s+", "", text))
    parts = [re.escape(part) for part in re.sub(r"…+", "…", bare(shown)).split("…")]
    return re.fullmatch(".*?".join(parts), bare(printed), re.S) is not None


def left_out(parts, part):
    """Adds "…", once, in place of what is not shown."""
    if not part:
        part = "…"
    if part != "…" or parts[-1:] != ["…"]:
        parts.append(part)


def members(value, keys):
    if isinstance(value, list):
        return "[%s]" % ", ".join(members(v, keys) for v in value)
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    parts = []
    for key, v in value.items():
        left_out(parts, '"%s": %s' % (key, members(v, keys)) if key in keys else None)
    return "{%s}" % ", ".join(parts)


def renewed(shown, printed, language):
    """What was printed, with as much of it as the page had."""
    if language == "json":
        lines = [members(json.loads(printed), set(re.findall(r'"(\w+)":', shown)))]
    else:
        lines, words = [], {line.split()[0] for line in shown.splitlines() if line.split()}
        for line in printed.splitlines():
            left_out(lines, line if "…" not in words or line.split()[:1] and line.split()[0] in words else None)
    return "".join(textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n" for line in lines)


def examples(check, write):
    page = open(PAGE).read()
    found = [m for m in EXAMPLE.finditer(page) if not m[1].startswith("apt-get")]
    check(sum(m[3] is not None for m in found) >= 5, f"{PAGE}: five examples with what they print")
    daemon = subprocess.Popen(["build/deqd", "--model", "models/stories", "--listen", "127.0.0.1:0"],
                              stderr=subprocess.PIPE, text=True)
    shown_new = {}
    try:
        there = json.loads(daemon.stderr.readline())["address"]
        with tempfile.TemporaryDirectory() as work:
            for m in found:
                command, language, shown = m.groups()
                if command.startswith("curl") and not shutil.which("curl"):
                    print("skipped: curl is not installed:", command)
                    continue
                print("readme:", " ".join(command.split())[:110], flush=True)
                r = subprocess.run(command.replace(HERE, there).replace("build/theirs", f"{work}/theirs"), shell=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
                check(r.returncode == 0, f"{command}: status {r.returncode}\n{r.stdout[-400:]}")
                if r.returncode or shown is None:
                    continue
                printed = steady(r.stdout, language)
                if write:
                    shown_new[m.start(3)] = (m.end(3), renewed(shown, printed, language))
                else:
                    check(agree(shown, printed), f"{command}: prints {printed}, and {PAGE} shows {shown}; python3 "
                          "tests/e2e/readme.py --write renews it")
    finally:
        daemon.send_signal(signal.SIGINT)
        check(daemon.wait(timeout=60) == 0, "the daemon's exit code")
    for at, (end, new) in sorted(shown_new.items(), reverse=True):
        page = page[:at] + new + page[end:]
    if write:
        open(PAGE, "w").write(page)


def picture(check, write):
    """An answer has the same bits on every machine, and so the picture of its rows."""
    with tempfile.TemporaryDirectory() as work:
        drawn = WAVEFRONT if write else f"{work}/wavefront.svg"
        r = subprocess.run([sys.executable, "tests/page/wavefront.py", drawn], capture_output=True, text=True)
        check(r.returncode == 0, f"tests/page/wavefront.py: {r.stderr}")
        check(not r.returncode and open(drawn).read() == open(WAVEFRONT).read(),
              f"{WAVEFRONT} is not what models/stories-transformer does: python3 tests/e2e/readme.py --write")


def figures(check, write):
    page = open(PAGE).read()
    chapters = "\n".join(open(c).read() for c in CHAPTERS)
    for line in page.split("| work |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]:
        _, ours, other, _, times = (c.strip() for c in line.strip("|").split("|"))
        value = []
        for cell in (ours, other):
            figure, unit = cell.split(" ", 1)
            check(re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d]|[.,]\d)", chapters),
                  f"{PAGE}: {cell} stands in none of {', '.join(CHAPTERS)}")
            value.append(float(figure.replace(",", "")) * (1000 if unit == "GB" else 1))
        ratio = value[0] / value[1] if "tokens/s" in ours else value[1] / value[0]
        check(abs(float(times.rstrip("x")) / ratio - 1) < 0.06, f"{PAGE}: {line}: {ratio:.3g}x")
    if write:
        open(plot.FILE, "w").write(plot.draw(page))
    check(os.path.exists(plot.FILE) and open(plot.FILE).read() == plot.draw(page),
          f"{plot.FILE} is not the table of {PAGE}: python3 tests/e2e/readme.py --write")
