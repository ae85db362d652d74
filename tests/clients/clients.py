"""What the scripts here share: the end-to-end tests' library (starting the daemon, counting checks) and one line at the
end."""
import os
import sys

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
    sys.exit(lib.main(name))
