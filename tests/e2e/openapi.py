"""server/api/openapi.json: what is served is the file, the file is OpenAPI 3.1 in structure, its fields and paths are
those of the daemon's tables, and what the daemon answers is what the file says. schemathesis (tests/clients) asks
further, with requests made from the file."""
import copy
import glob
import hashlib
import json
import os
import re
import socket
import tempfile

from lib import (DEQD, ROOT, SLOW, Daemon, check, equal, parse_sse, parse_named_sse, raw_request, read_response, run,
                 shared, usual)

FILE = os.path.join(ROOT, "server", "api", "openapi.json")
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
CHAT = "chat.message={role}: {content}\\n"
STATES = tempfile.TemporaryDirectory()


def document():
    with open(FILE, encoding="utf-8") as f:
        return json.load(f)


DOC = document()


# --- JSON pointers, and a validator of the part of JSON Schema 2020-12 that the document uses ---

def resolve(ref):
    if not ref.startswith("#/"):
        raise ValueError("not a reference into the document: " + ref)
    at = DOC
    for part in ref[2:].split("/"):
        at = at[part.replace("~1", "/").replace("~0", "~")]
    return at


def follow(node):
    while "$ref" in node:
        node = resolve(node["$ref"])
    return node


def default_of(schema):
    """A request's field says its default at the end of its description."""
    said = re.search(r" Default (\S+)\.$", schema.get("description", ""))
    return None if not said else said[1] if schema["type"][0] == "string" else json.loads(said[1])


def is_type(value, name):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"null": value is None, "boolean": isinstance(value, bool), "integer": number and float(value).is_integer(),
            "number": number, "string": isinstance(value, str), "array": isinstance(value, list),
            "object": isinstance(value, dict)}[name]


def same(a, b):
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def violations(schema, value, at="$"):
    """What of value the schema does not allow, as a list of strings."""
    bad = []
    for word in schema:
        if word not in KEYWORDS:
            raise ValueError("%s: the validator does not know %r" % (at, word))
    for word, rule in schema.items():
        bad += KEYWORDS[word](rule, value, at, schema)
    return bad


def _said(ok, at, text):
    return [] if ok else ["%s: %s" % (at, text)]


def _any_of(rule, value, at, schema):
    tries = [violations(s, value, at) for s in rule]
    return [] if not all(tries) else ["%s: none of %d: %s" % (at, len(rule), tries)]


def _additional(rule, value, at, schema):
    if not isinstance(value, dict):
        return []
    more = [k for k in value if k not in schema.get("properties", {})]
    if rule is False:
        return _said(not more, at, "unknown %s" % more)
    return [v for k in more for v in violations(rule, value[k], "%s.%s" % (at, k))]


def _content(rule, value, at, schema):
    try:
        inner = json.loads(value)
    except ValueError:
        return ["%s: not JSON" % at]
    return violations(rule, inner, at + "()")


def number_or(rule):
    return lambda limit, value, at, schema: _said(not is_type(value, "number") or rule(value, limit), at,
                                                  "%r, limit %r" % (value, limit))


def sized(kind, rule):
    return lambda limit, value, at, schema: _said(not isinstance(value, kind) or rule(len(value), limit), at,
                                                  "%d long, limit %r" % (
        len(value) if isinstance(value, kind) else 0, limit))


def silent(rule, value, at, schema):
    return []


KEYWORDS = {
    "$ref": lambda r, v, at, s: violations(resolve(r), v, at),
    "type": lambda r, v, at,
    s: _said(any(is_type(v, t) for t in ([r] if isinstance(r, str) else r)), at, "%.60r is not %s" % (v, r)),
    "const": lambda r, v, at, s: _said(same(v, r), at, "%.60r is not %r" % (v, r)),
    "x-neutral": lambda r, v, at,
    s: _said(v is None or any(same(v, x) for x in r), at, "%.60r is not null nor of %s" % (v, r)),
    "enum": lambda r, v, at, s: _said(any(same(v, x) for x in r), at, "%.60r is not of %s" % (v, r)),
    "required": lambda r, v, at,
    s: _said(not isinstance(v, dict) or all(k in v for k in r), at, "of %s something is missing" % r),
    "properties": lambda r, v, at,
    s: [x for k, sub in r.items() if isinstance(v, dict) and k in v for x in violations(sub, v[k], "%s.%s" % (at, k))],
    "additionalProperties": _additional,
    "propertyNames": lambda r, v, at,
    s: [x for k in (v if isinstance(v, dict) else ()) for x in violations(r, k, at + " key")],
    "items": lambda r, v, at,
    s: [x for i, e in enumerate(v if isinstance(v, list) else ()) for x in violations(r, e, "%s[%d]" % (at, i))],
    "anyOf": _any_of,
    "allOf": lambda r, v, at, s: [x for sub in r for x in violations(sub, v, at)],
    "pattern": lambda r, v, at,
    s: _said(not isinstance(v, str) or re.search(r, v), at, "%.60r does not match %s" % (v, r)),
    "minimum": number_or(lambda v, limit: v >= limit), "maximum": number_or(lambda v, limit: v <= limit),
    "minLength": sized(str, lambda n, limit: n >= limit), "maxLength": sized(str, lambda n, limit: n <= limit),
    "minItems": sized(list, lambda n, limit: n >= limit), "maxItems": sized(list, lambda n, limit: n <= limit),
    "maxProperties": sized(dict, lambda n, limit: n <= limit),
    "contentSchema": _content,
    "contentMediaType": silent, "format": silent, "description": silent, "example": silent,
}


def test_validator():
    """The validator itself: what it must refuse, it refuses."""
    for schema, good, bad in (
            ({"type": "integer"}, [1, 0, -5, 2**70, 1.0], [1.5, True, "1", None]),
            ({"type": ["string", "null"]}, ["", None], [0, [], {}]),
            ({"type": "number", "minimum": 0, "maximum": 2}, [0, 2, 1.5], [-0.1, 2.1, "1", True]),
            ({"const": 1}, [1, 1.0], [True, 2, "1"]),
            ({"enum": [None, False, [], {}]}, [None, False, [], {}], [0, "", [1], True]),
            ({"x-neutral": [False, [], {}]}, [None, False, [], {}], [0, "", [1], True]),
            ({"required": ["a"], "properties": {"a": {"type": "null"}}, "additionalProperties": False}, [{"a": None}],
             [{}, {"a": 1}, {"a": None, "b": 1}]),
            ({"additionalProperties": {"type": "number"}, "propertyNames": {"pattern": "^[0-9]+$"}}, [{}, {"1": 2}],
             [{"1": "2"}, {"x": 1}]),
            ({"items": {"type": "string"}, "minItems": 1, "maxItems": 2}, [["a"], ["a", "b"]],
             [[], ["a", 1], ["a", "b", "c"]]),
            ({"anyOf": [{"type": "string", "minLength": 2}, {"type": "null"}]}, ["ab", None], ["a", 1]),
            ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, [1, 3], [0, 4]),
            ({"type": "string", "contentSchema": {"type": "object"}}, ["{}"], ["[]", "{"])):
        for v in good:
            equal(violations(schema, v), [], "%s takes %r" % (schema, v))
        for v in bad:
            check(violations(schema, v), "%s refuses %r" % (schema, v))


# --- The document itself ---

def test_served_as_it_stands():
    with open(FILE, "rb") as f:
        want = f.read()
    d = usual()
    s, h, b = d.request("GET", "/openapi.json")
    equal((s, h["content-type"], b == want), (200, "application/json", True),
          "GET /openapi.json is the file, byte by byte")
    equal(DOC["info"]["version"], d.get("/version")[2]["version"], "info.version is the daemon's")
    check(b.endswith(b"}\n") and b"\t" not in b and b"\r" not in b, "a text file")


def walk(node, at=""):
    yield at, node
    for k, v in (node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()):
        yield from walk(v, "%s/%s" % (at, str(k).replace("~", "~0").replace("/", "~1")))


def schemas(node, at=""):
    """Every schema below a node: what stands under schema, schemas, and the words of JSON Schema that hold schemas."""
    for where, n in walk(node, at):
        if isinstance(n, dict) and (where.endswith("/schema") or re.search(r"/components/schemas/[^/]+$", where)):
            yield from sub_schemas(n, where)


def sub_schemas(s, at):
    yield at, s
    for word in ("items", "additionalProperties", "propertyNames", "contentSchema"):
        if isinstance(s.get(word), dict):
            yield from sub_schemas(s[word], at + "/" + word)
    for word in ("anyOf", "allOf"):
        for i, x in enumerate(s.get(word, ())):
            yield from sub_schemas(x, "%s/%s/%d" % (at, word, i))
    for k, x in s.get("properties", {}).items():
        yield from sub_schemas(x, "%s/properties/%s" % (at, k))


def test_structure():
    equal(set(DOC), {"openapi", "info", "servers", "security", "tags", "paths", "components"}, "the top")
    check(re.fullmatch(r"3\.1\.\d+", DOC["openapi"]) and DOC["info"]["title"] and DOC["info"]["license"]["name"],
          "openapi, info")
    used = set()
    for at, node in walk(DOC):
        if isinstance(node, dict) and "$ref" in node and "/properties/" + "$ref" not in at:
            try:
                check(isinstance(resolve(node["$ref"]), dict), "%s: %s is an object" % (at, node["$ref"]))
                used.add("/".join(node["$ref"].split("/")[:4]))
            except (KeyError, ValueError, TypeError) as e:
                check(False, "%s: %s does not resolve (%r)" % (at, node["$ref"], e))
            equal(set(node), {"$ref"}, at + ": nothing beside a reference")
    for kind in ("schemas", "responses", "parameters", "headers"):
        for name in DOC["components"][kind]:
            check("#/components/%s/%s" % (kind, name) in used, "components/%s/%s is used" % (kind, name))
            check(re.fullmatch(r"[A-Za-z0-9._-]+", name), "components/%s/%s: the name's characters" % (kind, name))
    schemes, tags, ids = set(DOC["components"]["securitySchemes"]), {t["name"] for t in DOC["tags"]}, []
    for s in DOC["components"]["securitySchemes"].values():
        check((s["type"], s.get("scheme")) == ("http", "bearer") or
              (s["type"], s.get("in"), s.get("name")) == ("apiKey", "header", "x-api-key"),
            "scheme %s" % s)
    for path, item in DOC["paths"].items():
        check(path.startswith("/") and set(item) <= set(METHODS) | {"parameters"}, path + ": keys")
        parameters = [follow(p) for p in item.get("parameters", [])]
        equal(sorted(re.findall(r"\{(\w+)\}", path)), sorted(p["name"] for p in parameters if p["in"] == "path"),
              path + ": its parameters")
        equal({p["name"] for p in parameters if p["in"] == "header"},
              {"X-Request-Id", "traceparent", "X-Request-Timeout-Ms"}, path + ": headers")
        for p in parameters:
            check(p["in"] in ("path", "header") and p["schema"] and p["description"] and
                  (p["in"] != "path" or p["required"] is True),
                "%s: parameter %s" % (path, p))
        for method, op in item.items():
            if method == "parameters":
                continue
            name = "%s %s" % (method.upper(), path)
            ids.append(op["operationId"])
            check(set(op) <= {"tags", "operationId", "summary", "description", "security", "requestBody", "responses"},
                  name + ": keys")
            check(op["summary"] and op["description"] and set(op["tags"]) <= tags, name + ": words and tags")
            for s in op.get("security", DOC["security"]):
                check(set(s) <= schemes, name + ": security")
            check("200" in op["responses"] and all(re.fullmatch(r"[1-5]\d\d", c) for c in op["responses"]),
                  name + ": statuses")
            if "requestBody" in op:
                kind = "application/octet-stream" if method == "put" else "application/json"
                equal((op["requestBody"]["required"], list(op["requestBody"]["content"])), (True, [kind]),
                      name + ": body")
            if "requestBody" in op and method != "put":
                body = follow(op["requestBody"]["content"]["application/json"]["schema"])
                equal(body.get("additionalProperties"), False, name + ": no other fields")
                example = op["requestBody"]["content"]["application/json"]["example"]
                equal(violations(body, example), [], name + ": its example")
            for code, r in op["responses"].items():
                r = follow(r)
                check(r["description"] and r["content"] and set(r) <= {"description", "headers", "content", "x-codes"},
                      "%s %s: description and content" % (name, code))
                check(all(set(m) <= {"schema", "example"} and "schema" in m for m in r["content"].values()),
                      "%s %s: schemas" % (name, code))
                equal("x-codes" in r,
                      {"$ref": "#/components/schemas/Error"} in [m["schema"] for m in r["content"].values()],
                      "%s %s: its codes" % (name, code))
                equal("X-Request-Id" in r.get("headers", {}), True, "%s %s: X-Request-Id" % (name, code))
                for want, header in (("401", "WWW-Authenticate"), ("405", "Allow"), ("429", "Retry-After"),
                                     ("429", "retry-after-ms"), ("503", "Retry-After")):
                    check(code != want or header in r["headers"], "%s %s: %s" % (name, code, header))
    equal(len(ids), len(set(ids)), "operationIds are different")
    for at, s in schemas(DOC):
        check(not set(s) - set(KEYWORDS), "%s: words that the validator knows: %s" % (at, sorted(s)))
        if default_of(s) is not None:
            equal(violations(s, default_of(s)), [], at + ": its default")
        # generators make required fields of those with a default, and send it with every request
        check("default" not in s, at + ": a default is said in words")
        check(not s.get("$ref", "").count("/properties/"), at + ": refers to a component, which has a name")
        check(s.get("type") != "null" or re.search(r"/anyOf/\d+$", at), at + ": more than null")
        if "required" in s and s.get("type") == "object":
            check(set(s["required"]) <= set(s["properties"]), at + ": what is required is there")
        if "pattern" in s:
            re.compile(s["pattern"])


def test_statuses():
    """What every operation can answer, by what it is."""
    always = {"200", "400", "403", "405", "408", "413", "414", "431", "500"}
    for path, item in DOC["paths"].items():
        for method in set(item) - {"parameters"}:
            want, op = set(always), item[method]
            open_, probe = op.get("security") == [], path.startswith("/health")
            want |= set() if open_ else {"401"}
            want |= {"415"} if method in ("post", "put") else set()
            want |= {"404"} if "requestBody" in op or "{" in path else set()
            solves = "requestBody" in op and "tokenize" not in path and method == "post"
            want |= {"429", "504"} if solves else set()
            want |= {"429"} if method == "put" else set()  # large bodies wait for the thread that reads them
            want |= {"507"} if (method, path) in (("post", "/v1/states"), ("put", "/v1/states/{name}")) else set()
            want |= set() if path == "/metrics" else {"503"}
            want |= set() if path.startswith("/health") else {"421"}
            equal(set(op["responses"]), want, "%s %s: statuses" % (method, path))
            equal(probe, open_, "%s: open" % path)


# --- The daemon's tables ---

def printed(flag):
    code, out, err = run([DEQD, flag])
    equal((code, err), (0, ""), flag)
    return out.splitlines()


# routes that are the beginning of many paths
TEMPLATES = {"/v1/models/": "/v1/models/{model_id}", "/v1/sequences/": "/v1/sequences/{sequence_id}",
             "/v1/states/": "/v1/states/{name}"}


def concrete(template):
    return template.replace("{model_id}", "tiny").replace("{sequence_id}", "seq_0").replace("{name}", "none")


def test_paths_are_the_routes():
    want, security = set(), {}
    for line in printed("--print-routes"):
        method, path, *flags = line.split(" ")
        if "page" in flags:  # for people; what it does are operations of this document
            continue
        path = TEMPLATES.get(path, path)
        want.add((method.lower(), path))
        security[path] = flags
    got = {(m, p) for p, item in DOC["paths"].items() for m in item if m != "parameters"}
    equal(got - want, set(), "operations that the daemon does not have")
    equal(want - got, set(), "routes that the document does not have")
    for method, path in got & want:
        op = DOC["paths"][path][method]
        equal(op.get("security") == [], "open" in security[path], path + ": open")
        equal("admin_only" in follow(op["responses"]["403"])["x-codes"], "admin" in security[path], path + ": admin")
        equal("open_metrics" in op["description"], "metrics" in security[path], path + ": metrics")


def bounds_of_configuration():
    """Upper and lower bounds that the table leaves to the configuration, from etc/deqd.yaml."""
    with open(os.path.join(ROOT, "etc", "deqd.yaml"), encoding="utf-8") as f:
        text = f.read()

    def value(section, key):
        part = re.search(r"^%s:\n((?:  .*\n|\n)+)" % section, text, re.M).group(1)
        return float(re.search(r"^  %s: (\S+)$" % key, part, re.M).group(1))

    n = min(value("limits", "max_n"), value("engine", "max_sequences"))
    return {"n": (1, n), "best_of": (0, n), "logprobs": (0, value("limits", "max_logprobs")),
            "top_logprobs": (0, value("limits", "max_logprobs")),
            "tol": (value("limits", "tol_min"), value("limits", "tol_max")),
            "max_iter": (0, value("limits", "max_iter")), "min_iter": (0, value("limits", "max_iter")),
            "window": (1, value("limits", "max_window")), "prefill_window": (1, value("limits", "max_window"))}


# values of each type in the table's words: taken by the field's schema, and refused
SHAPES = {
    "string": (["x"], [1, [], {}, True]), "object": ([{}], [1, "x", [1], True]),
    "string or array of text parts": (["", [], [{"type": "text", "text": "x",
        "cache_control": {}}]], [1, {}, ["x"], [{"type": "image_url"}]]),
    "string or array of strings": (["x", ["x"], []], [1, {}, [1], [None]]),
    "array of strings": ([[], ["deq.tokens", "deq.trace", "timings"]], ["x", [1], {}]),
    "array of texts": ([["a"], ["a", "b"]], [[], [1], [""], "a", {}]),
    "JSON Schema": ([{}, True, {"type": "string"}], [1, "x", []]),
    "JSON Schema or its text": ([{}, False, "{}"], [1, []]),
    "array of token ids": ([[], [0, 383]], [1, "x", [-1], ["1"], [1.5], {}]), "object of token ids and numbers": ([{},
        {"1": -1.5}], [[], 1, {"x": 1}, {"1": "1"}, {"-1": 1}]),
    ("/v1/responses", "include"): ([[], ["message.output_text.logprobs"]], ["x", [1], {}]),
    ("input", "content"): (["", [], [{"type": "input_text", "text": "x"},
                                     {"type": "output_text", "text": "", "annotations": []}]], [1, {}, ["x"],
        [{"type": "text", "text": "x"}]]),
    "integer": ([0, 3], ["x", 1.5]),
    "string or array of messages": (["", [{"role": "user", "content": "x"}]],
                                    [[], 1, {}, ["x"], [{"role": "x", "content": ""}]]),
    "string or array of token ids": (["", "x", [0, 1]], [1, {}, [], ["x"], [[1]], [-1]]),
    "array of messages": ([[{"role": "user",
        "content": "x"}]], [[], "x", {}, [1], [{"role": "x", "content": ""}]]),
    "string, array of strings, of token ids, or of arrays of token ids": (["", ["a", "b"], [0, 1], [[0], [1, 2]]],
                                                                          [1, {}, [], [[]], ["a", 1], [[1],
        "a"], [["a"]], [None]]),
}


def test_fields_are_the_tables():
    where = {"response_format": "ResponseFormat", "json_schema": "JsonSchemaFormat", "text": "ResponseText",
             "format": "TextFormat",
             "structured_outputs": "StructuredOutputs", "deq": "DeqOptions", "stream_options": "StreamOptions",
             "messages": "Message", "input": "InputItem"}
    for path, item in DOC["paths"].items():
        if "requestBody" in item.get("post", {}):
            where[path] = item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
    configured, seen = bounds_of_configuration(), {}
    for line in printed("--print-fields"):
        table, name, kind, lo, hi = line.split("\t")
        seen.setdefault(table, set()).add(name)
        text = "%s: %s" % (table, name)
        schema = DOC["components"]["schemas"][where[table]]["properties"].get(name)
        if not check(schema is not None, text + " is in the document"):
            continue
        s = follow(schema)
        check(s.get("description"), text + ": described")
        required = name in DOC["components"]["schemas"][where[table]].get("required", ())
        equal(not violations(s, None), not required, text + ": null counts as absent")
        lo, hi = float(lo), float(hi)
        if kind in ("integer", "number"):
            equal(s["type"], [kind, "null"], text + ": type")
            lo, hi = configured[name] if hi < lo else (lo, hi)
            # as floats: the bounds of seed are no doubles
            equal((float(s["minimum"]), float(s["maximum"])), (lo, hi), text + ": range")
        elif kind == "boolean":
            equal(s["type"], [kind, "null"], text + ": type")
        elif kind.startswith("neutral: "):
            equal({k: v for k, v in schema.items() if k != "description"},
                  {"x-neutral": json.loads(kind[len("neutral: "):])}, text + ": neutral values")
        elif kind.startswith("string: ") and required:
            equal(s["enum"], kind[len("string: "):].split(", "), text + ": its words")
        elif kind.startswith("string: "):
            equal(s["enum"], kind[len("string: "):].split(", ") + [None], text + ": its words")
        else:
            good, bad = SHAPES[(table, name) if (table, name) in SHAPES else kind.replace("hint: ", "")]
            for v in good:
                equal(violations(s, v), [], "%s takes %r" % (text, v))
            for v in bad:
                check(violations(s, v), "%s refuses %r" % (text, v))
    equal(set(seen), set(where), "bodies and tables")
    for table, names in seen.items():
        equal(set(DOC["components"]["schemas"][where[table]]["properties"]) - names, set(),
              "%s: fields that the daemon does not have" % table)
        equal(DOC["components"]["schemas"][where[table]]["additionalProperties"], False, table + ": no others")


def test_defaults():
    """A default written out changes nothing, and the bounds themselves are taken where the field stands alone."""
    d = shared(CHAT)
    for path, base in (("/v1/completions", {"prompt": "The", "temperature": 1, "max_tokens": 16}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "A"}], "max_tokens": 4}),
        ("/v1/responses", {"input": "A", "max_output_tokens": 4})):
        base["seed"] = 5
        want = d.post(path, base)[2]
        body = DOC["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        properties = follow(body["schema"])["properties"]
        spelled = {k: default_of(follow(v)) for k, v in properties.items() if default_of(follow(v)) is not None}
        check(len(spelled) > 12, "%s: defaults are in the document (%d)" % (path, len(spelled)))
        got = d.post(path, dict(base, **spelled))[2]
        equal(answers(got), answers(want), path + ": every default, written out")


def answers(o):
    """What was generated, and how it ended."""
    kept = ("text", "message", "finish_reason", "logprobs", "role", "status", "content")
    return [{k: v for k, v in c.items() if k in kept} for c in o.get("choices", o.get("output"))]


def test_error_codes_are_the_sources():
    """Status and code of every error: what server/ says, and what the document says."""
    got, want = set(), set()
    for path in glob.glob(os.path.join(ROOT, "server", "**", "*.c"), recursive=True):
        with open(path, encoding="utf-8") as f:
            got |= set(re.findall(r'\b([45]\d\d), "([a-z_]+)"', f.read()))
    got |= {("408", "request_timeout"), ("503", "reload_failed")}  # written otherwise there
    got.discard(("501", "not_supported_error"))
    error = DOC["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"]
    for item in DOC["paths"].values():
        for method in set(item) - {"parameters"}:
            for status, r in item[method]["responses"].items():
                want |= {(status, c) for c in follow(r).get("x-codes", ())}
    equal(want - got, set(), "errors that the sources do not have")
    equal(got - want, set(), "errors that the document does not have")
    equal(sorted(error), sorted({c for _, c in want}), "every code is of a status")


# --- What the daemon answers ---

def response_of(method, path, status):
    return follow(DOC["paths"][path][method.lower()]["responses"][str(status)])


def optional(at, key, chunk):
    """Keys that replies may lack: in a stream's chunk, in its delta, and the extras of choices."""
    extras = ("stop_reason", "token_ids", "prompt_token_ids", "deadline_exceeded", "n_prompt_tokens", "n_ctx", "trace",
              "dropped_more", "timings", "max_evaluations", "budget_exhausted", "jacobian")
    return (at[-1:] == ["delta"] or key in extras or (key == "evaluations" and at[-1:] == ["deq"]) or
            (key == "deq" and at) or (key in ("usage", "deq") and not at and chunk))


def damaged(value, chunk):
    """Damaged copies of a reply that the schema allows: a key lost, one too many, a value of another type. Down into
    the first of lists."""
    def places(v, at):
        if at[-1:] in (["metadata"], ["architecture"]):  # the client's own, the kind's own
            return
        yield at, v
        if isinstance(v, dict):
            for k in v:
                yield from places(v[k], at + [k])
        elif isinstance(v, list) and v:
            yield from places(v[0], at + [0])

    def change(at, f):
        root = copy.deepcopy([value])
        node = root
        for k in [0] + at[:-1] if at else []:
            node = node[k]
        f(node, at[-1] if at else 0)
        return root[0]

    for at, v in places(value, []):
        if at:
            yield "%s of another type" % at, change(at, lambda n,
                                                    k: n.__setitem__(k, {"x": "y"} if not isinstance(v, dict) else "x"))
        if isinstance(v, dict) and v:
            yield "%s with a key more" % at, change(at + ["x-damage"], lambda n, k: n.__setitem__(k, [None]))
            for k in v:  # top_logprobs of completions are maps, whose keys are tokens
                if not optional(at, k, chunk) and not (at[-2:-1] == ["top_logprobs"] and "bytes" not in v):
                    yield "%s without %s" % (at, k), change(at + [k], lambda n, k: n.pop(k))


def conforms(schema, value, text, chunk=False):
    """The reply is what the schema says, and damaged it is not."""
    bad = violations(schema, value)
    if not check(not bad, "%s: %s" % (text, bad[:5])):
        return
    missed = [what for what, reply in damaged(value, chunk) if not violations(schema, reply)]
    check(not missed, "%s: damage that the schema does not see: %s" % (text, missed[:5]))


def conforms_events(schema, body, text):
    got = parse_named_sse(body)
    told = set()
    for i, (name, e) in enumerate(got):
        if name not in told and name != "response.in_progress":  # damage of one of a kind is enough
            conforms(schema["properties"]["data"]["contentSchema"], e, "%s: event %d" % (text, i), chunk=True)
        told.add(name)
        equal(violations(schema, {"event": name, "data": json.dumps(e)}), [], "%s: event %d as text" % (text, i))
    check(violations(schema, {"event": "response.done", "data": json.dumps(got[0][1])}) and
          violations(schema, {"event": got[0][0], "data": "{}"}),
        text + ": other events are refused")
    return [e for _, e in got]


def conforms_reply(method, path, status, headers, body, text, events=False):
    template = path if path in DOC["paths"] else TEMPLATES[path[:path.rindex("/") + 1]]
    text = "%s %s, %s" % (method, path, text)
    operation = DOC["paths"].get(template, {}).get(method.lower())
    if operation is None or str(status) not in operation["responses"]:
        check(False, "%s: %d is not in the document" % (text, status))
        return
    r = response_of(method, template, status)
    for name, h in r.get("headers", {}).items():
        h, got = follow(h), headers.get(name.lower())
        if got is None:
            check(not h.get("required"), "%s: no header %s" % (text, name))
        else:
            value = int(got) if h["schema"]["type"] == "integer" else got
            equal(violations(h["schema"], value), [], "%s: header %s" % (text, name))
    wire = headers["content-type"]
    kind = [k for k in r["content"] if k == wire or k.split(";")[0] == wire.split(";")[0]]
    if not check(len(kind) == 1, "%s: Content-Type %s is in the document" % (text, wire)):
        return
    schema = r["content"][kind[0]]["schema"]
    if wire.startswith("text/event-stream"):
        if path == "/v1/responses":
            return conforms_events(schema, body, text)
        got, done = parse_sse(body)
        check(done and got, text + ": events and [DONE]")
        equal(violations(schema, {"data": "[DONE]"}), [], text + ": [DONE]")
        inner = schema["properties"]["data"]["anyOf"][1]["contentSchema"]
        for i, e in enumerate(got):
            conforms(inner, e, "%s: event %d" % (text, i), chunk=True)
            equal(violations(schema, {"data": json.dumps(e)}), [], "%s: event %d as text" % (text, i))
        check(violations(schema, {"data": "[DONE"}) and violations(schema, {"data": "{}"}),
              text + ": other events are refused")
        return got
    if wire == "application/json":
        value = json.loads(body.decode("utf-8"))
        # openapi.json is described in its first keys only
        if path == "/openapi.json":
            equal(violations(schema, value), [], text)
        else:
            conforms(schema, value, text)
        check("x-codes" not in r or value["error"]["code"] in r["x-codes"],
              "%s: its code is of %s" % (text, r.get("x-codes")))
        check("/Health" not in schema.get("$ref", "") or value["status"] == ("ok" if status == 200 else "unavailable"),
              text + ": in words too")
        return value
    if wire.startswith("text/plain"):
        equal(violations(schema, body.decode("utf-8")), [], text)
    return body


def test_replies():
    d = shared(CHAT, "state.dir=" + STATES.name, "state.max_states=1")
    messages = [{"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "Tell "}, {"type": "text", "text": "me"}]}]
    tokens = d.post("/tokenize", {"prompt": "The king"})[2]["tokens"]
    stop = d.complete("The", max_tokens=20)["choices"][0]["text"]
    c, h, r, l = "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/logits"
    q, e = "/v1/equilibria", "/v1/embeddings"
    t = "/v1/states"
    for path, body, status, text in (
            (c, {}, 200, "nothing asked"), (c, {"prompt": "The", "max_tokens": 5, "n": 2}, 200, "n 2"),
            (c, {"prompt": ["a", "b"], "n": 2, "best_of": 3, "max_tokens": 3}, 200, "best_of"),
            (c, {"prompt": "The king", "max_tokens": 3, "echo": True, "logprobs": 3}, 200, "echo and logprobs"),
            (c, {"prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 0, "return_tokens_as_token_ids": True},
             200, "scoring"),
            (c, {"prompt": [tokens, tokens], "max_tokens": 2, "return_token_ids": True, "include": ["deq.tokens"],
                 "logprobs": 2,
                "logprob_token_ids": [1, 2]}, 200, "everything in choices"),
            (c, {"prompt": "The", "max_tokens": 20, "temperature": 0, "stop": [stop[4:7]]}, 200, "a stop string"),
            (c, {"prompt": "The", "max_tokens": 20, "temperature": 0, "stop_token_ids": list(range(1, 300))}, 200,
             "a stop token"),
            (c, {"prompt": "The", "max_tokens": 2000, "ignore_eos": True, "deadline_ms": 60,
                 "deq": {"tol": 1e-5, "window": 1}}, (200, 504), "a deadline"),
            (c, {"prompt": "The", "max_tokens": 4,
                 "deq": {"preset": "fast", "solver": "broyden", "warm_start": "zero", "window": 1, "max_iter": 3,
                "min_iter": 1, "max_evaluations": 5}}, 200, "deq"),
            (h, {"messages": messages, "max_tokens": 4}, 200, "chat"),
            (h, {"messages": messages, "max_tokens": 4, "n": 2, "logprobs": True, "top_logprobs": 2,
                 "return_token_ids": True,
                "include": ["deq.tokens", "deq.trace", "timings"], "tools": [], "tool_choice": "none",
                "response_format": {"type": "text"}}, 200, "chat with everything"),
            (r, {"input": "A", "max_output_tokens": 4}, 200, "response"),
            (r, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "A"}]}], "max_output_tokens": 4,
                 "instructions": "Be kind.", "user": "me",
                "include": ["message.output_text.logprobs"], "top_logprobs": 2, "store": False, "tools": []}, 200,
             "response with everything"),
            (r, {"input": "a b" * 3000}, 400, "input too long"), (r, {}, 400, "no input"),
            (r, {"input": []}, 400, "an empty input"),
            (r, {"input": "A", "previous_response_id": "resp_1"}, 400, "kept answers"),
            (r, {"input": "A", "model": "other"}, 404, "another model"),
            (l, {"prompt": "The"}, 200, "last"),
            (l, {"prompt": tokens, "positions": "all", "deq": {"tol": 0.1}}, 200, "all"),
            (q, {"prompt": "The"}, 200, "last"), (q, {"prompt": tokens, "positions": "all"}, 200, "all"),
            (q, {"pooling": "mean", "encoding_format": "base64", "deq": {"tol": 0.1}}, 200, "a mean"),
            (q, {"prompt": "The", "jacobian": True}, 200, "its stability"),
            (q, {"pooling": "max"}, 400, "pooling"), (q, {"prompt": [1] * 3000}, 400, "too long"),
            (e, {"input": ["The", "A"], "user": "me"}, 200, "embeddings"),
            (e, {"input": [tokens], "encoding_format": "base64", "pooling": "last"}, 200, "of tokens"),
            (e, {}, 400, "no input"), (e, {"input": []}, 400, "an empty input"),
            (e, {"input": "A", "model": "other"}, 404, "another model"),
            ("/tokenize", {"prompt": "a b"}, 200, "text"),
            ("/tokenize", {"content": "ab", "prompt": None}, 200, "content"),
            ("/detokenize", {"tokens": tokens}, 200, "text"),
            (c, {"prompt": 1}, 400, "type"), (c, {"prompt": "a", "temperature": 3}, 400, "range"),
            (c, {"prompt": "a", "x": 3}, 400, "unknown"),
            (c, {"suffix": "x"}, 400, "unsupported"),
            (c, {"prompt": [384]}, 400, "token"), (c, b"{", 400, "no JSON"),
            (c, {"prompt": [1] * 3000}, 400, "too long"),
            (c, {"prompt": "a", "max_tokens": 3000}, 400, "together too long"),
            (h, {"messages": [{"role": "user", "content": "a b" * 3000}]}, 400, "chat too long"),
            (h, {}, 400, "no messages"),
            (l, {"prompt": [1] * 3000}, 400, "too long"),
            ("/tokenize", {}, 400, "no prompt"), ("/detokenize", {"tokens": [1.0]}, 200, "1.0"),
            ("/detokenize", {"tokens": [1.5]}, 400, "1.5"),
            (t, {"name": "a", "prompt": "The"}, 200, "saved"), (t, {"prompt": tokens, "state": "a"}, 200, "bytes"),
            (c, {"state": "a", "max_tokens": 3}, 200, "behind a state"), (c, {"state": "b"}, 404, "no such state"),
            (t, {"name": "b/", "prompt": "The"}, 400, "a wrong name"), (t, {"name": "a"}, 400, "no text"),
            (t, {"name": "b", "prompt": "The"}, 507, "one too many"),
            (c, {"model": "other"}, 404, "another model"),
            (h, {"messages": messages, "model": "other"}, 404, "another model"),
            (l, {"model": "other"}, 404, "another model"),
            ("/tokenize", {"prompt": "", "model": "other"}, 404, "another model"),
            ("/admin/reload", b"", 403, "no keys")):
        s, head, b = d.request("POST", path, body)
        check(s in (status if isinstance(status, tuple) else (status,)), "%s, %s: %d %r" % (path, text, s, b[:200]))
        got = conforms_reply("POST", path, s, head, b, text)
        # the request's schema says the same of it, where a schema can
        if path in (c, h, r, l, q, e, t, "/tokenize", "/detokenize"):
            request = DOC["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            beyond = ("no prompt", "token", "too long", "together too long", "chat too long", "input too long",
                      "no JSON")
            if isinstance(body, dict) and text not in beyond:
                equal(not violations(request, body), s != 400,
                      "%s, %s: the schema of the request agrees" % (path, text))
        if text == "everything in choices":
            check(all({"token_ids", "prompt_token_ids", "deq"} <= set(x) for x in got["choices"]),
                  "the extras were there")
        if text in ("a stop string", "a stop token"):
            check("stop_reason" in got["choices"][0], text + ": stop_reason was there")
    s, head, b = d.request("POST", l, {"prompt": "The"}, {"Accept": "application/octet-stream"})
    conforms_reply("POST", l, s, head, b, "raw")
    bytes_ = b""
    s, head, b = d.request("POST", q, {"prompt": "The"}, {"Accept": "application/octet-stream"})
    conforms_reply("POST", q, s, head, b, "raw")
    for method, path in (("GET", t), ("GET", t + "/a"), ("GET", t + "/other"), ("PUT", t + "/a"), ("DELETE", t + "/a")):
        put = (bytes_, {"Content-Type": "application/octet-stream"}) if method == "PUT" else ()
        s, head, b = d.request(method, path, *put)
        equal(s, 404 if path.endswith("other") else 200, "%s %s" % (method, path))
        conforms_reply(method, path, s, head, b, "as it is")
        bytes_ = b if (method, path) == ("GET", t + "/a") else bytes_
    s, head, b = d.request("PUT", t + "/a", bytes_[:-1], {"Content-Type": "application/octet-stream"})
    equal(s, 400, "a damaged state")
    conforms_reply("PUT", t + "/a", s, head, b, "a damaged state")
    for path in ("/v1/models", "/v1/models/tiny", "/v1/models/other", "/tokenizer_info", "/version", "/openapi.json",
                 "/health", "/health/live",
        "/health/ready", "/health/startup", "/metrics"):
        s, head, b = d.request("GET", path)
        equal(s, 404 if path.endswith("other") else 200, path)
        conforms_reply("GET", path, s, head, b, "as it is")


def test_stream_replies():
    d = shared(CHAT)
    c, h, r = "/v1/completions", "/v1/chat/completions", "/v1/responses"
    user = [{"role": "user", "content": "Tell me"}]
    for path, body, text in (
            (c, {"prompt": "The", "max_tokens": 5}, "plain"), (c, {"prompt": "The", "max_tokens": 5, "n": 2,
                "stream_options": {"include_usage": True}}, "n 2 and usage"),
            (c, {"prompt": ["a", "b"], "max_tokens": 3, "echo": True, "logprobs": 2,
                 "stream_options": {"continuous_usage_stats": True}},
                "echo, logprobs, usage in every chunk"),
            (c, {"prompt": "The", "max_tokens": 4, "include": ["deq.tokens"], "return_token_ids": True}, "telemetry"),
            (c, {"prompt": "The", "max_tokens": 10, "temperature": 1, "include": ["deq.trace", "timings"]}, "trace"),
            (h, {"messages": user, "max_tokens": 5,
                 "stream_options": {"include_usage": True, "continuous_usage_stats": False}}, "chat"),
            (h, {"messages": user, "max_tokens": 4, "n": 2, "logprobs": True, "top_logprobs": 1,
                 "include": ["deq.tokens"],
                "return_token_ids": True}, "chat with everything"),
            (r, {"input": "A", "max_output_tokens": 5}, "response"),
            (r, {"input": "A", "max_output_tokens": 3, "include": ["message.output_text.logprobs"], "top_logprobs": 1},
             "response with logprobs")):
        s, head, b = d.request("POST", path, dict(body, stream=True))
        equal((s, head["content-type"].split(";")[0]), (200, "text/event-stream"), text)
        events = conforms_reply("POST", path, s, head, b, "stream: " + text)
        if path == r:
            continue
        last = [e for e in events if e["choices"] and e["choices"][0]["finish_reason"]]
        check(last and all("deq" in e for e in last), text + ": a choice's last chunk has deq")


def test_refusals():
    """The statuses that headers decide, on every operation that lists them."""
    d = usual()
    for template, item in DOC["paths"].items():
        path = concrete(template)
        takes = [m for m in ("GET", "POST", "PUT", "DELETE") if m.lower() in item]
        for m in takes:
            for status, head, text in ((400, {"X-Request-Timeout-Ms": "0"}, "a timeout of 0"),
                                       (431, {"X-%d" % i: "1" for i in range(101)}, "101 headers"),
                                       (413, {"Content-Length": str(33 << 20 if m == "PUT" else 2 << 20)},
                                        "too many MiB")):
                with socket.create_connection((d.host, d.port), timeout=30 * SLOW) as s:
                    lines = "".join("%s: %s\r\n" % kv for kv in head.items())
                    s.sendall(("%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (m, path, lines)).encode())
                    got, h, b, _ = read_response(s)
                if status == 413 and "admin_only" in response_of(m, template, 403)["x-codes"]:
                    status = 403  # there are no keys here, and who comes first
                equal(got, status, "%s %s: %s" % (m, path, text))
                conforms_reply(m, path, got, h, b, text)
            got, h, b = d.request(m, path + "?" + "a" * 9000)
            equal(got, 414, "%s %s: a long target" % (m, path))
            conforms_reply(m, path, got, h, b, "a long target")
            other = next(x for x in ("GET", "POST", "DELETE") if x not in takes)
            got, h, b = d.request(other, path, b"{}" if other == "POST" else None)
            equal((got, h["allow"]), (405, ", ".join(takes)), "%s %s" % (other, path))
            conforms_reply(m, path, got, h, b, "405")
            if m == "POST" and template != "/admin/reload":
                for kind, taken in (("text/plain", False), ("application/jsonl", False),
                                    ("application/json; charset=utf-8", True),
                ("application/x-www-form-urlencoded", True)):
                    got, h, b = d.request(m, path, b"", {"Content-Type": kind})
                    equal(got, 400 if taken else 415, "%s: Content-Type %s" % (path, kind))
                    conforms_reply(m, path, got, h, b, kind)


# seconds of work; its client leaves before
LONG = {"max_tokens": 30000, "ignore_eos": True, "stream": True, "deq": {"tol": 1e-5, "window": 1}}


def test_keys_and_queue():
    with tempfile.TemporaryDirectory() as dir:
        keys = os.path.join(dir, "keys")
        with open(keys, "w") as f:
            f.write("one %s\ntwo %s admin\n" % tuple(hashlib.sha256(k).hexdigest() for k in (b"user", b"root")))
        with Daemon("auth.keys_file=" + keys, "queue.max_requests=0", "engine.max_sequences=1",
                    "engine.max_positions=32768") as d:
            for template, item in DOC["paths"].items():
                path = concrete(template)
                for method in set(item) - {"parameters"}:
                    body = b"{}" if method == "post" else None
                    for head in ({}, {"Authorization": "Bearer no"},
                                 {"Authorization": "Bearer no", "x-api-key": "neither"}):
                        s, h, b = d.request(method.upper(), path, body, head)
                        open_ = item[method].get("security") == []
                        equal(s, 200 if open_ else 401, "%s with %s" % (path, head))
                        conforms_reply(method.upper(), path, s, h, b, "key %s" % head)
            for key, status in (("user", 403), ("root", 200)):
                s, h, b = d.request("POST", "/admin/reload", b"", {"x-api-key": key})
                equal(s, status, "/admin/reload with the key of " + key)
                conforms_reply("POST", "/admin/reload", s, h, b, "key of " + key)
            busy = d.http()
            busy.request("POST", "/v1/completions", json.dumps(LONG), {"x-api-key": "user"})
            first = busy.getresponse()
            equal(first.status, 200, "one in work")
            for path in ("/v1/completions", "/v1/logits", "/v1/equilibria", "/v1/embeddings"):
                s, h, b = d.request("POST", path, {}, {"x-api-key": "user"})
                equal(s, 429, path + ": the queue is full")
                conforms_reply("POST", path, s, h, b, "a full queue")
            s, h, b = d.request("GET", "/v1/sequences", None, {"x-api-key": "root"})
            row = conforms_reply("GET", "/v1/sequences", s, h, b, "one in work")["data"][0]
            for status in (200, 404):
                s, h, b = d.request("DELETE", "/v1/sequences/" + row["id"], None, {"x-api-key": "root"})
                conforms_reply("DELETE", "/v1/sequences/" + row["id"], s, h, b, "ended once")
                if status == 200:
                    equal((s, b"ended_by_operator" in first.read()), (200, True), "its stream ends with the error")
            equal(s, 404, "and is no more")
            first.close()
            busy.close()
    with Daemon("server.body_timeout_ms=200") as d, d.connect() as s:
        s.sendall(raw_request("{}")[:-1])
        got, h, b, _ = read_response(s)
        equal(got, 408, "a body that does not come")
        conforms_reply("POST", "/v1/completions", got, h, b, "late")
    with Daemon("engine.max_sequences=1", "engine.max_positions=32768", "queue.timeout_ms=50") as d:
        busy = d.http()
        busy.request("POST", "/v1/completions", json.dumps(LONG))
        first = busy.getresponse()
        s, h, b = d.request("POST", "/v1/completions", {})
        equal(s, 503, "waited too long")
        conforms_reply("POST", "/v1/completions", s, h, b, "queue_timeout")
        s, h, b = d.request("POST", "/v1/completions", {}, {"X-Request-Timeout-Ms": "10"})
        equal(s, 504, "a deadline in the queue")
        conforms_reply("POST", "/v1/completions", s, h, b, "deadline")
        first.close()
        busy.close()
