#!/usr/bin/env python3
"""Writes core/text/unicode_tables.h: the ranges of \\p{L}, \\p{N} and White_Space.

    pip install unicodedata2==16.0.0
    gen_unicode_tables.py > core/text/unicode_tables.h

The version is fixed: it is the one the `tokenizers` library compiles in, and a token is only reproducible when both
agree on every code point. check_hf.py compares all of them."""
import sys

import unicodedata2

VERSION = "16.0.0"
# PropList.txt; stable since Unicode 6.3 and not derivable from the general category
WHITE_SPACE = [(0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
               (0x2028, 0x2029),
               (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)]


def ranges(major):
    out = []
    for cp in range(0x110000):
        if unicodedata2.category(chr(cp))[0] != major:
            continue
        if out and out[-1][1] == cp - 1:
            out[-1][1] = cp
        else:
            out.append([cp, cp])
    return out


def table(name, comment, rows):
    print(f"\n/* {comment}: {len(rows)} ranges, {sum(b - a + 1 for a, b in rows)} code points */")
    print(f"static const struct deq_cp_range {name}[] = {{")
    for i in range(0, len(rows), 5):
        print("    " + " ".join(f"{{0x{a:x}, 0x{b:x}}}," for a, b in rows[i:i + 5]))
    print("};")


if unicodedata2.unidata_version != VERSION:
    sys.exit(f"unicodedata2 has Unicode {unicodedata2.unidata_version}, wanted {VERSION}")
print(f"""/* Written by tests/tools/gen_unicode_tables.py from Unicode {VERSION}; do not edit. Sorted, disjoint,
 * inclusive ranges. */
#ifndef DEQ_TEXT_UNICODE_TABLES_H
#define DEQ_TEXT_UNICODE_TABLES_H

#include <stdint.h>

#define DEQ_UNICODE_VERSION "{VERSION}"

struct deq_cp_range {{
    uint32_t first, last;
}};""")
table("deq_cp_letter", r"\p{L}", ranges("L"))
table("deq_cp_number", r"\p{N}", ranges("N"))
table("deq_cp_space", "White_Space", WHITE_SPACE)
print("\n#endif")
