"""The chapters of server/, etc/ and docker/: every table is what the daemon, its sources or the directories say, row by
row. (Their links and width are lint's.)"""
import functools
import glob
import json
import os
import re
import shutil

from lib import DEQD, ROOT, check, equal, run, usual
from openapi import DOC, default_of, follow, printed

CHAPTER, REFERENCE, OPERATION, METRICS, DOCKER = FILES = (
    "server/README.md", "server/reference.md", "etc/README.md", "etc/metrics.md", "docker/README.md")
# headings under which a table stands, with its first column's name: it is compared by the test that asks for it
COMPARED = (
    (CHAPTER, "Answers", "`why`"), (CHAPTER, "Signals", "signal"), (CHAPTER, "Exit codes", "exit code"),
    (CHAPTER, "Probes", "path"), (CHAPTER, "API keys", "word"),
    (REFERENCE, "Paths", "path"), (REFERENCE, "Request fields", "field"),
    (REFERENCE, "Request fields", "field of `deq`"), (REFERENCE, "Request fields", "object"),
    (REFERENCE, "Fields of answers", "field of `deq`"), (REFERENCE, "Fields of answers", "field of `timings`"),
    (REFERENCE, "Headers", "header of a request"), (REFERENCE, "Headers", "header of an answer"),
    (REFERENCE, "Error codes", "status"), (REFERENCE, "Limits", "limit"), (REFERENCE, "Configuration keys", "key"),
    (REFERENCE, "Flags", "flag"), (REFERENCE, "Environment", "variable"),
    (OPERATION, "What lies here", "file"), (OPERATION, "Debian packages", "package"),
    (OPERATION, "Observability", "file of `prometheus/`"),
    (METRICS, None, "metric"), (DOCKER, "Containers", "file"), (DOCKER, "Compose", "variable"),
)
# tables that nothing can be compared with
APART = {
    (CHAPTER, "Configuration", "place"): "an example",
    (OPERATION, "What it gives", "tokens/s, as a ratio"): "measured by make bench-scaleout",
}
BODIES = {path.split("/")[-1] if path != "/v1/chat/completions" else "chat":
          follow(item["post"]["requestBody"]["content"]["application/json"]["schema"])
          for path, item in DOC["paths"].items() if "requestBody" in item.get("post", {})}
ALL = ("completions", "chat", "responses")
OBJECTS = {"response_format": "ResponseFormat", "json_schema": "JsonSchemaFormat", "text": "ResponseText",
           "format": "TextFormat", "structured_outputs": "StructuredOutputs", "stream_options": "StreamOptions",
           "messages": "Message", "input": "InputItem"}
# their bounds are the configuration's, at its defaults
CONFIGURED = {"n", "best_of", "logprobs", "top_logprobs", "tol", "max_iter", "min_iter", "window", "prefill_window"}
SCHEMAS = DOC["components"]["schemas"]


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


@functools.cache
def tables(path):
    """[(heading, cells of the first row, [cells of each further row])]"""
    found, heading, rows, fenced = [], None, None, False
    for line in read(path).splitlines() + [""]:
        fenced ^= line.startswith("```")
        if line.startswith("|") and not fenced:
            rows = rows or []
            rows.append([c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            check(all(len(r) == len(rows[0]) for r in rows), "%s, %s: rows of one length" % (path, heading))
            found.append((heading, rows[0], rows[2:]))
            rows = None
        if line.startswith("#") and not fenced:
            heading = line.lstrip("# ")
    return found


def rows(path, heading, first):
    """Of all tables of this name below the heading; None: below any."""
    check((path, heading, first) in COMPARED, "%s, %s is in COMPARED" % (path, heading))
    got = [r for h, head, body in tables(path) if heading in (h, None) and head[0] == first for r in body]
    check(got, "%s, %s: a table whose first column is %s" % (path, heading, first))
    return got


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def same(got, want, text):
    """Sets of rows, which stand once each."""
    got, want = list(got), set(want)
    equal(sorted(want - set(got)), [], text + ": no row for")
    equal(sorted(set(got) - want), [], text + ": rows for what is not there")
    equal(len(got), len(set(got)), text + ": each once")


def enumerator(name):
    """The value of a constant of the daemon's sources."""
    pattern = re.compile(r"\b%s = ([0-9<() *+]+?)\s*[,;}/]" % name)
    found = {m[1] for f in glob.glob(os.path.join(ROOT, "server", "**", "*.[ch]"), recursive=True)
             for m in pattern.finditer(read(f))}
    check(len(found) == 1, "%s is in the sources, once: %s" % (name, sorted(found)))
    return eval(found.pop())  # digits and operators alone: the pattern's


def test_every_table_is_compared():
    there = {(path, heading, head[0]) for path in FILES for heading, head, _ in tables(path)}
    known = {t for t in there if t in COMPARED or t in APART or (t[0], None, t[2]) in COMPARED}
    equal(sorted(there - known), [], "tables that no test here compares, nor APART gives a reason for")
    equal(sorted(set(APART) - there), [], "tables of APART that are gone")
    for row in COMPARED:
        rows(*row)


# --- server/ ---

def test_paths():
    names = {"/v1/models/": "/v1/models/{model_id}", "/v1/states/": "/v1/states/{name}",
             "/v1/sequences/": "/v1/sequences/{id}", "/page/": "/page/{file}"}
    keys = {"": "any", "open": "none", "page": "none", "admin": "admin", "metrics": "any, or none"}
    route = read("server/api/route.c")
    want = []
    for line in printed("--print-routes"):
        method, path, *flag = line.split(" ")
        flags = re.search(r'\{"%s", "%s", \w+, ([^,]+),' % (method, re.escape(path)), route)
        want.append(("%s `%s`" % (method, names.get(path, path)), keys["".join(flag)],
                     "yes" if "ON_ADMIN" in flags[1] else ""))
    same([tuple(r[:3]) for r in rows(REFERENCE, "Paths", "path")], want, "paths, keys, the admin's address")
    probes = [p for r in rows(CHAPTER, "Probes", "path") for p in quoted(r[0])]
    same(probes, [re.findall("`(.*)`", p)[0] for p, _, _ in want if "/health" in p], "probes")


def number(x):
    return "%g" % x if x != int(x) and x > 1e-4 else "1e-5" if x != int(x) else "{:,}".format(int(x))


def values_of(name, schema):
    """The cell of values, or None where it is free."""
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if "enum" in schema:
        return ", ".join("`%s`" % x for x in schema["enum"] if x is not None)
    if kind == "boolean":
        return "`true`, `false`"
    if kind not in ("integer", "number"):
        return None
    lo, hi = schema["minimum"], schema["maximum"]
    text = "64 bits" if lo < -2**62 else number(lo) + (" or more" if hi >= 2**31 - 1 else " to " + number(hi))
    return "*%s*" % text if name in CONFIGURED else text


def compare_field(text, schema, required, values, default, meaning):
    schema = follow(schema)
    want = values_of(text.split(".")[-1], schema)
    check(values == want if want else values, "%s: values: %r, expected %r" % (text, values, want or "some words"))
    said = default_of(schema)
    if said is not None:
        said = json.dumps(said) if not isinstance(said, str) else said
        equal(default.strip("`"), said, text + ": default")
    else:
        check((default == "required") == required and default not in ("0", "1", "`true`", "`false`", ""),
              "%s: default: %r" % (text, default))
    check(meaning, text + ": its meaning")


def is_hint(schema):
    return schema.get("description") == "Accepted and not used."


def test_request_fields():
    """Every field of every body has a row, with its values and default; those that are not used are named."""
    others = [b for b in BODIES if b not in ALL]
    solving = [b for b in others if "deq" in BODIES[b]["properties"]]
    words = {"all": ALL, "these": others, "these that solve": solving}
    got, hints = [], []
    for name, of, values, default, meaning in rows(REFERENCE, "Request fields", "field"):
        name, = quoted(name)
        for body in words.get(of) or of.split(", "):
            got.append((body, name))
            schema = BODIES[body]["properties"].get(name)
            if check(schema is not None, "%s: %s: is a field of it" % (body, name)):
                compare_field("%s.%s" % (body, name), schema, name in BODIES[body].get("required", ()), values, default,
                              meaning)
    line = re.search(r"^Accepted and not used: ([^.]*)\.$", read(REFERENCE), re.M)
    for name, of in re.findall(r"`(\w+)`(?:\s+\(([^)]*)\))?", line[1]):
        hints += [(body, name) for body in (re.split(r",\s+", of) if of else ALL)]
    fields = [(b, name, s) for b in BODIES for name, s in BODIES[b]["properties"].items() if "x-neutral" not in s]
    same(hints, [(b, n) for b, n, s in fields if is_hint(s)], "accepted and not used")
    same(got, [(b, n) for b, n, s in fields if not is_hint(s)], "fields of bodies")


def test_objects():
    got = []
    for name, values, default, meaning in rows(REFERENCE, "Request fields", "field of `deq`"):
        name, = quoted(name)
        got.append(name)
        compare_field("deq." + name, SCHEMAS["DeqOptions"]["properties"].get(name, {}), False, values, default, meaning)
    same(got, SCHEMAS["DeqOptions"]["properties"], "fields of deq")
    got = []
    for name, field, values, default, meaning in rows(REFERENCE, "Request fields", "object"):
        (name,), (field,) = quoted(name), quoted(field)
        got.append((name, field))
        s = SCHEMAS[OBJECTS[name]]
        if field != "type" or name == "input":  # of a form: text, in words
            compare_field("%s.%s" % (name, field), s["properties"].get(field, {}), field in s.get("required", ()),
                          values, default, meaning)
        else:
            equal(values, values_of(field, follow(s["properties"][field])), "%s.%s: values" % (name, field))
    same(got, [(name, field) for name, s in OBJECTS.items() for field, x in SCHEMAS[s]["properties"].items()
               if "x-neutral" not in x], "fields of objects")
    tabled = {line.split("\t")[0] for line in printed("--print-fields")}
    same(set(OBJECTS) | {"deq"}, [x for x in tabled if not x.startswith("/")], "objects")


def test_answers():
    for name in ("deq", "timings"):
        got = [quoted(r[0])[0] for r in rows(REFERENCE, "Fields of answers", "field of `%s`" % name)]
        same(got, SCHEMAS["SolveReport" if name == "deq" else "Timings"]["properties"], "fields of " + name)
    same([quoted(r[0])[0] for r in rows(CHAPTER, "Answers", "`why`")],
         SCHEMAS["DroppedRow"]["properties"]["why"]["enum"], "why a row was given up")


def shape(x):
    """Keys and kinds of values, of whatever numbers and texts."""
    if isinstance(x, dict):
        return {k: shape(v) for k, v in x.items()}
    return [shape(v) for v in x] if isinstance(x, list) else float if type(x) is int else type(x)


def test_examples():
    """The chapter's answer has the fields of a real one, and its error is one."""
    answer, error = (json.loads(x) for x in re.findall(r"^```json\n(.*?)^```", read(CHAPTER), re.M | re.S))
    body = re.search(r"^`(\{.*\})` it is", read(CHAPTER), re.M)[1]
    got = usual().post("/v1/completions", dict(json.loads(body), ignore_eos=True))[2]
    equal(shape(answer), shape(got), "the answer's fields")
    equal(list(answer["deq"]), list(got["deq"]), "the fields of deq, in their order")
    status, _, got = usual().post("/v1/completions", {"max_tokens": -1})
    equal((status, got), (400, error), "the error")


def test_headers():
    """Of requests what head.c looks for, of answers what is added anywhere."""
    head = read("server/net/head.c")
    kept = re.search(r"kept\[\] = \{\n(.*?)\n\};", head, re.S)[1]
    want = set(re.findall(r'\{"([\w-]+)"', kept)) | set(re.findall(r'is_name\(key, key_len, "([\w-]+)"\)', head))
    same([quoted(r[0])[0] for r in rows(REFERENCE, "Headers", "header of a request")], want, "headers of requests")
    said = {p["name"] for p in DOC["components"]["parameters"].values() if p["in"] == "header"}
    equal(said - want, set(), "those that the document has")
    added = set()
    for path in glob.glob(os.path.join(ROOT, "server", "**", "*.c"), recursive=True):
        text = read(path)
        added |= set(re.findall(r'MHD_add_response_header\(\w+, "([\w-]+)"', text))
        for array in re.findall(r"struct reply_header \w+\[\] = \{\n(.*?)\n\};", text, re.S):
            added |= set(re.findall(r'^    \{"([\w-]+)",', array, re.M))
    same([quoted(r[0])[0] for r in rows(REFERENCE, "Headers", "header of an answer")], added, "headers of answers")
    said = {h for item in DOC["paths"].values() for m in set(item) - {"parameters"}
            for r in item[m]["responses"].values() for h in follow(r).get("headers", {})}
    equal(said - added, set(), "those that the document has")


def test_error_codes():
    want = {(status, c) for item in DOC["paths"].values() for m in set(item) - {"parameters"}
            for status, r in item[m]["responses"].items() for c in follow(r).get("x-codes", ())}
    same([(r[0], quoted(r[1])[0]) for r in rows(REFERENCE, "Error codes", "status")], want, "error codes")


@functools.cache
def helped(section):
    """{name: text} of a section of --help, the lines of a text put together."""
    text = re.search(r"^%s:\n((?:  .*\n)+)" % section, "\n".join(printed("--help")) + "\n", re.M)
    found, name = {}, None
    for line in text[1].splitlines() if check(text, "--help has " + section) else ():
        name, said = re.match(r"  (\S.*?)(?:\s{2,}(.*))?$", line).groups() if line[2] != " " else (name, line)
        found[name] = " ".join(found.get(name, "").split() + (said or "").split())
    return found


@functools.cache
def configuration():
    """{key: default}, {key: (lowest, highest), a list of words, "text" or "list"} as --help says it."""
    lists = set(re.findall(r"^  (\w+): \[\]$", "\n".join(printed("--print-config")), re.M))
    defaults, values = {}, {}
    for key, text in helped("Keys").items():
        said = re.search(r" \(([^()]*; )?default: (.*)\)$", text) or re.search(r" \(([^() ]*\.\.[^() ]*)()\)$", text)
        defaults[key] = said[2] if said else ""
        words = (said[1] or "").removesuffix("; ") if said else ""
        values[key] = (tuple(float(x) for x in words.split("..")) if ".." in words else words.split("|") if words else
                       ["true", "false"] if defaults[key] in ("true", "false") else
                       "list" if key.split(".")[1] in lists else "text")
    check(len(defaults) > 50, "keys of --help")
    return defaults, values


def size(text):
    return float(text[:-1]) * 1024 ** "BKMGT".index(text[-1]) if text[-1] in "KMGT" else float(text.replace(",", ""))


def test_configuration_keys():
    defaults, values = configuration()
    got = rows(REFERENCE, "Configuration keys", "key")
    same([quoted(r[0])[0] for r in got], defaults, "keys")
    for key, default, cell, meaning in got:
        key, = quoted(key)
        equal(default, "`%s`" % defaults[key] if defaults[key] else "none", key + ": default")
        want = values.get(key)
        span = re.fullmatch(r"(\S+) to (\S+)", cell)
        got_values = quoted(cell) or (span and (size(span[1]), size(span[2]))) or cell
        equal(got_values, want, key + ": values")
        check(meaning, key + ": its meaning")


LIMITS = {"request target": "TARGET_MAX_BYTES", "headers": ("HEADER_MAX_BYTES", "HEADERS_MAX"),
          "JSON depth": "JSON_DEPTH_MAX", "JSON keys of a body": "JSON_KEYS_MAX",
          "JSON arrays (token ids of a prompt: what fits the context)": "JSON_ARRAY_MAX",
          "entries of `logit_bias`": "BIAS_MAX", "bytes of `cache_salt`": "SALT_MAX_BYTES",
          "requests of one connection": "REQUESTS_PER_CONNECTION"}


def test_limits():
    defaults, _ = configuration()
    there, fixed = set(), set()
    for limit, value, beyond in rows(REFERENCE, "Limits", "limit"):
        check(beyond, limit + ": what is beyond it")
        if limit in LIMITS:
            names = LIMITS[limit] if isinstance(LIMITS[limit], tuple) else (LIMITS[limit],)
            numbers = [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", value)]
            equal(numbers, [enumerator(n) for n in names], limit)
            fixed.add(limit)
            continue
        key, = quoted(value)
        there.add(key)
        equal(value.split("` ")[1].split(" (")[0], defaults.get(key), limit + ": default of " + key)
    equal(fixed, set(LIMITS), "limits that no key sets")
    want = {k for k in defaults if re.search(r"^(limits|queue)\.|\.max_|_timeout_ms$|^stream\.(buffer|stall|min)", k)}
    # what to do, how long an end may take, and sizes of the engine, for which requests wait
    want -= {"limits.unknown_fields", "server.shutdown_timeout_ms", "engine.max_sequences", "engine.max_rows"}
    equal(sorted(want - there), [], "limits without a row")
    d = usual()
    for text, status in (("[" * 31 + "]" * 31, b"nested"), ("[" * 32 + "]" * 32, b"nested")):
        _, _, b = d.request("POST", "/v1/completions", ('{"prompt": %s}' % text).encode())
        equal(status in b, text.count("[") >= enumerator("JSON_DEPTH_MAX"), "depth %d" % (text.count("[") + 1))


def test_flags():
    same([quoted(r[0])[0] for r in rows(REFERENCE, "Flags", "flag")], helped("Options"), "flags")


def test_environment():
    """Every variable that the daemon's sources ask for."""
    want = {v for part in ("server", "core") for f in glob.glob(os.path.join(ROOT, part, "**", "*.c"), recursive=True)
            if "/examples/" not in f and "/core/import/" not in f for v in re.findall(r'getenv\("(\w+)"\)', read(f))}
    got = [v for r in rows(REFERENCE, "Environment", "variable") for v in quoted(r[0])]
    same(got, want | {"DEQD_SERVER_LISTEN"}, "variables")
    equal(sorted(set(helped("Environment")) - set(got)), [], "variables of --help")
    meaning = {v: r[1] for r in rows(REFERENCE, "Environment", "variable") for v in quoted(r[0])}
    _, _, err = run([DEQD, "--check-config"], env={"DEQ_CPU": "none"})
    equal(quoted(meaning["DEQ_CPU"]), re.search(r"\((ref, .*)\)", err)[1].split(", "), "CPU levels: " + err)
    kinds = re.search(r"enum deq_fault \{(.*?), DEQ_FAULT_COUNT", read("core/base/fault.h"))[1]
    text = read(REFERENCE)
    for kind in re.findall(r"DEQ_FAULT_(\w+)", kinds):
        check("%s:N`" % kind.lower() in text, "DEQ_FAULT: %s" % kind.lower())


def test_signals_and_exit_codes():
    taken_signals = re.search(r"static const int taken\[\] = \{(.*?)\}", read("server/main.c"))[1]
    same([r[0] for r in rows(CHAPTER, "Signals", "signal")], taken_signals.split(", "), "signals")
    same(helped("Signals"), taken_signals.split(", "), "signals of --help")
    got = {r[0]: r[1] for r in rows(CHAPTER, "Exit codes", "exit code")}
    equal(got, {k: text.split(";")[0] for k, text in helped("Exit status").items()}, "exit codes, as --help has them")


def test_words_of_keys():
    said = re.search(r"NAME SHA256-IN-HEX((?: \[[^]]+\])+)", helped("Keys")["auth.keys_file"])[1]
    want = {w for part in re.findall(r"\[([^]]+)\]", said) for w in
            (["depth=" + x for x in part[6:].split("|")] if part.startswith("depth=") else [part])}
    same([w for r in rows(CHAPTER, "API keys", "word") for w in quoted(r[0])], want, "words of a key")
    for path in (CHAPTER, "docker/k8s/deqd/README.md"):
        check("`NAME SHA256-IN-HEX%s`" % said in read(path).replace("\n", " "), path + ": a line of the file of keys")


# --- etc/ and docker/ ---

def test_metrics():
    """Names, kinds, labels and words, in their order; the numbers are anybody's."""
    _, _, body = usual().request("GET", "/metrics")
    want = []
    for line in body.decode().splitlines():
        if m := re.match(r"# HELP (\S+) (.*?)\.?$", line):
            want.append([m[1], "", [], m[2]])
        elif m := re.match(r"# TYPE (\S+) (\S+)", line):
            want[-1][1] = m[2]
        elif m := re.match(r"[^#{ ]+\{(.*)\} ", line):
            labels = [k for k, _ in re.findall(r'(\w+)="([^"]*)"', m[1]) if k not in ("le", "model_name", "engine")]
            want[-1][2] += [k for k in labels if k not in want[-1][2]]
    got = [[quoted(r[0])[0], r[1], quoted(r[2]), r[3]] for r in rows(METRICS, None, "metric")]
    same([r[0] for r in got], [r[0] for r in want], "metrics")
    of = {w[0]: w for w in want}
    for g in got:
        if g[0] in of:
            equal(g, of[g[0]], g[0])
    names = [r[0] for r in got]
    equal([n for n in of if n in names], [n for n in names if n in of], "their order")


def test_runbook():
    """An entry for each alert, which begins with its severity and which the alert names; and no others."""
    alerts = {}
    for part in read("etc/prometheus/alerts.yml").split("- alert: ")[1:]:
        alerts[part.split("\n")[0]] = (re.search(r"severity: (\w+)", part)[1], re.search(r'runbook: "(.*)"', part)[1])
    check(len(alerts) > 20, "alerts")
    entries = dict(re.findall(r"^### (Deqd\w+)\n\n\*(\w+)\.\*", read(OPERATION), re.M))
    equal({k: v.lower() for k, v in entries.items()}, {k: v[0] for k, v in alerts.items()}, "entries of the runbook")
    for name, (_, where) in alerts.items():
        equal(where, OPERATION + "#" + name.lower(), name + ": leads to its heading")


def test_files():
    """Tables of what lies in a room name everything that does."""
    copy = not shutil.which("git") or run(["git", "-C", ROOT, "rev-parse"])[0]  # the sources without their history

    def there(path, *but):
        if copy:
            return set(os.listdir(os.path.join(ROOT, path))) - set(but)
        names = run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", path])[1].split()
        return {os.path.relpath(n, path).split("/")[0] for n in names} - set(but)

    for path, heading, first, room in ((OPERATION, "What lies here", "file", "etc"),
                                       (OPERATION, "Observability", "file of `prometheus/`", "etc/prometheus"),
                                       (DOCKER, "Containers", "file", "docker")):
        same([quoted(r[0])[0].rstrip("/") for r in rows(path, heading, first)], there(room, "README.md"), room)


def test_packages():
    """Those of the control file; the shared library's name ends in its soname's version."""
    want = [p.replace("@MINOR@", "N") for p in re.findall(r"^Package: (\S+)", read("etc/debian/control"), re.M)]
    same([re.sub("[`*]", "", r[0]) for r in rows(OPERATION, "Debian packages", "package")], want, "packages")


def test_compose():
    want = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", read("docker/compose.yaml")))
    equal({quoted(r[0])[0]: quoted(r[1])[0] for r in rows(DOCKER, "Compose", "variable")}, want, "compose's variables")
