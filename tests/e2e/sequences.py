"""GET /v1/sequences and DELETE /v1/sequences/{id}: who runs the server sees what waits and runs, and ends it."""
import hashlib
import json
import tempfile
import threading
import time

from lib import Daemon, PATIENCE_S, check, check_error, equal

USER, ADMIN = {"x-api-key": "user"}, {"x-api-key": "root"}
LONG = {"prompt": "The", "max_tokens": 30000, "ignore_eos": True, "deq": {"tol": 1e-5, "window": 1}}


class Keys:
    def __enter__(self):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".keys")
        self.file.write("one %s\ntwo %s admin\n" % tuple(hashlib.sha256(k).hexdigest() for k in (b"user", b"root")))
        self.file.flush()
        return self.file.name

    def __exit__(self, *_):
        self.file.close()


def listed(d, cond):
    """The list, once cond of it holds."""
    until = time.monotonic() + PATIENCE_S
    while True:
        s, _, b = d.request("GET", "/v1/sequences", None, ADMIN)
        got = json.loads(b)["data"]
        if s != 200 or cond(got) or time.monotonic() > until:
            return got
        time.sleep(0.01)


def test_list_and_end():
    with Keys() as keys, Daemon("auth.keys_file=" + keys, "engine.max_sequences=1", "engine.max_positions=32768",
                                "server.admin_listen=127.0.0.1:0") as d:
        got = {}

        def ask(name, body):
            got[name] = d.request("POST", "/v1/completions", body, dict(USER, **{"X-Request-Id": name}))

        def begin(name, body):
            t = threading.Thread(target=ask, args=(name, body))
            t.start()
            return t

        first = begin("runs", dict(LONG, stream=True))
        rows = listed(d, lambda x: len(x) == 1 and x[0]["completion_tokens"] > 3)
        second = begin("waits", LONG)
        rows = listed(d, lambda x: len(x) == 2)
        equal([(r["request_id"], r["state"]) for r in rows], [("runs", "running"), ("waits", "waiting")],
              "oldest first")
        runs, waits = rows
        check(runs["evaluations"] >= runs["completion_tokens"] > 3 and runs["queue_ms"] < runs["age_ms"], "what it did")
        equal((waits["completion_tokens"], waits["evaluations"], waits["queue_ms"]), (0, 0, waits["age_ms"]),
              "what waits did nothing")
        equal((runs["max_tokens"], runs["tol"], runs["choices"], runs["caller"]), (30000, 1e-5, 1, waits["caller"]),
              "what was asked for")
        for key, status, code in ((USER, 403, "admin_only"), ({}, 401, "invalid_api_key")):
            for method, path in (("GET", "/v1/sequences"), ("DELETE", "/v1/sequences/" + runs["id"])):
                s, _, b = d.request(method, path, None, key)
                check_error(s, b, status, code, None, "%s %s with %s" % (method, path, key))
        s, _, b = d.admin().request("DELETE", "/v1/sequences/" + waits["id"], None, ADMIN)
        equal((s, json.loads(b)), (200, {"id": waits["id"], "object": "sequence", "deleted": True}), "one that waits")
        second.join()
        s, h, b = got["waits"]
        check_error(s, b, 503, "ended_by_operator", None, "what its client gets")
        equal((h.get("x-should-retry"), h.get("retry-after")), ("false", None), "clients are not to try again")
        equal(d.request("DELETE", "/v1/sequences/" + runs["id"], None, ADMIN)[0], 200, "one that runs")
        first.join()
        s, _, b = got["runs"]
        blocks = b.decode().strip().split("\n\n")
        last = json.loads(blocks[-1][6:])
        equal((s, last["error"]["code"], "[DONE]" in b.decode()), (200, "ended_by_operator", False),
              "a stream ends with the error")
        check(sum("finish_reason\":null" in x for x in blocks) > 0, "behind what it had")
        s, _, b = d.request("DELETE", "/v1/sequences/" + runs["id"], None, ADMIN)
        check_error(s, b, 404, "sequence_not_found", None, "what has ended")
        equal(listed(d, lambda x: not x), [], "nothing is left")
        d.key = "root"
        equal(d.at_rest()["deqd_sequences_ended_total"], 2, "counted")
        d.key = "user"
        d.alive()


def test_one_of_many_prompts():
    """A request ends as a whole."""
    with Keys() as keys, Daemon("auth.keys_file=" + keys, "engine.max_sequences=2", "engine.max_positions=32768",
                                key="root") as d:
        got = []
        t = threading.Thread(target=lambda: got.append(d.post("/v1/completions", dict(LONG, prompt=["a", "b", "c"]))))
        t.start()
        rows = listed(d, lambda x: len(x) == 3)
        equal(d.request("DELETE", "/v1/sequences/" + rows[2]["id"], None, ADMIN)[0], 200, "the third")
        t.join()
        check_error(got[0][0], got[0][2], 503, "ended_by_operator", None, "all of it")
        d.at_rest()


def test_needs_a_key_at_all():
    """Without keys there is no admin."""
    with Daemon() as d:
        s, _, b = d.request("GET", "/v1/sequences")
        check_error(s, b, 403, "admin_only", None, "no keys file")
