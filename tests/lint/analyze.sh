#!/bin/sh
# Three reviewers of core/, server/ and models/: clang-tidy (bugprone, cert), cppcheck, gcc -fanalyzer. Whatever they find
# fails. What a reviewer says of nearly every file and is wrong about is switched off here, with the reason; where it is
# wrong once, that line says NOLINT or cppcheck-suppress, and why. Arguments: the rooms to look at.
set -u
cd "$(dirname "$0")/../.." || exit 2
# kernels of a CPU level are kern_body.h once more, which kern_ref.c has
[ $# -gt 0 ] || set -- core server models
files=$(find "$@" -name '*.c' | grep -vE 'core/math/(kern|peak)_(avx2|avx512|vnni|amx)\.c' | LC_ALL=C sort)
flags='-std=gnu11 -I. -DDEQ_VERSION="analyze"'
found=$(mktemp) || exit 2
trap 'rm -f "$found"' EXIT
each() { echo "$files" | xargs -P "$(nproc)" -n "$1" sh -c "$2"' || true' sh >> "$found" 2>&1; }
have() { command -v "$1" > /dev/null || { echo "analyze: $1 skipped: there is none (apt-get install $1)"; return 1; }; }

checks='-*,bugprone-*,cert-*'
off() { checks="$checks,-$1"; }
off bugprone-reserved-identifier             # _GNU_SOURCE is how glibc is asked for what it has
off cert-dcl37-c
off cert-dcl51-cpp
off cert-dcl16-c                             # the suffix l is told from 1 by every font we read with
off cert-err33-c                             # asks about each snprintf and fclose; those that count are warn_unused_result
off bugprone-easily-swappable-parameters     # two sizes beside each other are what functions of this kind take
off bugprone-sizeof-expression               # sizeof *p of an array of pointers is meant
off bugprone-misplaced-widening-cast         # (unsigned long long)(a + b) is for printf: size_t is as wide
off bugprone-narrowing-conversions           # cond ? 'a' : c is an int; both compilers' -Wconversion knows better
off bugprone-not-null-terminated-result      # bytes with a length have no zero behind them
off bugprone-branch-clone                    # chains in order of precedence, which may do the same twice
if have clang-tidy; then
    export CHECKS="$checks" FLAGS="$flags"
    each 4 'clang-tidy -quiet -checks="$CHECKS" \
        -config="{CheckOptions: [{key: bugprone-suspicious-string-compare.WarnOnImplicitComparison, value: \"false\"}]}" \
        "$@" -- $FLAGS 2> /dev/null | grep -E "(warning|error):"'
fi
if have cppcheck; then
    suppressed=--suppress=missingIncludeSystem
    but() { suppressed="$suppressed --suppress=$1"; }
    but syntaxError                                   # it does not know __VA_OPT__ (server/log.h)
    but varFuncNullUB                                 # NULL is a pointer in glibc; these calls end with it
    but 'uninitvar:core/cell/*_seq.c'                 # DEQ_PART takes addresses in `counted`, and only counts
    but uninitvar:core/cell/attention.c               # the same
    but uninitvar:core/cell/layer.c
    but uninitvar:core/cell/near.c
    but uninitvar:core/engine/engine_open.c
    but nullPointer:core/cell/vocabulary_seq.c        # t is NULL where m is 0
    but invalidFunctionArg:core/cell/vocabulary_seq.c # of a sum that has exp(0) in it
    but arrayIndexThenCheck:core/engine/sampler.c     # ids that are compared, no bounds
    but arrayIndexThenCheck:server/api/logprobs.c     # the same
    but invalidPointerCast:server/api/trace.c         # floats were put there, from the block's aligned beginning on
    but invalidPointerCast:core/math/kern_attn.h      # the bits of floats move as integers
    cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr -I. '-DDEQ_VERSION="analyze"' \
        $suppressed --template='{file}:{line}: {severity}: {id}: {message}' $files >> "$found" 2>&1
fi
# of one file at a time: what of gcc's findings is wrong about the place, and why
wrong='core/base/buf\.c:[0-9:]* warning: use of NULL where'           # where data is NULL cap is 0, and room is made
wrong="$wrong|core/engine/blocks\.c:[0-9:]* warning: dereference of NULL" # what was found there is found again
wrong="$wrong|models/cli/bench/floor\.c:[0-9:]* warning: dereference of NULL" # every cell has matrices of both sorts
wrong="$wrong|core/base/yaml\.c:[0-9:]* warning: dereference of NULL" # libyaml ends no mapping that did not begin
if have gcc; then
    export FLAGS="$flags -D_GNU_SOURCE= -include tests/lint/analyze.h" WRONG="$wrong"
    files=$(echo "$files" | grep -vxF core/base/err.c) # defines what analyze.h tells about
    # -O1: without it gcc 12 takes what memcpy has filled for uninitialized
    each 1 'gcc $FLAGS -O1 -fanalyzer -c "$1" -o /dev/null 2>&1 | grep -E "(warning|error):" | grep -vE "$WRONG"'
fi
if [ -s "$found" ]; then
    sed "s|^$PWD/||" "$found" | LC_ALL=C sort -u
    echo "analyze: $(wc -l < "$found") findings"
    exit 1
fi
echo "analyze: ok"
