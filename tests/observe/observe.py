#!/usr/bin/env python3
"""What etc/prometheus and etc/grafana say, against what a real Prometheus scrapes from a loaded daemon.

Every query of the board must have data that is a number, every selector of the rules must select something, and the
rules' files must be sound. With --picture FILE the board is drawn too (see board.py)."""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]

import lib  # noqa: E402
from lib import ROOT, SLOW, check, equal, skip  # noqa: E402
from load import Load  # noqa: E402

ETC = os.path.join(ROOT, "etc", "prometheus")
BOARD = os.path.join(ROOT, "etc", "grafana", "deqd.json")
MODEL = os.path.join(ROOT, "models", "stories-transformer")
SECONDS = float(os.environ.get("OBSERVE_SECONDS", "45"))
RATE = "10s"  # $__rate_interval at a scrape a second


def board():
    with open(BOARD, encoding="utf-8") as f:
        return json.load(f)


def panels(b):
    return [p for p in b["panels"] if p["type"] != "row"]


def substituted(expr):
    """The query as Grafana sends it, with All for every variable that has it."""
    for name, value in (("$__rate_interval", RATE), ("$job", "deqd"), ("$instance", ".+"), ("$model", ".+")):
        expr = expr.replace(name, value)
    return expr


def promtool(*args, text=None):
    p = subprocess.run(["promtool", *args], input=text, capture_output=True, text=True, timeout=240 * SLOW)
    return p.returncode, p.stdout + p.stderr


class Prometheus:
    """A Prometheus of its own on a free port: etc/prometheus with the daemon as target and everything every second."""

    def __init__(self, target):
        self.dir = tempfile.mkdtemp(prefix="deqd-observe-")
        for name in os.listdir(ETC):
            shutil.copy(os.path.join(ETC, name), self.dir)
        self.edit("targets.yaml", '"127.0.0.1:8080"', '"%s"' % target)
        self.edit("prometheus.yml", "_interval: 15s", "_interval: 1s")
        self.edit("prometheus.yml", "scrape_timeout: 3s", "scrape_timeout: 1s")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.url = "http://127.0.0.1:%d" % s.getsockname()[1]
        self.log = open(os.path.join(self.dir, "log"), "w+")
        self.p = subprocess.Popen(["prometheus", "--config.file", os.path.join(self.dir, "prometheus.yml"),
                                   "--storage.tsdb.path", os.path.join(self.dir, "data"),
                                   "--web.listen-address", self.url[7:], "--log.level", "warn"], stdout=self.log,
                                  stderr=subprocess.STDOUT)
        until = time.monotonic() + 30 * SLOW
        while not self.ready():
            if self.p.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError("prometheus did not start: " + self.said)
            time.sleep(0.1)

    def edit(self, name, old, new):
        path = os.path.join(self.dir, name)
        with open(path) as f:
            text = f.read()
        if old not in text:
            raise RuntimeError("%s holds no %s" % (name, old))
        with open(path, "w") as f:
            f.write(text.replace(old, new))

    def ready(self):
        try:
            return urllib.request.urlopen(self.url + "/-/ready", timeout=5).status == 200
        except OSError:
            return False

    def api(self, path, **query):
        try:
            with urllib.request.urlopen(self.url + "/api/v1/" + path,
                                        data=urllib.parse.urlencode(query).encode() if query else None,
                                        timeout=60 * SLOW) as r:
                return json.load(r)["data"]
        except urllib.error.HTTPError as e:
            raise RuntimeError("%s %s: %s" % (path, query, e.read().decode()))

    def query(self, expr, at=None):
        """[(labels, value)] of an instant query"""
        return [(r["metric"], float(r["value"][1])) for r in self.api("query", query=expr,
                                                                      **({"time": at} if at else {}))["result"]]

    def range(self, expr, start, end, step=1):
        """[(labels, [(time, value)])]"""
        return [(r["metric"], [(t, float(v)) for t, v in r["values"]]) for r in self.api("query_range", query=expr,
                                                                                         start=start, end=end,
                                                                                         step=step)["result"]]

    def stop(self):
        self.p.terminate()
        self.p.wait(30 * SLOW)
        self.log.seek(0)
        self.said = self.log.read()
        self.log.close()
        shutil.rmtree(self.dir)


# --- Files ---

def test_promtool():
    for args in (("check", "config", os.path.join(ETC, "prometheus.yml")),
                 ("check", "rules", "--lint=all", "--lint-fatal", os.path.join(ETC, "alerts.yml")),
                 ("test", "rules", os.path.join(ETC, "alerts_test.yml"))):
        code, out = promtool(*args)
        equal(code, 0, "promtool %s:\n%s" % (" ".join(args[:2]), out[-3000:]))


def test_variants():
    """What prometheus.yml holds as comments is configuration too."""
    with open(os.path.join(ETC, "prometheus.yml")) as f:
        scrape, alerting = f.read().split("# alerting:\n")
    text = re.sub(r"(?m)^    #   (?=[ a-z])", "    ", scrape) + "alerting:\n" + re.sub(r"(?m)^# ", "", alerting)
    check(all("\n    " + key in text for key in ("dns_sd_configs:", "authorization:", "scheme:", "tls_config:")),
          "variants to uncomment")
    with tempfile.TemporaryDirectory() as d:
        for name in ("alerts.yml", "targets.yaml"):
            shutil.copy(os.path.join(ETC, name), d)
        for name in ("deqd.key", "deqd-ca.pem"):
            open(os.path.join(d, name), "w").close()
        with open(os.path.join(d, "prometheus.yml"), "w") as f:
            f.write(text.replace("/etc/prometheus/", d + "/"))
        code, out = promtool("check", "config", "--syntax-only", os.path.join(d, "prometheus.yml"))
        equal(code, 0, "promtool check config with the variants:\n" + out)


def test_every_alert_is_tested():
    """A unit test at which it fires and one at which it does not."""
    with open(os.path.join(ETC, "alerts.yml")) as f:
        alerts = re.findall(r"^ +- alert: (\w+)$", f.read(), re.M)
    with open(os.path.join(ETC, "alerts_test.yml")) as f:
        tests = f.read().split("  - name: ")[1:]
    equal(len(set(alerts)), len(alerts), "names are used once")
    for a in alerts:
        text = "".join(t for t in tests if t.startswith(a + "\n"))
        asked = r'ALERTS\{alertname="%s", alertstate="firing"\}.*\n +exp_samples:' % a
        check(re.search(asked + r"\n +- labels: '\{alertname=\"%s\", severity" % a, text),
              a + ": a test where it fires")
        check(re.search(asked + r" \[\]", text), a + ": a test where it does not")


def test_board():
    b = board()
    ids = [p["id"] for p in b["panels"]]
    equal(len(set(ids)), len(ids), "ids of panels")
    taken = {}
    for p in b["panels"]:
        name = "panel %d, %s" % (p["id"], p.get("title"))
        g = p["gridPos"]
        check(p.get("title"), name + ": a title")
        check(0 <= g["x"] and g["w"] > 0 and g["h"] > 0 and g["x"] + g["w"] <= 24, name + ": within 24 columns")
        for cell in ((x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])):
            if cell in taken:
                check(False, "%s lies on panel %d" % (name, taken[cell]))
                break
            taken[cell] = p["id"]
        if p["type"] == "row":
            continue
        check(p.get("description", "").endswith("."), name + ": a description")
        check(p["fieldConfig"]["defaults"].get("unit"), name + ": a unit")
        check(p["targets"], name + ": a query")
        check(all(t["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for t in p["targets"] + [p]),
              name + ": the board's data source")
        refs = [t["refId"] for t in p["targets"]]
        equal(len(set(refs)), len(refs), name + ": refIds")
    bottom = max(y for _, y in taken) + 1
    equal(len(taken), 24 * bottom, "cells of %d rows of the grid that panels cover" % bottom)
    equal([v["name"] for v in b["templating"]["list"]], ["datasource", "job", "model", "instance"], "variables")


def test_provisioning():
    """What Grafana is given fits the board and prometheus.yml."""
    with open(os.path.join(ROOT, "etc", "grafana", "provisioning", "datasources", "prometheus.yaml")) as f:
        source = f.read()
    with open(os.path.join(ETC, "prometheus.yml")) as f:
        interval = re.search(r"scrape_interval: (\w+)", f.read()).group(1)
    check("uid: %s\n" % board()["templating"]["list"][0]["current"]["value"] in source,
          "the data source's uid is the board's default")
    check("timeInterval: %s\n" % interval in source, "timeInterval is scrape_interval, %s" % interval)


def test_schema():
    """Grafana's own types read the board strictly."""
    if not shutil.which("go"):
        return skip("no go: the board is not read with Grafana's schema")
    tool = os.path.join(ROOT, "build", "grafana-schema")
    try:
        code, _, err = lib.run(["go", "build", "-o", tool, "."], cwd=os.path.join(HERE, "schema"), timeout=180)
    except subprocess.TimeoutExpired:
        code, err = 1, "no answer in three minutes"
    if code:
        return skip("Grafana's schema, a Go module, could not be built: " + err[-300:])
    code, _, err = lib.run([tool, BOARD])
    equal((code, err), (0, ""), "the board, read with Grafana's types")
    b = board()
    b["panels"][1]["options"]["colour"] = 1
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(b, f)
        f.flush()
        code, _, err = lib.run([tool, f.name])
    check(code == 1 and "colour" in err, "an unknown option is found: %d %r" % (code, err))


# --- A loaded daemon ---

def selectors(expr):
    """The vector selectors of an expression, without their ranges."""
    return re.findall(r"\b(?:deqd_|process_|(?:job|instance):|up\b)[a-zA-Z0-9_:]*(?:\{[^}]*\})?", expr)


def numbers(found):
    """Whether there is data, and all of it numbers."""
    return bool(found) and all(v == v and abs(v) != float("inf") for _, v in found)


def check_board(prom):
    n = 0
    for p in panels(board()):
        for t in p["targets"]:
            n += 1
            expr = substituted(t["expr"])
            check("$" not in expr, "a variable of the board is not known: " + expr)
            found = prom.query(expr)
            check(numbers(found), "%s: %s: %s" % (p["title"], expr, found or "no data"))
            for label in re.findall(r"\{\{(\w+)\}\}", t["legendFormat"]):
                check(all(label in m for m, _ in found), "%s: its legend's label %s" % (p["title"], label))
    for v in board()["templating"]["list"][1:]:
        m = re.fullmatch(r"label_values\((.*), (\w+)\)", substituted(v["query"]["query"]))
        check({x.get(m.group(2)) for x, _ in prom.query(m.group(1))} - {None},
              "variable %s: %s" % (v["name"], m.group(0)))
    return n


def check_rules(prom):
    groups = prom.api("rules")["groups"]
    rules = [r for g in groups for r in g["rules"]]
    asked = set()
    for r in rules:
        equal((r["health"], r.get("lastError", "")), ("ok", ""), "rule " + r["name"])
        for s in selectors(r["query"]):
            if s not in asked:
                asked.add(s)
                check(numbers(prom.query(s)), "%s: %s selects nothing" % (r["name"], s))
        if r["type"] != "alerting":
            continue
        check(r["labels"].get("severity") in ("critical", "warning"), r["name"] + ": severity")
        for key in ("summary", "description", "action", "runbook"):
            check(r["annotations"].get(key), "%s: %s" % (r["name"], key))
        equal(r["annotations"].get("runbook"), "etc/README.md#" + r["name"].lower(), r["name"] + ": runbook")
        for a in r["alerts"]:
            check("error" not in a["annotations"]["summary"], "%s: %s" % (r["name"], a["annotations"]["summary"]))
    firing = {r["name"] for r in rules if r["type"] == "alerting" and r["state"] == "firing"}
    # the load refuses far more than a thousandth on purpose; all other rules must hold their tongue
    check(firing <= {"DeqdErrorsBurnFast", "DeqdErrorsBurnSlow", "DeqdTtftBurnFast", "DeqdTtftBurnSlow"},
          "alerts that fire: %s" % sorted(firing))
    return "%d rules, %d of them alerts, %d selectors; firing: %s" % (len(rules),
                                                                      sum(r["type"] == "alerting" for r in rules),
                                                                      len(asked),
                                                                     ", ".join(sorted(firing)) or "none")


def check_stopped(prom, d):
    """The conditions of DeqdDown, with a process that stands still and goes on."""
    down = 'up{job="deqd"} == 0'
    equal(prom.query(down), [], down + " while it runs")
    d.p.send_signal(signal.SIGSTOP)
    try:
        equal(len(eventually(lambda: prom.query(down))), 1, down + " while it is stopped")
    finally:
        d.p.send_signal(signal.SIGCONT)
    check(eventually(lambda: not prom.query(down)), "it is up again")


def eventually(fn, seconds=10):
    until = time.monotonic() + seconds * SLOW
    while not (got := fn()) and time.monotonic() < until:
        time.sleep(0.2)
    return got


PICTURE = []


def test_loaded():
    with lib.Daemon("engine.max_sequences=8", "queue.max_requests=16", "server.drain_delay_ms=0", model=MODEL) as d:
        prom = Prometheus("%s:%d" % (d.host, d.port))
        try:
            start = time.time()
            load = Load(d, SECONDS)
            time.sleep(SECONDS - 1)
            n = check_board(prom)  # under load
            seen, bench = load.finish()
            end = time.time()
            time.sleep(2)
            rules = check_rules(prom)
            code, out = promtool("check", "metrics", text=d.request("GET", "/metrics")[2].decode())
            bad = [x for x in out.splitlines() if x and not x.startswith("vllm:")]  # those names are not ours
            check(code in (0, 3) and not bad, "promtool check metrics: %d %s" % (code, bad))
            for kind, status in (("shared prefix", 200), ("second turn", 200), ("left", 200), ("wrong", 400),
                                 ("lost", 404), ("not converging", 200),
                                 ("from zero", 200), ("scored", 200), ("form", 200), ("wrong form", 400),
                                 ("burst", 200), ("burst", 429)):
                check(seen.get((kind, status)), "the load had its %s, %d: %s" % (kind, status, seen))
            check(bench["completed"] > 0, "deq bench serve: %s" % bench)
            total = sum(v for _, v in prom.query("sum(deqd_generation_tokens_total)"))
            equal(total, d.metrics()["deqd_generation_tokens_total"], "tokens, of Prometheus and of the daemon")
            check_stopped(prom, d)
            if PICTURE:
                import board as drawing
                drawing.draw(board(), prom, start + 4, end, substituted, PICTURE[0])
            print("%d panels, %d queries; %s; answers by kind: %s" % (len(panels(board())), n, rules,
                                                                      ", ".join("%s %d: %d" % (*k, v) for k,
                                                                                v in sorted(seen.items()))))
        finally:
            prom.stop()
        bad = [x for x in prom.said.splitlines() if "Received SIGTERM" not in x]
        check(not bad, "prometheus warns of nothing: %s" % bad[:5])


def main():
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--picture", metavar="FILE", action="append", default=[], help="draw the board")
    flags.add_argument("part", nargs="*", help="of a test's name")
    args = flags.parse_args()
    PICTURE.extend(args.picture)
    return lib.main("observe", parts=args.part)


if __name__ == "__main__":
    sys.exit(main())
