"""What the scripts here share: the end-to-end tests' library (starting the daemon, counting checks) and one line at the
end."""
import os
import sys
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "e2e"))
import lib  # noqa: E402

STORIES = os.path.join(lib.ROOT, "models", "stories")


def scratch(*names):
    """A directory for what a script writes, under build/."""
    path = os.path.join(lib.ROOT, "build", "clients", *names)
    os.makedirs(path, exist_ok=True)
    return path


def main(name):
    """Runs every test_* function of the script."""
    for key, fn in list(vars(sys.modules["__main__"]).items()):
        if key.startswith("test_"):
            lib._now[0] = key
            try:
                fn()
            except Exception:
                lib.note("failed", "exception\n" + traceback.format_exc())
    c = lib.counts
    print("%s: %d passed, %d failed%s" % (name, c["passed"], c["failed"],
                                          ", %d skipped" % c["skipped"] if c["skipped"] else ""), flush=True)
    sys.exit(bool(c["failed"]))
