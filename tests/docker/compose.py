#!/usr/bin/env python3
"""docker/compose.yaml as a compose program reads it (docker compose, else Debian's docker-compose; neither needs a
daemon for this): it is valid, the walls stand for every service, what is mounted exists, and the time to stop exceeds
the drain. Started by run.sh."""
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import lib  # noqa: E402
from lib import check, skip  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE = os.path.join(ROOT, "docker", "compose.yaml")


def read():
    """(services by name, the program that read it), or None and the reason."""
    env = {k: v for k, v in os.environ.items() if k not in ("MODEL", "MODELS", "LISTEN", "COMPOSE_PROFILES")}
    profile = ["-f", FILE, "--profile", "monitoring", "config"]
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        p = subprocess.run(["docker", "compose", *profile, "--format", "json"], capture_output=True, text=True, env=env)
        return (json.loads(p.stdout)["services"], "docker compose") if not p.returncode else (None, p.stderr)
    if not shutil.which("docker-compose"):
        return None, ""
    import yaml  # docker-compose needs it, so it is there
    p = subprocess.run(["docker-compose", *profile], capture_output=True, text=True, env=env)
    return (yaml.safe_load(p.stdout)["services"], "docker-compose") if not p.returncode else (None, p.stderr)


def seconds(text):
    m = re.fullmatch(r"(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    return int(m.group(1) or 0) * 60 + float(m.group(2) or 0)


def test_compose():
    services, how = read()
    if services is None and not how:
        return skip("no docker compose; apt-get install --no-install-recommends docker-compose")
    if not check(services is not None, "not valid: " + how.strip()):
        return
    print("docker: compose.yaml read by %s" % how)
    check(sorted(services) == ["deqd", "grafana", "prometheus"], "services: %s" % sorted(services))
    for name, s in services.items():
        check(s.get("read_only") is True, "%s: read_only" % name)
        check(s.get("cap_drop") == ["ALL"], "%s: cap_drop" % name)
        check(s.get("security_opt") == ["no-new-privileges:true"], "%s: security_opt" % name)
        check(s.get("mem_limit"), "%s: mem_limit" % name)
        check(int(s.get("pids_limit") or 0) > 0, "%s: pids_limit" % name)
        check("privileged" not in s and "cap_add" not in s and s.get("user") not in ("root", "0"),
              "%s: more rights than it needs" % name)
        for v in s.get("volumes", []):
            source, target, mode = (v["source"], v["target"],
                                    "ro" if v.get("read_only")
                                    else "rw") if isinstance(v, dict) else (v.split(":") + ["rw"])[:3]
            if "/" in source:
                check(os.path.exists(os.path.join(os.path.dirname(FILE), source)),
                      "%s: %s is mounted and does not exist" % (name, source))
                check(mode == "ro", "%s: %s can be written" % (name, target))
        for p in s.get("ports", []):
            check((p.get("host_ip") if isinstance(p, dict) else str(p).split(":")[0]) == "127.0.0.1",
                  "%s: %s is open to the network" % (name, p))
    for name in ("grafana", "prometheus"):
        check(services[name].get("profiles") == ["monitoring"], "%s is of the profile" % name)
    deqd = services["deqd"]
    conf = open(os.path.join(ROOT, "etc", "deqd.yaml")).read()
    drain_s = sum(int(re.search(r"%s: (\d+)" % key, conf).group(1)) for key in ("drain_delay_ms",
                                                                                "shutdown_timeout_ms")) / 1000
    check(seconds(deqd["stop_grace_period"]) >= drain_s + 10,
          "stop_grace_period %s, the drain may take %g s" % (deqd["stop_grace_period"], drain_s))
    check(deqd["healthcheck"]["test"] == ["CMD", "/usr/bin/deqd", "--health-probe"],
          "health check: %s" % deqd["healthcheck"]["test"])


if __name__ == "__main__":
    sys.exit(lib.main("docker: compose.yaml"))
