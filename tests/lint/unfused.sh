#!/bin/sh
# Fails when code of kernels, compiled for a CPU with fused multiply-adds, has one that nobody wrote: an answer's bits
# would be that level's alone. gcc 12 makes vfmaddsub of a*c - b*s beside b*c + a*s, whatever -ffp-contract says;
# one number at a time, functions are known that write fmaf.
# sh tests/lint/unfused.sh kern_avx2.o ...
set -u
written='rope' # in core/math/kern_body.h
command -v objdump > /dev/null || { echo "unfused: skipped, there is no objdump"; exit 0; }
found=$(for object; do
    [ -r "$object" ] || echo "$object: cannot be read"
    objdump -d --no-show-raw-insn "$object" | awk -v object="$object" -v written="^<(deq_[a-z0-9]+_)?($written)(\\\\.[a-z0-9.]*)?>:$" '
        /^[0-9a-f]+ </ { name = $2 }
        $2 ~ /^vfn?m(addsub|subadd)/ || ($2 ~ /^vfn?m(add|sub)[0-9]+s[sd]$/ && name !~ written) {
            print object ": " name " " $2 }'
done | sort | uniq -c)
[ -z "$found" ] && exit 0
echo "unfused: multiply-adds that nobody wrote (write fmaf, or vectors):"
echo "$found"
exit 1
