#!/bin/sh
# The man pages, by help2man from what the programs say themselves: deqd(8), deq(1), and one for each command of deq and
# each command of those, deq-bench-serve(1). What differs between installations stands there as @SYSCONFDIR@ and
# @MODEL@, for make install. With SOURCE_DATE_EPOCH the same programs give the same bytes.
#   sh etc/man.sh DIR-OF-THE-PROGRAMS DIR-TO-WRITE VERSION
set -eu
programs=$(cd "$1" && pwd) out=$2 version=$3
skip() { echo "man: skipped: $1"; exit 0; }
command -v help2man > /dev/null || skip 'there is no help2man (apt-get install help2man)'
"$programs/deq" --version > /dev/null 2>&1 || skip 'the programs do not run on this machine'
export PATH="$programs:$PATH" LC_ALL=C
unset DEQ_CPU DEQ_FAULT
date=$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%F)
rm -rf "$out"
mkdir -p "$out"
trap 'rm -f "$out/more"' EXIT

# Headings of a program's own are sections; of "deq bench serve" all three words are the command.
page() { # section, command, what it is; $out/more: sections that the program's help has not
    name=$(echo "$2" | tr ' ' -)
    help2man --no-info --section "$1" --name "$3" --source "deqd $version" --version-string "$name $version" \
        --include "$out/more" "$2" > "$out/page"
    sed -e 's/^\.SS "\(Commands\|Kinds\|Keys\|Signals\|Exit status\):"$/.SH "\U\1"/' \
        -e "/^\.SH SYNOPSIS/,/^\.SH DESCRIPTION/ s/^\.B ${2%% *}\$/.B $2/" \
        -e "/^\.SH SYNOPSIS/,/^\.SH DESCRIPTION/ s/^\(\\\\fI\(\\\\,\)\?\)${2#* } /\1/" \
        -e "s/^\(\.TH .* \)\".*\" \"deqd /\1\"$date\" \"deqd /" \
        -e 's|generate models/stories|generate @MODEL@|' "$out/page" > "$out/$name.$1"
    rm "$out/page"
}
also() { # pages
    echo '[>SEE ALSO]'
    echo "$*" | sed 's/\([a-z-]*\)(\([18]\)) */.BR \1 (\2),\n/g' | sed '/^$/d' | sed '$s/,$//'
}
# "generate continue a prompt", a line each: what the help of a command lists
listed() {
    $1 --help | awk '/^(Commands|Kinds):$/ { on = 1; next } /^$/ { on = 0 } on && /^  [a-z]/ && text { print text }
        on { text = (/^  [a-z]/ ? "" : text " ") $0; gsub(/^ +| +$/, "", text); gsub(/  +/, " ", text) }
        END { if (text) print text }'
}
command_pages() { # command, what it is, other pages to see
    listed "$1" > "$out/listed"
    commands=$(cat "$out/listed")
    rm "$out/listed"
    also "$3 $(echo "$commands" | sed -n "s/^\([a-z]*\) .*/$(echo "$1" | tr ' ' -)-\1(1)/p" | tr '\n' ' ')" > "$out/more"
    page 1 "$1" "$2"
    [ -z "$commands" ] || echo "$commands" | while read -r name about; do
        command_pages "$1 $name" "$about" "$(echo "$1" | tr ' ' -)(1) deqd(8)"
    done
}
command_pages deq 'deep equilibrium language models: generate, train, import, measure, inspect' 'deqd(8)'
{
    printf '[FILES]\n.TP\n\\fI@SYSCONFDIR@/deqd/deqd.yaml\\fR\nthe configuration of an installed deqd\n'
    also 'deq(1) systemctl(1)'
} > "$out/more"
page 8 deqd 'inference server for deep equilibrium language models'
