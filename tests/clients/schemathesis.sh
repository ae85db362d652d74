#!/bin/sh
# Requests made from /openapi.json, good ones and bad ones: no 5xx, and every answer is one that the schema allows.
#   tests/clients/schemathesis.sh [SECONDS] [SCHEMA_FILE]       run.sh gives 30 seconds
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-600} schema=${2:-} build=${DEQ_BUILD:-build} dir=$PWD/build/clients/schemathesis
tool=$(realpath "${CLIENTS_VENV:-build/clients-venv}")/bin/schemathesis
[ -z "$schema" ] || schema=$(realpath "$schema")
mkdir -p "$dir"
# with a key, as the document says, and an admin's, so that /admin/reload reloads
key=schemathesis-key
printf 'tests %s admin\n' "$(printf %s "$key" | sha256sum | cut -d' ' -f1)" >"$dir/keys"
"$build/deqd" --model tests/golden/tiny --listen 127.0.0.1:0 --set auth.keys_file="$dir/keys" \
    --set 'chat.message={role}: {content}\n' 2>"$dir/deqd.log" &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || :' EXIT
port=
for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.3
    port=$(sed -n 's/.*"address":"127.0.0.1:\([0-9]*\)".*/\1/p' "$dir/deqd.log")
    [ -n "$port" ] && break
done
[ -n "$port" ] || { cat "$dir/deqd.log"; echo "schemathesis: 0 passed, 1 failed (the daemon did not start)"; exit 1; }
url=http://127.0.0.1:$port
[ -n "$schema" ] || { schema=$dir/openapi.json && curl -sf -H "x-api-key: $key" -o "$schema" "$url/openapi.json"; }
# In words that it knows: x-neutral, as values that this server refuses by design would be most of what it makes; and that
# a key that is null is absent, one that nobody knows too.
python3 -c '
import json, sys
def enums(node):
    if isinstance(node, dict) and "x-neutral" in node:
        node["enum"] = [None, *node.pop("x-neutral")]
    if isinstance(node, dict) and node.get("additionalProperties") is False:
        node["additionalProperties"] = {"type": "null"}
    for x in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        enums(x)
    return node
json.dump(enums(json.load(open(sys.argv[1]))), open(sys.argv[2], "w"))' "$schema" "$dir/schema.json"
schema=$dir/schema.json
# Excluded, since a schema cannot say it: which valid fields do not go together (prompt and max_tokens over the limit, stream_options
# without stream), token ids beyond the vocabulary, NUL in a text (positive_data_acceptance). The others are about resources that live on
# between requests; there are none.
# --max-time bounds the run (fuzzing repeats until then); timeout is for a daemon that hangs.
code=0
cd "$dir" # it leaves a cache where it runs
# A body made too large is refused by its size, before its content (413). 504 is the answer to the deadlines of 1 ms that it makes; every
# other 5xx is a failure. Further headers are no violation of a schema.
cat >schemathesis.toml <<'END'
[generation]
with-security-parameters = false
[phases.coverage.generation]
allow-extra-parameters = false
[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 413, 415]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
[[operations]]
include-path = "/admin/reload"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503] # while another one is under way
END
timeout $((seconds + 60)) "$tool" --config-file schemathesis.toml run "$schema" --url "$url" --header "Authorization: Bearer $key" \
    --max-time "$seconds" --workers 1 --request-timeout 20 \
    --exclude-checks positive_data_acceptance,use_after_free,ensure_resource_availability,object_level_authorization \
    --generation-database none --output-sanitize false --no-color >"$dir/out.txt" 2>&1 || code=$?
failures=$(sed -n 's/.*found \([0-9]*\) unique failure.*/\1/p' "$dir/out.txt")
kill "$daemon" || :
wait "$daemon" || { echo "the daemon's exit code is $?"; code=1; }
[ "$code" = 0 ] || sed -n '/= FAILURES =\|= ERRORS =\|rror/,$p' "$dir/out.txt"
cases=$(sed -n 's/^ *\([0-9]*\) generated.*/\1/p' "$dir/out.txt")
[ "$code" = 0 ] && [ "${cases:-0}" -lt 50 ] && { cat "$dir/out.txt"; code=1; }
echo "schemathesis: ${cases:-0} requests, $([ "$code" = 0 ] && echo 1 passed, 0 failed || echo 0 passed, "${failures:-1}" failed)"
exit "$code"
