#!/bin/sh
# Fuzzes targets one after the other, each for SECS seconds or RUNS executions (0: no limit), and says what was found and
# how to see it again. Executions since the last finding are added up in build/fuzz/totals, a line a target.
#
#     sh tests/fuzz/run.sh SECS RUNS TARGET...        (make fuzz, make fuzz-all; FUZZ_ARGS: further flags of libFuzzer)
set -u
cd "$(dirname "$0")/../.." || exit 2
secs=$1 runs=$2
shift 2
out=build/fuzz
mkdir -p "$out/found"
[ -d "$out/seeds" ] || python3 tests/fuzz/seeds.py "$out/seeds" || exit 2
touch "$out/totals"

longest() { case $1 in state | states | prefix | checkpoint | golden) echo 16384 ;; tokenizer | yaml | tls) echo 8192 ;; *) echo 4096 ;; esac; }
# what is no text is as long as it is from the beginning on
growth() { case $1 in state | states | prefix | checkpoint | golden | tls) echo 0 ;; *) echo 100 ;; esac; }
patience() { case $1 in http) echo 300 ;; *) echo 60 ;; esac; } # seconds for an input, also on a busy machine

# target, executions, whether something was found: the new line of the target; others may be at it too
count() (
    exec 9> "$out/totals.lock"
    flock 9
    before=$(awk -v t="$1" '$1 == t { print $2 }' "$out/totals")
    [ "$3" = 0 ] || before=0
    grep -v "^$1 " "$out/totals" > "$out/totals.new"
    echo "$1 $((${before:-0} + ($3 ? 0 : $2))) $(date +%F)" >> "$out/totals.new"
    mv "$out/totals.new" "$out/totals"
)

bad=0
for t in "$@"; do
    echo "fuzz $t: $([ "$secs" = 0 ] || echo "$secs s, ")$([ "$runs" = 0 ] && echo "any number of" || echo "$runs") executions"
    mkdir -p "$out/corpus/$t" "$out/seeds/$t"
    dict=tests/fuzz/$t.dict
    [ -e "$dict" ] && dict=-dict=$dict || dict=
    OPENBLAS_NUM_THREADS=1 ASAN_OPTIONS=quarantine_size_mb=8:malloc_context_size=8 UBSAN_OPTIONS=print_stacktrace=1 \
        "$out/fuzz_$t" -max_total_time="$secs" -runs="$([ "$runs" = 0 ] && echo -1 || echo "$runs")" \
        -max_len="$(longest "$t")" -len_control="$(growth "$t")" -rss_limit_mb=1536 \
        -timeout="$(patience "$t")" -print_final_stats=1 -print_funcs=0 $dict \
        -artifact_prefix="$out/found/$t-" ${FUZZ_ARGS:-} \
        "$out/corpus/$t" "tests/fuzz/corpus/$t" "$out/seeds/$t" > "$out/$t.log" 2>&1
    code=$?
    n=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$t.log")
    count "$t" "${n:-0}" "$code"
    grep -E '^(stat::(number_of_executed|new_units|slowest|peak_rss)|#[0-9]+.*DONE)' "$out/$t.log"
    [ "$code" = 0 ] && continue
    bad=1
    case=$(sed -n 's/.*Test unit written to //p' "$out/$t.log" | tail -1)
    echo "FOUND by $t after ${n:-0} executions: ${case:-no input was written}"
    grep -m3 -E 'does not hold|ERROR: |runtime error|SUMMARY' "$out/$t.log"
    echo "  again:  $out/fuzz_$t $case        (all it said: $out/$t.log)"
    echo "  mended: cp $case tests/fuzz/corpus/$t/NAME, which make test replays"
done

echo
echo "| target | executions since the last finding | until |"
echo "|---|---|---|"
LC_ALL=C sort "$out/totals" | awk '{ printf "| %s | %.2f million | %s |\n", $1, $2 / 1e6, $3 }'
exit $bad
