#!/usr/bin/env python3
"""What goes wrong around whole processes: python3 tests/fault/run.py [PART ...], of start, libc, disks, kills.

start  DEQ_FAULT from outside, over a daemon's life: loading, requests, states, the end
libc   random failures of the C library inside libmicrohttpd, jansson, libyaml and the rest (libfiu)
disks  full and read-only file systems
kills  SIGKILL at random instants of training and of serving

Places inside the library and the server's rooms are walked one by one by tests/fault/*.c, within build/release/unit."""
import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import lib  # noqa: E402

PARTS = ("start", "libc", "disks", "kills")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", nargs="*", metavar="PART", help="all but kills where none is named")
    parts = flags.parse_args().part or [p for p in PARTS if p != "kills"]
    if set(parts) - set(PARTS):
        flags.error("the parts are " + " ".join(PARTS))
    sys.exit(lib.main("faults", parts))


if __name__ == "__main__":
    main()
