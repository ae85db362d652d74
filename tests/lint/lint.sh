#!/bin/sh
# Fails when a floor is broken, a library is used out of its place, a line is too long, a banned call is used, or a text
# that must equal a table does not. Prints what and where.
set -u
cd "$(dirname "$0")/../.." || exit 2
bad=0
complain() { [ -n "$2" ] && { echo "lint: $1"; printf '%s\n' "$2" | sed 's/^/  /'; bad=1; }; }

# Floors: a room includes itself and the rooms below it, and nothing else.
floor() { # room, what it may include, files and headers that are let through
    complain "$1 includes from above" \
        "$(grep -nE '#include "' -r "$1" --include='*.[ch]' | grep -vE "#include \"($2)" | grep -vE "^(${3:-nothing})")"
}
below=core/base/
for room in base math solve text form data cell; do
    below="$below|core/$room/"
    floor "core/$room" "$below"
done
floor core/engine "$below|core/engine/|core/deq\.h"
floor core/examples 'nothing' # but the header as it is installed
for room in train import score; do floor "core/$room" "$below|core/$room/"; done
# Of the server: what the whole daemon has, then net and work, which do not know each other, then api, then main.c.
common='core/(deq\.h|base/)|server/[a-z]*\.h'
for file in server/*.[ch]; do [ "$file" = server/main.c ] || floor "$file" "$common"; done
floor server/net  "$common|server/net/"
floor server/work "$common|server/work/"
floor server/api  "$common|server/(net|work|api)/"
floor server/main.c "$common|server/(net|work|api)/"
# The commands see the door and the rooms that are theirs; deq inspect also looks into a container, to list its tensors,
# benchmarks measure what lies behind the door, deq tune engines with settings that no request has, and main begins again
# where OpenBLAS chose badly.
floor models 'core/(deq\.h|base/|text/|train/|import/|score/)|models/' \
    'models/cli/(main\.c.*core/math/gemm|cmd_inspect\.c.*core/data/safetensors|bench/.*core/(math|data|cell)/[a-z_]*|tune/.*core/(cell|engine)/[a-z_]*)\.h"'

# Each library has its room (core/README.md names them).
only() { # header, files
    complain "<$1> outside its room" \
        "$(grep -nE "#include <$1>" -r core server models --include='*.[ch]' | grep -vE "^($2):")"
}
only cblas.h 'core/math/gemm_fast\.c'
only microhttpd.h 'server/net/http_impl\.h'
only 'gnutls/.*' 'server/(net/tls|auth)\.c'
only seccomp.h 'server/sandbox\.c'
only yaml.h 'core/base/yaml\.c'
only 'curl/.*' 'models/cli/bench/load\.c'
only zip.h 'core/data/torchfile\.c'
only 'uni(norm|str|ctype|case|name)\.h' 'core/text/normalize\.c'
only jansson.h \
    'core/(base/json(_fields)?\.h|(text|form|data|import)/.*|cell/config\.c)|server/(api/(fields|reply)\.h|log\.c)|models/cli/.*'

# How it is read: 120 characters a line, and at the top what it is.
complain "lines of more than 120 characters" \
    "$(grep -nE '^.{121}' -r core server models tests docker --include='*.[ch]' --include='*.py' --include='*.js' | cut -c1-160)"
complain "no comment at the top that says what it is (headers, and .c files without a header of their name)" \
    "$(find core server models tests -name '*.[ch]' -exec awk 'FNR == 1 && !/^\/\*/ { print FILENAME }' {} + |
        while read -r f; do [ "${f%.c}" != "$f" ] && [ -e "${f%.c}.h" ] || echo "$f"; done)"

# What is not written here, and why where it does not say so itself.
ban() { # what is wrong, pattern, where it is, lines that are right
    complain "$1" "$(grep -nE "$2" -r $3 --include='*.[ch]' | grep -vE "${4:-^nothing}")"
}
ban "banned call" \
    '\b(strcpy|strcat|sprintf|gets|atoi|atof|strtok|rand|localtime|gmtime|asctime|alloca|system|popen)\(' \
    'core server models'
# What ends in an answer's bits may not depend on which version of a function the C library picks for this CPU.
ban "libm in the path of bits (core/math/elementary.h, kern.h)" \
    '\b(exp|log|pow|sin|cos|tan|tanh|exp2|log2|log10|log1p|expm1|cbrt|hypot)f?\(' \
    'core/engine core/solve core/cell core/data/weights.c core/math/kern_body.h core/math/gemm.c' \
    '^core/cell/[a-z_]*_seq\.c|^[^:]*:[0-9]*:( \*|/\*)'
ban "malloc outside core/base/mem.c" '\b(malloc|calloc|realloc|aligned_alloc)\(' 'core server models' \
    '^core/(base/mem\.c|examples/[a-z]*\.c):'
ban "the library prints or exits" '\b(printf|puts|exit|abort)\(' core \
    '^core/(base/options\.c|examples/[a-z]*\.c):|_exit|\*'
ban "json_load... and json_dump... outside core/base/json.c, which knows want of memory" '\bjson_(load|dump)[a-z]*\(' \
    'core server models' '^core/base/json\.c:'
ban "bytes of a buffer that may have failed: deq_buf_append, deq_buf_carry or reply_buf take them on" \
    '(deq_buf_add|deq_buf_try|reply_string|reply_text|channel_write)\(.*(\.|->)data, .*(\.|->)len' \
    'core server' '^core/base/buf\.c:'
complain "unfinished work" \
    "$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' -r core server models tests etc --include='*.[chy]*')"
complain "fast-math" "$(grep -nE -- '-ffast-math|-Ofast' Makefile)"
lines=$(wc -l < core/deq.h)
[ "$lines" -le 300 ] || complain "core/deq.h has $lines lines, at most 300" x

# Unit tests mirror the sources, but for those that a list tells of.
listed=$(sed -n 's/^\([a-z_0-9/]*\.c\): ..*/\1/p' tests/unit/without.txt)
unmirrored() {
    taken=' '
    for f in $(find core server -name '*.c' | LC_ALL=C sort); do
        room=${f%/*} name=${f##*/} name=${name%.c}
        case $taken in *" $name "*) name=${room##*/}_$name ;; esac
        taken="$taken$name "
        reason=$(echo "$listed" | grep -xF "$f")
        [ -e "tests/unit/test_$name.c" ] || [ "$reason" ] || echo "$f has no tests/unit/test_$name.c"
        [ ! -e "tests/unit/test_$name.c" ] || [ ! "$reason" ] || echo "$f has tests/unit/test_$name.c"
    done
    for f in $listed; do [ -e "$f" ] || echo "$f is gone"; done
}
complain "a source needs a test of its name, or a line in tests/unit/without.txt, and not both" "$(unmirrored)"

# What is needed to build stands in the Makefile; whoever installs it installs all of it, and nothing else.
packages() { sed -n "/^$1 /,/[^\\\\]\$/p" Makefile | grep -oE ':[a-z0-9-]+-dev' | tr -d : | sort -u; }
installs() { # file, line that installs, what else of the Makefile it is for
    needed=$( (packages NEEDED; packages "${3:-nothing}") | sort -u)
    there=$(sed -n "$2" "$1" | grep -oE '[a-z0-9-]+-dev' | sort -u)
    [ "$there" = "$needed" ] || complain "$1 installs other packages than the Makefile's NEEDED" \
        "$(printf 'it installs: %s\nneeded:      %s' "$(echo $there)" "$(echo $needed)")"
}
installs README.md '/^    apt-get.*make run$/p'
installs README.md '/^    apt-get.*make test$/p' NEEDED_UNIT
installs docker/Dockerfile '/^RUN apt-get/,/[^\\]$/p'
# libc6-dev is of what builds any package
installs etc/debian/control '/^Build-Depends:/,/[^,]$/{s/debhelper-compat/libc6-dev/;p}'

# The READMEs: their width, the front page's length, and what their links lead to.
complain "a README is too wide or too long, or a link leads to nothing (tests/lint/markdown.py)" "$(python3 tests/lint/markdown.py 2>&1)"

# One version, the Makefile's: programs, library, deq.pc, man pages and the Python package get it from there, these say it
# themselves. CHANGELOG.md has it on top.
version=$(sed -n 's/^VERSION *:= *//p' Makefile)
versioned() { # files, what stands before a version there
    for file in $1; do
        said=$(grep -oE "$2[0-9][0-9A-Za-z.~+-]*" "$file" | sed -E "s#^$2##" | sort -u)
        [ "$said" = "$version" ] || complain "$file is of another version than the Makefile, $version" "${said:-none}"
    done
}
versioned server/api/openapi.json '^ {4}"version": "'
versioned docker/Dockerfile '^ARG VERSION='
versioned docker/k8s/deqd/Chart.yaml '^appVersion: "'
versioned "$(echo docker/k8s/manifests/*.yaml docker/k8s/manifests/*/*.yaml)" '(app.kubernetes.io/version: "|image: "deqd:)'
top=$(sed -n 's/^## \[\([^]]*\)\] - .*/\1/p' .github/CHANGELOG.md | head -n 1)
[ "$top" = "$version" ] || complain ".github/CHANGELOG.md begins with another version than the Makefile, $version" "${top:-none}"

# Bytes as .editorconfig has them, and lines of C that a branch changed as .clang-format has them: since it left main, or
# on main since what was pushed. What was written before stays as it is, where it was formatted by hand too.
pushed() { for ref in origin/main main; do git merge-base HEAD $ref 2> /dev/null && return; done; }
if ! git rev-parse --git-dir > /dev/null 2>&1; then
    echo 'lint: skipped: .editorconfig, .clang-format: this is no working copy of git, or there is no git'
else
    complain "not as .editorconfig has it" "$(python3 tests/lint/editorconfig.py 2>&1)"
    base=$(pushed)
    if ! command -v git-clang-format-14 > /dev/null; then
        echo 'lint: skipped: .clang-format: there is no clang-format 14 (apt-get install clang-format-14)'
    elif [ -z "$base" ]; then
        echo 'lint: skipped: .clang-format: git knows no main that this began at'
    else
        mend="git-clang-format-14 --binary clang-format-14 --extensions c,h --force $base"
        complain "changed lines are not as .clang-format has them; to mend them: $mend" \
            "$($mend --diff | sed -n '/^diff /,$p' | head -n 60)"
    fi
fi

# Names in Python that nothing defines or nobody uses.
flakes=$(command -v pyflakes3 || command -v pyflakes)
if [ -n "$flakes" ]; then
    complain "Python, by pyflakes" "$(find core docker models tests -name '*.py' -exec $flakes {} + 2>&1)"
else
    echo 'lint: skipped: pyflakes: there is none (apt-get install pyflakes3)'
fi

# GitHub's forms, by GitHub's schemas, where there is what knows them.
if command -v check-jsonschema > /dev/null; then
    refused() { said=$(check-jsonschema --builtin-schema "vendor.$@" 2>&1) || echo "$said"; }
    complain "what GitHub would refuse" "$(
        refused github-issue-forms $(ls .github/ISSUE_TEMPLATE/*.yml | grep -v '/config\.yml$')
        refused github-issue-config .github/ISSUE_TEMPLATE/config.yml)"
else
    echo 'lint: skipped: issue forms: there is no check-jsonschema (pip install check-jsonschema)'
fi

# etc/deqd.yaml is the table's own print.
if [ -x build/deqd ]; then
    build/deqd --print-config > build/print-config.yaml 2>&1
    complain "etc/deqd.yaml differs from deqd --print-config" "$(diff etc/deqd.yaml build/print-config.yaml)"
else
    echo 'lint: skipped: etc/deqd.yaml: build/deqd is not there to print it (tests/e2e/build.py compares it too)'
fi
complain "docker/k8s/deqd/files/deqd.yaml differs from etc/deqd.yaml (make k8s-manifests)" \
    "$(diff etc/deqd.yaml docker/k8s/deqd/files/deqd.yaml)"

# Told, not refused: what may hold two things.
find core server models tests -name '*.[ch]' -exec awk '
    function told() { if (lines > 500) printf "lint: long file: %s, %d lines\n", file, lines }
    FNR == 1 { told(); file = FILENAME; inside = 0 }
    { lines = FNR }
    /^[A-Za-z_].*\(/ && !/;$/ { name = $0; from = FNR }
    /^{$/ { inside = 1 }
    /^}$/ && inside {
        if (FNR - from >= 80) printf "lint: long function: %s:%d, %d lines: %s\n", FILENAME, from, FNR - from + 1, name
        inside = 0
    }
    END { told() }' {} + | LC_ALL=C sort
[ "$bad" = 0 ] && echo "lint: ok"
exit "$bad"
