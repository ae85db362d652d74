#!/usr/bin/env python3
"""What the tests reach, room by room: python3 tests/tools/coverage.py REPORT [FILE...]

Reads the report of gcovr --json and prints lines and branches of every room, and of what strangers and files reach, who
may, and who is next, which have a goal of their own. With files (or `all`): their lines of which a branch is never
taken. Exit code 1 when a goal is missed.

A branch is what gcc makes of the source without optimisation: each side of each condition. None is left out."""
import collections
import json
import os
import re
import sys

ROOM_GOAL, PART_GOAL = 92.0, 95.0  # percent of branches

PARTS = {
    "parsers": r"server/api/(request\w*|fields|neutral)\.c|server/net/(head|header|origin)\.c|"
               r"core/base/(json\w*|utf8|yaml|options|tokens)\.c|core/form/\w+\.c|core/text/(stream|added|pretok)\.c|"
               r"core/import/jinja\w*\.c",
    "loaders": r"core/data/\w+\.c|core/text/(tokenizer_(load|config|bpe|wordlevel|tokens)|bpe|wordlevel)\.c|"
               r"core/engine/(saved|state|prefix_file)\.c|core/cell/(config|\w+_weights)\.c|core/train/checkpoint\.c",
    "auth": r"server/auth\.c",
    "scheduler": r"server/work/(sched|fair|engine_thread|elastic|depth|flush)\.c",
}


class Sum:
    def __init__(self):
        self.lines = self.lines_hit = self.branches = self.branches_hit = 0

    def add(self, line):
        self.lines += 1
        self.lines_hit += line["count"] > 0
        self.branches += len(line["branches"])
        self.branches_hit += sum(b["count"] > 0 for b in line["branches"])

    def row(self, name, goal):
        share = 100 * self.branches_hit / max(1, self.branches)
        print("%-14s %6d lines %5.1f %%  %6d branches %5.1f %%%s" % (
            name, self.lines, 100 * self.lines_hit / max(1, self.lines), self.branches, share,
            f"  below {goal:g}" if goal and share < goal else ""))
        return bool(goal and share < goal)


def tell(name, lines):
    source = open(name, encoding="utf-8").read().splitlines()
    for line in lines:
        n, never = line["line_number"], sum(not b["count"] for b in line["branches"])
        if never or not line["count"]:
            what = f"{never} of {len(line['branches'])} branches never" if line["count"] else "never"
            print(f"{name}:{n}: {what}: {source[n - 1].strip()}")


def main():
    report = json.load(open(sys.argv[1], encoding="utf-8"))
    rooms, parts, whole = collections.defaultdict(Sum), collections.defaultdict(Sum), Sum()
    for f in report["files"]:
        name = f["file"]
        lines = [line for line in f["lines"] if not line["gcovr/noncode"]]
        for line in lines:
            rooms[os.path.dirname(name)].add(line)
            for part in PARTS:
                if re.fullmatch(PARTS[part], name):
                    parts[part].add(line)
            whole.add(line)
        if name in sys.argv[2:] or "all" in sys.argv[2:]:
            tell(name, lines)
    missed = 0
    for room in sorted(rooms):
        missed += rooms[room].row(room, ROOM_GOAL)
    for part in PARTS:
        missed += parts[part].row(part, PART_GOAL)
    whole.row("core, server", 0)
    sys.exit(missed > 0)


main()
