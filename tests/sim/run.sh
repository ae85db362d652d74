#!/bin/sh
# The simulation as a test: seeds that once found a fault (tests/sim/seeds, a file each: SEED EVENTS, then what it found),
# and one seed twice, whose histories must be the same to the last byte. Usage: run.sh PROGRAM [EVENTS]
set -eu
cd "$(dirname "$0")/../.."
sim=$1 events=${2:-60000}
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
for file in tests/sim/seeds/*; do
    [ -e "$file" ] || continue
    read -r seed n < "$file"
    "$sim" --seed "$seed" --events "$n" --dir "$state/s" > "$state/out" || { cat "$state/out"; echo "found again: $file"; exit 1; }
done
once=$("$sim" --events "$events" --dir "$state/s") || { echo "$once"; exit 1; }
twice=$("$sim" --events "$events" --dir "$state/s")
echo "$once"
[ "$once" = "$twice" ] || { echo "$twice"; echo "the same seed had two histories"; exit 1; }
