#!/usr/bin/env python3
"""Writes what follows from something else: the chart's files/deqd.yaml (etc/deqd.yaml), the `config` part of its
values.schema.json (the same file's keys, defaults and ranges), the table of values in its README (values.yaml and its
comments), and manifests/ (the chart with manifests-values.yaml). With --check it writes nothing and says what differs.
Needs helm: $HELM, or the one in PATH."""
import argparse
import difflib
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CHART = f"{HERE}/deqd"
# what other values decide: the chart's templates/_config.tpl sets them
OWN = ("server.listen", "server.admin_listen", "server.drain_delay_ms", "server.shutdown_timeout_ms", "model.path",
       "model.name", "tls.cert", "tls.key", "auth.keys_file")
# objects that need what not every cluster has lie in a directory of their own: `kubectl apply -f manifests` does not
# descend
APART = {"ServiceMonitor": "prometheus-operator"}


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


def option_schema(comment, default):
    """JSON schema of one key. The comment ends with its range or its choices, where it has them."""
    text = {"description": comment}
    choices = re.search(r" One of ([a-z|]+)\.$", comment)
    span = re.search(r" ([0-9.e+-]+)\.\.([0-9.e+]+)\.$", comment)
    if choices:
        return text | {"type": "string", "enum": choices[1].split("|")}
    if default in ("true", "false"):
        return text | {"type": "boolean"}
    if default.startswith('"'):
        return text | {"type": "string"}
    if default.startswith("["):
        return text | {"type": "array", "items": {"type": "string"}}
    if span:
        low, high = float(span[1]), float(span[2])
        if re.fullmatch("[0-9]+", default):
            return text | {"type": "integer", "minimum": int(low), "maximum": int(high)}
        return text | {"type": "number", "minimum": low, "maximum": high}
    if re.fullmatch("[0-9]+[KMG]?", default):  # a size; %g of its range would say little
        return text | {"anyOf": [{"type": "integer", "minimum": 0},
                                 {"type": "string", "pattern": "^[0-9]+([KMG](iB)?)?$"}]}
    sys.exit(f"etc/deqd.yaml: {default}: of no type that render.py knows")


def config_schema(deqd_yaml):
    sections, comment = {}, ""
    for line in deqd_yaml.splitlines():
        if m := re.fullmatch("([a-z_]+):", line):
            section = m[1]
        elif m := re.fullmatch("  # (.*)", line):
            comment = m[1]
        elif m := re.fullmatch("  ([a-z_]+): (.*)", line):
            if f"{section}.{m[1]}" not in OWN:
                sections.setdefault(section, {})[m[1]] = option_schema(comment, m[2])
        elif line:
            sys.exit(f"etc/deqd.yaml: {line}: not of the form that render.py knows")
    strict = lambda properties: {"type": "object", "additionalProperties": False, "properties": properties}
    return strict({name: strict(keys) for name, keys in sections.items()})


def values_table(values_yaml):
    """Keys with their defaults and the comment above each."""
    rows, path, comment = ["| key | default | meaning |", "|---|---|---|"], [], []
    for line in values_yaml.splitlines():
        if m := re.fullmatch(r" *# (.*)", line):
            comment.append(m[1])
        elif m := re.fullmatch(r"( *)([A-Za-z]+):(?: (.*))?", line):
            indent, key, value = len(m[1]), m[2], m[3]
            path = path[:indent // 2] + [key]
            if value is None:
                comment = []
                continue
            if not comment:
                sys.exit(f"values.yaml: {'.'.join(path)}: no comment says what it means")
            rows.append(f"| `{'.'.join(path)}` | `{value}` | {' '.join(comment)} |".replace("KEY | sha", "KEY \\| sha"))
            comment = []
        elif not line:
            comment = []
    return "\n".join(rows) + "\n"


def manifests():
    """File name -> text."""
    helm = os.environ.get("HELM", "helm")
    run = subprocess.run([helm, "template", "deqd", CHART, "--kube-version", "1.30.0", "--values",
                          f"{HERE}/manifests-values.yaml"], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    files = {}
    for text in re.split(r"^---\n", run.stdout, flags=re.M):
        kind, source = re.search("^kind: (.*)$", text, re.M), re.search("^# Source: deqd/templates/(.*)$", text, re.M)
        if not kind:
            continue
        # these were not made by helm's release
        text = re.sub(r"^# Source: .*\n| +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", text, flags=re.M)
        files[os.path.join(APART.get(kind[1], ""),
                           source[1])] = f"# Made by `make k8s-manifests`; change the chart instead.\n{text.rstrip()}\n"
    return files


def main():
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--check", action="store_true", help="write nothing and say what differs")
    check = flags.parse_args().check
    deqd_yaml = read(f"{HERE}/../../etc/deqd.yaml")
    bad = 0

    def put(path, text):
        nonlocal bad
        old = read(path)
        if old == text:
            return
        if check:
            bad += 1
            print(f"{os.path.relpath(path)} is not what `make k8s-manifests` writes:")
            print("".join(list(difflib.unified_diff(old.splitlines(True), text.splitlines(True), "there",
                                                    "expected"))[:20]))
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)

    put(f"{CHART}/files/deqd.yaml", deqd_yaml)
    schema = json.loads(read(f"{CHART}/values.schema.json"))
    schema["properties"]["config"] = config_schema(deqd_yaml)
    put(f"{CHART}/values.schema.json", json.dumps(schema, indent=2) + "\n")
    readme = read(f"{CHART}/README.md")
    begin, end = "## Values\n\n", "\n## "
    head, rest = readme.split(begin)
    put(f"{CHART}/README.md", head + begin + values_table(read(f"{CHART}/values.yaml")) + end + rest.split(end, 1)[1])
    files = manifests()
    for name, text in files.items():
        put(f"{HERE}/manifests/{name}", text)
    for root, _, names in os.walk(f"{HERE}/manifests"):
        for name in names:
            path = os.path.join(root, name)
            if os.path.relpath(path, f"{HERE}/manifests") not in files:
                bad += check
                print(f"{os.path.relpath(path)}: the chart renders no such object" if check
                      else f"removed {os.path.relpath(path)}")
                if not check:
                    os.unlink(path)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
