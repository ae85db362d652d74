"""1,000 random JSON Schemas through /v1/completions: every answer that ends with stop is valid by the jsonschema
package, formats included. FORMS=n for another number, SEED for another draw."""
import concurrent.futures
import json
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
sys.dont_write_bytecode = True

import jsonschema

from lib import Daemon, check, counts, equal

N, SEED = int(os.environ.get("FORMS", "1000")), int(os.environ.get("SEED", "1"))
NAMES = ["name", "age", "kind", "id", "x", "caf\u00e9", "a b", "q\"", "nam", "tags"]
WORDS = ["red", "blue", "", "caf\u00e9", "line\nend", "a\"b\\"]


def leaf(r):
    lo = r.randint(-300, 2000)
    return r.choice([
        {"type": "boolean"}, {"type": "null"}, {"type": "string", "maxLength": r.randint(0, 12)},
        {"type": "string", "minLength": r.randint(0, 4), "maxLength": r.randint(4, 9)},
        {"type": "string", "pattern": r.choice(["^[a-z]{2,6}$", r"\d", r"^(ab|cd)+\s?x", "^[^a-y\"]{1,3}$", "a|^b$"]),
         "title": "x"},
        {"type": "string", "format": r.choice(["date", "date-time", "time", "uuid", "ipv4", "email", "uri"])},
        {"type": "integer", "minimum": lo, "maximum": lo + r.randint(0, 5000)}, {"type": "integer"}, {"type": "number"},
        {"type": "integer", "exclusiveMinimum": lo - 0.5},
        {"type": "number", "minimum": lo, "exclusiveMaximum": lo + 9},
        {"type": "number", "exclusiveMinimum": 0}, {"type": ["integer", "null"], "maximum": lo},
        {"enum": r.sample(WORDS + [None, True, 1.5, -3, [1, {"a": []}]], r.randint(1, 5))},
        {"const": r.choice(WORDS + [None, {"k": [0.1]}])}, {"minimum": 3, "maxLength": 2}])


def schema(r, depth):
    if not depth:
        return leaf(r)
    inner = lambda: schema(r, r.randint(0, depth - 1))
    kind = r.randrange(9)
    if kind < 3:
        names = r.sample(NAMES, r.randint(0, 5))
        s = {"type": "object", "properties": {n: inner() for n in names},
             "required": [n for n in names if r.random() < 0.6]}
        more = r.random()
        if more < 0.3:
            s["additionalProperties"] = False
        elif more < 0.45:
            s["additionalProperties"] = leaf(r)
        return s
    if kind == 3:
        s = {"type": "array", "items": inner(), "maxItems": r.randint(0, 3)}
        return dict(s, minItems=r.randint(0, s["maxItems"]))
    if kind == 4:
        return {"type": "array", "prefixItems": [inner(), inner()], "items": r.choice([False, leaf(r)]), "maxItems": 3,
                "minItems": r.randint(0, 2)}
    if kind == 5:
        return {"anyOf": [inner(), leaf(r)]}
    if kind == 6:
        return {"oneOf": [{"type": "object", "properties": {"kind": {"const": k}, "v": inner()},
                           "required": ["kind", "v"]} for k in ("red", "blue")]}
    if kind == 7:
        return {"allOf": [{"type": "object", "properties": {"a": leaf(r)}, "required": ["a"]},
                          {"properties": {"b": inner()}}]}
    return {"$ref": "#/$defs/%s" % r.choice(["leaf", "list"])}


def whole(r):
    return dict(schema(r, 3), **{"$defs": {"leaf": leaf(r), "list": {"type": "array", "maxItems": 2, "items": {
        "anyOf": [{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/list"}]}}}})


def ask(d, i):
    r = random.Random(SEED * 100000 + i)
    s = whole(r)
    form = r.choice([{"structured_outputs": {"json": s}}, {"response_format": {
        "type": "json_schema", "json_schema": {"name": "s", "schema": s}}}])
    status, _, o = d.post("/v1/completions", dict(form, prompt="First Citizen:", max_tokens=300, seed=i,
                                                  temperature=r.choice([0, 0.8, 1.3]),
                                                  deq={"window": r.choice([1, 8])}))
    if not equal(status, 200, "%d: %s: %s" % (i, json.dumps(s), o)):
        return "refused"
    a = o["choices"][0]
    if a["finish_reason"] == "stop":
        try:
            value = json.loads(a["text"])
            problems = [e.message for e in jsonschema.Draft202012Validator(
                s, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).iter_errors(value)]
            check(not problems, "%d: %s: %s: %s" % (i, json.dumps(s), a["text"], problems))
        except ValueError as e:
            check(False, "%d: %s: %r is no JSON: %s" % (i, json.dumps(s), a["text"], e))
    return a["finish_reason"]


if __name__ == "__main__":
    with Daemon() as daemon, concurrent.futures.ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda i: ask(daemon, i), range(N)))
    stopped = ends.count("stop")
    check(stopped > N // 2, "%d of %d answers came to an end" % (stopped, N))
    print("forms: %d of %d answers ended with stop; %d passed, %d failed" % (stopped, N, counts["passed"],
                                                                             counts["failed"]))
    sys.exit(counts["failed"] > 0)
