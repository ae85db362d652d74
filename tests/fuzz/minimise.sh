#!/bin/sh
# Makes the committed corpus of targets small again: of all inputs that fuzzing has kept, those that together reach as
# much of the code; at most FILES, of all sizes, and BYTES of them a target. Files with names that are not hashes stay.
#
#     FILES=150 BYTES=60000 sh tests/fuzz/minimise.sh TARGET...             after make fuzz T=TARGET
set -eu
cd "$(dirname "$0")/../.."
files=${FILES:-150} bytes=${BYTES:-60000}
out=build/fuzz
for t in "$@"; do
    kept=tests/fuzz/corpus/$t small=$out/minimised/$t
    rm -rf "$small"
    mkdir -p "$small" "$kept" "$out/corpus/$t" "$out/seeds/$t"
    OPENBLAS_NUM_THREADS=1 "$out/fuzz_$t" -merge=1 -use_counters=0 -max_len=16384 -timeout=60 -print_funcs=0 \
        "$small" "$kept" "$out/seeds/$t" "$out/corpus/$t" \
        > "$out/$t.merge.log" 2>&1 || { tail -5 "$out/$t.merge.log"; exit 1; }
    find "$kept" -regextype egrep -regex '.*/[0-9a-f]{12}' -delete
    sum=0
    for f in $(ls -rS "$small" | awk -v most="$files" -v n="$(ls "$small" | wc -l)" '
            n <= most || int(NR * most / n) > int((NR - 1) * most / n)'); do
        size=$(stat -c %s "$small/$f")
        [ $((sum + size)) -le "$bytes" ] || continue
        cp "$small/$f" "$kept/$(echo "$f" | cut -c1-12)"
        sum=$((sum + size))
    done
    echo "$t: $(ls "$kept" | wc -l) files, $(cat "$kept"/* | wc -c) bytes, of $(ls "$small" | wc -l) that reach all"
done
