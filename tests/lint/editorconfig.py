"""What .editorconfig says of bytes, of every text file that git knows or would: UTF-8, line feeds, one at the end, no
white space at a line's end, tabs where it has tabs alone. Silent when all is well. Its widths are others' to hold."""
import re
import subprocess
import sys

# as the last sections of .editorconfig
ANY = re.compile(r"tests/(golden|http|fuzz/corpus)/")
TRAILING = re.compile(r"docker/k8s/manifests/")
TABS = re.compile(r"(.*/)?(Makefile|rules|.*\.go)$")


def wrong(name, data):
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        return f"byte {e.start} is not UTF-8"
    if "\r" in text:
        return "a carriage return"
    if text and not text.endswith("\n"):
        return "no line feed at the end"
    for n, line in enumerate(text.split("\n"), 1):
        if line.rstrip() != line and not TRAILING.match(name):
            return f"line {n} ends with white space"
        if re.match(r" *\t", line) and not TABS.match(name):
            return f"line {n} is indented by a tab"
    return None


listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], capture_output=True, check=True).stdout
bad = 0
for name in sorted(set(listed.decode().split("\0")) - {""}):
    try:
        data = open(name, "rb").read()
    except (FileNotFoundError, IsADirectoryError):  # removed, but not yet for git; a repository within
        continue
    what = None if ANY.match(name) or b"\0" in data else wrong(name, data)
    if what:
        print(f"{name}: {what}")
        bad = 1
sys.exit(bad)
