#!/bin/sh
# Fails when a floor is broken, a banned call is used, or a text that must equal a table does not. Prints what and where.
set -u
cd "$(dirname "$0")/../.." || exit 2
bad=0
complain() { [ -n "$2" ] && { echo "lint: $1"; echo "$2" | sed 's/^/  /'; bad=1; }; }

# Floors: a room includes itself and the rooms below it.
floor() { # room, pattern of rooms it may not include
    complain "$1 includes from above" "$(grep -nE "#include \"($2)" -r "$1" --include='*.[ch]' 2>/dev/null)"
}
floor core/base   'core/(math|solve|text|data|cell|engine|train)|core/deq\.h|server|models'
floor core/math   'core/(solve|text|data|cell|engine|train)|core/deq\.h|server|models'
floor core/solve  'core/(text|data|cell|engine|train)|core/deq\.h|server|models'
floor core/text   'core/(data|cell|engine|train)|core/deq\.h|server|models'
floor core/data   'core/(cell|engine|train)|core/deq\.h|server|models'
floor core/cell   'core/(engine|train)|core/deq\.h|server|models'
floor core/engine 'core/train|server|models'
floor core/train  'core/engine|core/deq\.h|server|models'
complain "server includes of core only deq.h and base" \
    "$(grep -nE '#include "core/' -r server --include='*.[ch]' | grep -vE '"core/(deq\.h|base/)')"

# Each library has its room.
only() { # header, rooms
    complain "<$1> outside its room" "$(grep -nE "#include <$1>" -r core server models --include='*.[ch]' | grep -vE "^($2)")"
}
only cblas.h 'core/math/gemm_fast\.c'
only microhttpd.h 'server/net/http(\.c|_head\.c|_impl\.h)'
only yaml.h 'core/base/yaml\.c'
only 'curl/curl\.h' 'models/cli/bench_load\.c'
only zip.h 'core/data/torchfile\.c'
only uninorm.h 'core/text/normalize\.c'
only jansson.h 'core/base/json\.|core/text/|core/data/|server/|models/cli/'

complain "banned call" "$(grep -nE '\b(strcpy|strcat|sprintf|gets|atoi|atof|strtok|rand|localtime|gmtime|asctime|alloca|system|popen)\(' \
    -r core server models --include='*.[ch]')"
# What ends in an answer's bits may not depend on which version of a function the C library picks for this CPU.
complain "libm in the path of bits (core/math/elementary.h, kern.h)" "$(grep -nE '\b(exp|log|pow|sin|cos|tan|tanh|exp2|log2|log10|log1p|expm1|cbrt|hypot)f?\(' \
    -r core/engine core/solve core/cell core/data/weights.c core/math/kern_body.h core/math/gemm.c --include='*.[ch]' | grep -vE '^core/cell/[a-z_]*_seq\.c|^[^:]*:[0-9]*:( \*|/\*)')"
complain "malloc outside core/base/mem.c" "$(grep -nE '\b(malloc|calloc|realloc|aligned_alloc)\(' -r core server models --include='*.[ch]' | grep -v '^core/base/mem.c:')"
complain "the library prints or exits" "$(grep -nE '\b(printf|puts|exit|abort)\(' -r core --include='*.[ch]' | grep -vE 'core/base/options.c:|_exit|\*')"
complain "json_loadb outside core/base/json.c, which knows want of memory from a wrong text" \
    "$(grep -nE '\bjson_loadb\(' -r core server --include='*.[ch]' | grep -v '^core/base/json.c:')"
complain "bytes of a buffer that may have failed: deq_buf_append, deq_buf_carry or reply_buf take them on" \
    "$(grep -nE '(deq_buf_add|deq_buf_try|reply_string|reply_text|channel_write)\(.*(\.|->)data, .*(\.|->)len' -r core server --include='*.[ch]' | grep -v '^core/base/buf.c:')"
complain "fast-math" "$(grep -nE -- '-ffast-math|-Ofast' Makefile)"
complain "unfinished work" "$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' -r core server models tests etc --include='*.[chy]*' 2>/dev/null)"
lines=$(wc -l < core/deq.h)
[ "$lines" -le 300 ] || complain "core/deq.h has $lines lines, at most 300" x

# What is needed to build stands in the Makefile; whoever installs it installs all of it, and nothing else.
needed=$(sed -n '/^NEEDED/,/[^\\]$/p' Makefile | grep -oE ':[a-z0-9-]+-dev' | tr -d : | sort -u)
installs() { # file, line that installs
    there=$(sed -n "$2" "$1" | grep -oE '[a-z0-9-]+-dev' | sort -u)
    [ "$there" = "$needed" ] || complain "$1 installs other packages than the Makefile's NEEDED" "$(printf 'it installs: %s\nNEEDED:      %s' "$(echo $there)" "$(echo $needed)")"
}
installs README.md '/^    apt-get.*make run$/p'
installs README.md '/^    apt-get.*make test$/p'
installs docker/Dockerfile '/^RUN apt-get/,/[^\\]$/p'

# etc/deqd.yaml is the table's own print.
if [ -x build/deqd ]; then
    build/deqd --print-config > build/print-config.yaml 2>&1
    complain "etc/deqd.yaml differs from deqd --print-config" "$(diff etc/deqd.yaml build/print-config.yaml)"
fi
complain "docker/k8s/deqd/files/deqd.yaml differs from etc/deqd.yaml (make k8s-manifests)" "$(diff etc/deqd.yaml docker/k8s/deqd/files/deqd.yaml)"
[ "$bad" = 0 ] && echo "lint: ok"
exit "$bad"
