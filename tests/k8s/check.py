#!/usr/bin/env python3
"""The chart, rendered with the sets of values beside this file, and what is derived from it.

test_rendered    every object against the schemas of every supported Kubernetes; the chart's promises that no schema
knows, one by one test_configs     deqd itself reads every rendered configuration, and means what the values say
test_wrong       wrong values fail `helm lint`, with a message that names them
test_derived     files, schema, table and plain manifests are what the chart gives today
test_image       the image (docker/Dockerfile) starts with the arguments that the chart gives test_running     a running
deqd answers the rendered probes, scrapes and keys, ends within the grace period, and reloads below the memory limit

Run by run.sh, in its virtual environment. Environment: HELM; SERVICEMONITOR_CRD, empty when it could not be had;
DEQ_BUILD.
    run.sh [part of a test's name ...]"""
import base64
import glob
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import kubernetes_validate
import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
from lib import DEQD, ROOT, SLOW, Daemon, check, equal, main, run, skip  # noqa: E402

CHART = os.path.join(ROOT, "docker", "k8s", "deqd")
MANIFESTS = os.path.join(ROOT, "docker", "k8s", "manifests")
HELM = os.environ["HELM"]
OLDEST = "1.30"
VERSIONS = [v for v in (kubernetes_validate.utils.major_minor(v) for v in kubernetes_validate.utils.all_versions())
            if tuple(map(int, v.split("."))) >= tuple(map(int, OLDEST.split(".")))]
SETS = {"defaults": None} | {re.search("values-(.*).yaml", p)[1]: p for p in sorted(glob.glob(f"{HERE}/values-*.yaml"))}
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected",
                      "secret"}


def helm(*args):
    p = subprocess.run([HELM, *args], capture_output=True, text=True)
    return p.returncode, p.stdout + p.stderr


def template(values, *more, version=OLDEST):
    code, out = helm("template", "deqd", CHART, "--namespace", "test", "--kube-version", f"{version}.0",
                     *(("--values", values) if values else ()), *more)
    if code:
        raise RuntimeError(f"helm template {values}: {out}")
    return [o for o in yaml.safe_load_all(out) if o]


class Rendered:
    """The objects of one rendering, by kind."""

    def __init__(self, objects):
        self.objects = objects
        self.of = lambda kind: [o for o in objects if o["kind"] == kind]
        self.deployment, = self.of("Deployment")
        self.pod = self.deployment["spec"]["template"]
        self.container, = self.pod["spec"]["containers"]
        self.config_text = self.of("ConfigMap")[0]["data"]["deqd.yaml"]
        self.config = yaml.safe_load(self.config_text)


_rendered = {}


def rendered(name):
    if name not in _rendered:
        _rendered[name] = Rendered(template(SETS[name]))
    return _rendered[name]


def number(value):
    """PyYAML takes 1e-05 for text."""
    return float(value)


# --- Schemas ---

def closed(schema):
    """The same schema, where a field that it does not name is an error; the API server would drop it silently."""
    if isinstance(schema, list):
        return [closed(x) for x in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: closed(v) for k, v in schema.items()}
    if isinstance(out.get("properties"),
                  dict) and "additionalProperties" not in out and not out.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def servicemonitor_schema():
    with open(os.environ["SERVICEMONITOR_CRD"]) as f:
        crd = yaml.safe_load(f)
    served, = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema = closed(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def schema_errors(o, version):
    try:
        got = kubernetes_validate.validate(o, version, strict=True)
        return [] if got == version else [f"validated against {got} instead"]
    except kubernetes_validate.ValidationError as e:
        return [f"{'.'.join(map(str, e.path))}: {e.message}"]
    except kubernetes_validate.SchemaNotFoundError as e:
        return [e.message]


def validate(objects, where):
    for o in objects:
        name = f"{where}: {o['kind']} {o['metadata']['name']}"
        if o["kind"] != "ServiceMonitor":
            for version in VERSIONS:
                equal(schema_errors(o, version), [], f"{name} against the schema of Kubernetes {version}")
        elif os.environ["SERVICEMONITOR_CRD"]:
            errors = [e.message for e in jsonschema.Draft202012Validator(servicemonitor_schema()).iter_errors(o)]
            equal(errors, [], f"{name} against its CustomResourceDefinition")
        else:
            skip(f"{name}: its CustomResourceDefinition could not be had")


# --- What no schema knows ---

def restricted(r, where):
    """The restricted Pod Security Standard, control by control
    (kubernetes.io/docs/concepts/security/pod-security-standards)."""
    spec, c = r.pod["spec"], r.container
    s, cs = spec["securityContext"], c["securityContext"]
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        check(not spec.get(key), f"{where}: {key} is off")
    check(not any("hostPort" in p for p in c["ports"]), f"{where}: no host ports")
    check(not any("hostProcess" in x.get("windowsOptions", {}) for x in (s, cs)), f"{where}: no Windows host process")
    check(not cs.get("privileged"), f"{where}: not privileged")
    check("procMount" not in cs and "sysctls" not in s, f"{where}: default proc mount, no sysctls")
    check("seLinuxOptions" not in s and "appArmorProfile" not in s, f"{where}: default SELinux and AppArmor")
    equal(cs["allowPrivilegeEscalation"], False, f"{where}: allowPrivilegeEscalation")
    equal(cs["capabilities"], {"drop": ["ALL"]}, f"{where}: capabilities")
    for x in (s, cs):
        equal(x["runAsNonRoot"], True, f"{where}: runAsNonRoot")
        equal(x["seccompProfile"], {"type": "RuntimeDefault"}, f"{where}: seccomp")
        check(x.get("runAsUser", 1) > 0, f"{where}: the user is not root")
    kinds = {k for v in spec["volumes"] for k in v if k != "name"}
    check(kinds <= RESTRICTED_VOLUMES, f"{where}: volumes {kinds}")
    check(not spec.get("initContainers") and not spec.get("ephemeralContainers"),
          f"{where}: one container, the one that is checked")
    # beyond the standard
    equal(cs["readOnlyRootFilesystem"], True, f"{where}: the root file system is read-only")
    equal(spec["automountServiceAccountToken"], False, f"{where}: no token is mounted")
    equal(spec["enableServiceLinks"], False,
          f"{where}: no environment of other Services: theirs may begin with DEQD_ too")


def promises(r, where):
    d, spec, c = r.deployment["spec"], r.pod["spec"], r.container
    ports = {p["name"]: p["containerPort"] for p in c["ports"]}
    equal(ports, {"http": 8080, "admin": 8081}, f"{where}: ports")
    address = r.config["server"]["listen"].rsplit(":", 1)[0]
    equal([r.config["server"]["listen"], r.config["server"]["admin_listen"]],
          [f"{address}:{ports['http']}", f"{address}:{ports['admin']}"], f"{where}: deqd listens there")
    check(address in ("0.0.0.0", "[::]"), f"{where}: on every address: {address}")

    probes = [c[k]["httpGet"] for k in ("startupProbe", "livenessProbe", "readinessProbe")]
    equal([p["path"] for p in probes], ["/health/startup", "/health/live", "/health/ready"], f"{where}: three probes")
    equal([p["port"] for p in probes], ["admin"] * 3, f"{where}: probes ask the admin listener")
    check("scheme" not in str(probes), f"{where}: which has no TLS")
    check("initialDelaySeconds" not in str(c), f"{where}: the startup probe waits, no guessed delay")
    loading = c["startupProbe"]["periodSeconds"] * c["startupProbe"]["failureThreshold"]
    check(d["progressDeadlineSeconds"] > loading,
          f"{where}: a rollout waits for loading: {d['progressDeadlineSeconds']} s, {loading} s")

    sleep = c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain = r.config["server"]["drain_delay_ms"] + r.config["server"]["shutdown_timeout_ms"]
    # server/main.c waits 2 s more for answers that nobody reads
    check(spec["terminationGracePeriodSeconds"] * 1000 >= sleep * 1000 + drain + 2000,
          f"{where}: grace period {spec['terminationGracePeriodSeconds']} s, preStop {sleep} s, drain {drain} ms")
    equal("lifecycle" in c, sleep > 0, f"{where}: a preStop of no seconds is none")
    equal(d["strategy"], {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
          f"{where}: strategy")

    labels = r.pod["metadata"]["labels"]
    selects = lambda selector: selector.items() <= labels.items()
    check(selects(d["selector"]["matchLabels"]), f"{where}: the Deployment selects its pods")
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        for o in r.of(kind):
            got = o["spec"].get("podSelector", o["spec"]["selector"] if kind != "NetworkPolicy" else None)
            check(selects(got.get("matchLabels", got)), f"{where}: {kind} {o['metadata']['name']} selects the pods")
    for spread in spec.get("topologySpreadConstraints", []):
        check(selects(spread["labelSelector"]["matchLabels"]),
              f"{where}: spread of {spread['topologyKey']} selects the pods")
    for s in r.of("Service"):
        check(all(p["targetPort"] in ports for p in s["spec"]["ports"]),
              f"{where}: ports of Service {s['metadata']['name']}")
        check("admin" not in str(s["spec"]["ports"]) or s["spec"].get("clusterIP") == "None",
              f"{where}: the admin port is not on the balanced Service")

    check("replicas" in d or r.of("HorizontalPodAutoscaler"), f"{where}: somebody says how many replicas")
    for h in r.of("HorizontalPodAutoscaler"):
        check("replicas" not in d, f"{where}: not two who say how many replicas")
        target = h["spec"]["scaleTargetRef"]
        equal((target["apiVersion"], target["kind"], target["name"]),
              ("apps/v1", "Deployment", r.deployment["metadata"]["name"]), f"{where}: scale target")
        metric, = h["spec"]["metrics"]
        equal(metric["pods"]["metric"]["name"], "deqd_requests_waiting", f"{where}: metric")
        check(h["spec"]["minReplicas"] <= h["spec"]["maxReplicas"], f"{where}: replicas")
    for p in r.of("NetworkPolicy"):
        equal((p["spec"]["policyTypes"], p["spec"]["egress"]), (["Ingress", "Egress"], []),
              f"{where}: nothing goes out")
        rules = {rule["ports"][0]["port"]: rule for rule in p["spec"]["ingress"]}
        equal(set(rules), {"http", "admin"}, f"{where}: two ports are open")
        check(rules["admin"]["from"], f"{where}: metrics not for everybody")
    for m in r.of("ServiceMonitor"):
        found = [s for s in r.of("Service")
                 if m["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
        equal(len(found), 1, f"{where}: Services that the ServiceMonitor finds")
        equal([e["port"] for e in m["spec"]["endpoints"]], ["admin"], f"{where}: it scrapes the admin port")
        check("admin" in [p["name"] for s in found for p in s["spec"]["ports"]], f"{where}: which that Service has")
    for i in r.of("Ingress"):
        back = [p["backend"]["service"] for rule in i["spec"]["rules"] for p in rule["http"]["paths"]]
        service = [s for s in r.of("Service") if s["metadata"]["name"] == back[0]["name"]]
        check(service and
              all(b == {"name": back[0]["name"], "port": {"number": service[0]["spec"]["ports"][0]["port"]}}
                  for b in back), f"{where}: Ingress leads to the Service")
        equal(i["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-buffering"], "off",
              f"{where}: streams are not buffered")
        tls = "tls.crt" in r.config["tls"]["cert"]
        equal(i["metadata"]["annotations"].get("nginx.ingress.kubernetes.io/backend-protocol") == "HTTPS", tls,
              f"{where}: the Ingress speaks TLS to a daemon that does")

    # every file that the configuration names is mounted, read-only, from a volume that exists
    mounts = {m["mountPath"]: m for m in c["volumeMounts"]}
    volumes = {v["name"]: v for v in spec["volumes"]}
    equal({m["name"] for m in mounts.values()}, set(volumes), f"{where}: volumes are the ones mounted")
    states = r.config["state"]["dir"]
    check(all(m.get("readOnly") for at, m in mounts.items() if at != states), f"{where}: mounts are read-only")
    check(not states or states in mounts and not mounts[states].get("readOnly"), f"{where}: but for saved states'")
    for key, path in (("keys_file", r.config["auth"]["keys_file"]), ("cert", r.config["tls"]["cert"]),
                      ("key", r.config["tls"]["key"])):
        check(not path or os.path.dirname(path) in mounts, f"{where}: {key} {path} is mounted")
    path = r.config["model"]["path"]
    check("/models" in mounts if path.startswith("/models/") else path.startswith("/usr/share/deqd/"),
          f"{where}: the model's directory is mounted or the image's: {path}")
    equal(c["args"], ["--config", "/etc/deqd/deqd.yaml"], f"{where}: arguments")
    equal(volumes["config"]["configMap"]["name"], r.of("ConfigMap")[0]["metadata"]["name"],
          f"{where}: the ConfigMap is mounted")
    if spec["serviceAccountName"] != "default":
        equal([(a["metadata"]["name"], a["automountServiceAccountToken"]) for a in r.of("ServiceAccount")],
              [(spec["serviceAccountName"], False)], f"{where}: account")


def test_rendered():
    for name in SETS:
        r = rendered(name)
        validate(r.objects, name)
        restricted(r, name)
        promises(r, name)
    # a newer cluster gets the same
    for name in SETS:
        equal(template(SETS[name], version=VERSIONS[-1]), rendered(name).objects,
              f"{name} on Kubernetes {VERSIONS[-1]}")
    kinds = {o["kind"] for o in rendered("everything").objects}
    equal(kinds, {"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy",
                  "PodDisruptionBudget", "Secret", "Service", "ServiceAccount", "ServiceMonitor"},
          "kinds with everything on")
    equal({o["kind"] for o in rendered("minimal").objects}, {"ConfigMap", "Deployment", "Service"},
          "kinds with everything off")


def test_validator():
    """It would complain."""
    for version in VERSIONS:
        bad = json.loads(json.dumps(rendered("defaults").deployment))
        bad["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["timeoutSecond"] = 1
        check(schema_errors(bad, version), f"a field that does not exist is found, {version}")
        bad = json.loads(json.dumps(rendered("defaults").deployment))
        bad["spec"]["replicas"] = "two"
        check(schema_errors(bad, version), f"a wrong type is found, {version}")
    if os.environ["SERVICEMONITOR_CRD"]:
        bad = json.loads(json.dumps(rendered("everything").of("ServiceMonitor")[0]))
        bad["spec"]["endpoints"][0]["intervall"] = "15s"
        check(list(jsonschema.Draft202012Validator(servicemonitor_schema()).iter_errors(bad)),
              "a field that does not exist is found in a ServiceMonitor")


def test_rolls():
    """A changed configuration or key changes the template of the pods; what does not reach them leaves it alone."""
    base = rendered("keys").pod
    pod = lambda *sets: Rendered(template(SETS["keys"], *[a for s in sets for a in ("--set", s)])).pod
    check(pod("config.engine.max_sequences=33") != base, "a changed configuration rolls the pods")
    check(pod("drain.timeoutSeconds=31") != base, "changed drain numbers roll the pods")
    equal(pod("service.port=81"), base, "a changed Service does not")
    key = lambda n: pod("auth.existingSecret=", "auth.keys[0].name=a", "auth.keys[0].sha256=" + n * 64)
    check(key("1") != key("2"), "a changed key of the chart's Secret rolls the pods")


# --- deqd's own reading ---

def test_configs():
    for name in SETS:
        r = rendered(name)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            f.write(r.config_text)
            f.flush()
            code, out, err = run([DEQD, "--config", f.name, "--print-config"])
            equal((code, err), (0, ""), f"{name}: deqd reads the configuration")
            # what it prints is its own form: equal there means that it understood every value as it was written
            read = yaml.safe_load(out)
        for section, keys in read.items():
            for key, value in keys.items():
                wrote = r.config[section][key]
                bound = (section, key) in (("limits", "tol_min"), ("limits", "tol_max"))
                same = (value == wrote or size(value) == size(wrote) is not None or
                        bound and number(value) == number(wrote))
                check(same, f"{name}: {section}.{key}: written {wrote!r}, read {value!r}")
        equal({k: set(v) for k, v in r.config.items()}, {k: set(v) for k, v in read.items()}, f"{name}: keys")
    e = rendered("everything").config
    equal((e["server"]["max_body_bytes"], e["engine"]["cache_bytes"], e["queue"]["max_tokens"],
           number(e["limits"]["tol_min"]), e["chat"]["message"], e["engine"]["threads"]),
          ("4MiB", 268435456, 2000000, 1e-4, '{role}: <{content}> "so"\\n', 3), "values of every type arrive")
    equal((e["server"]["drain_delay_ms"], e["server"]["shutdown_timeout_ms"], e["model"]["name"]),
          (15000, 120000, "novels"), "values that the chart maps")
    equal((rendered("pvc").config["engine"]["threads"], rendered("defaults").config["engine"]["threads"]), (2, 2),
          "threads are the CPUs, rounded up")
    comments = lambda text: [line.strip() for line in text.splitlines() if "#" in line and '"' not in line]
    equal(comments(rendered("everything").config_text), comments(open(f"{ROOT}/etc/deqd.yaml").read()),
          "the comments of etc/deqd.yaml are still there")


def size(value):
    m = re.fullmatch("([0-9]+)([KMG]?)(iB)?", str(value))
    return int(m[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[m[2]] if m else None


# --- Wrong values ---

HASH = "0" * 64
# what is set, as --set takes it or as JSON of one key; what the message must hold
WRONG = [
    ("replicaCount=0", "/replicaCount"),
    ("replicaCount=two", "/replicaCount"),
    ("replicas=3", "additional properties 'replicas' not allowed"),
    ("image.repository=Deqd", "/image/repository"),
    ("image.digest=sha256:12", "/image/digest"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("image.tags=1", "additional properties 'tags' not allowed"),
    ("fullnameOverride=-x", "/fullnameOverride"),
    ("listenAddress=127.0.0.1", "/listenAddress"),
    ("model.path=models/stories", "/model/path"),
    ("model.path=/models/novels", "model.path: /models/novels needs model.existingClaim"),
    ("model.existingClaim=novels", "is not below /models"),
    ("config.engine.max_sequnces=4", "additional properties 'max_sequnces' not allowed"),
    ("config.engine.max_sequences=0", "/config/engine/max_sequences"),
    ("config.engine.max_sequences=many", "/config/engine/max_sequences"),
    ("config.engine.cache_bytes=1T", "/config/engine/cache_bytes"),
    ("config.engine.cache_bytes=256M",
     "resources.limits.memory: 512Mi does not hold config.engine.cache_bytes 256M twice"),
    ("config.queue.timeout_ms=0", "/config/queue/timeout_ms"),
    ("config.limits.tol_min=100", "/config/limits/tol_min"),
    ("config.log.level=verbose", "/config/log/level"),
    ("config.server.listen=0.0.0.0:80", "additional properties 'listen' not allowed"),
    ("config.server.drain_delay_ms=1", "additional properties 'drain_delay_ms' not allowed"),
    ("config.auth.keys_file=/x", "additional properties 'keys_file' not allowed"),
    ("config.tls.cert=/x", "additional properties 'tls' not allowed"),
    ("config.enigne.threads=2", "additional properties 'enigne' not allowed"),
    ("auth.existingSecretKey=a/b", "/auth/existingSecretKey"),
    ({"auth": {"keys": [{"name": "a", "sha256": "12"}]}}, "/auth/keys/0/sha256"),
    ({"auth": {"keys": [{"name": "a b", "sha256": HASH}]}}, "/auth/keys/0/name"),
    ({"auth": {"keys": [{"name": "a"}]}}, "missing property 'sha256'"),
    ({"auth": {"keys": [{"name": "a", "sha256": HASH, "weight": 1001}]}}, "/auth/keys/0/weight"),
    ({"auth": {"keys": [{"name": "a", "sha256": HASH, "key": "x"}]}}, "additional properties 'key' not allowed"),
    ({"auth": {"keys": [{"name": "a", "sha256": HASH}, {"name": "a", "sha256": "1" * 64}]}},
     "auth.keys: the name a stands there twice"),
    ({"auth": {"keys": [{"name": "a", "sha256": "A" * 64}, {"name": "b", "sha256": "a" * 64}]}},
     "auth.keys: the key of b stands there twice"),
    ({"auth": {"existingSecret": "x", "keys": [{"name": "a", "sha256": HASH}]}},
     "existingSecret and keys exclude each other"),
    ("tls.existingSecret=Upper", "/tls/existingSecret"),
    ("drain.timeoutSeconds=-1", "/drain/timeoutSeconds"),
    ("drain.timeoutSeconds=1.5", "/drain/timeoutSeconds"),
    ("drain.slackSeconds=1", "/drain/slackSeconds"),
    ("drain.preStopSeconds=2s", "/drain/preStopSeconds"),
    ("probes.live.periodSeconds=0", "/probes/live/periodSeconds"),
    ("probes.liveness.periodSeconds=1", "additional properties 'liveness' not allowed"),
    ("resources.limits.memory=lots", "/resources/limits/memory"),
    ("resources.limits.memory=128Mi", "resources.requests.memory: 256Mi exceeds the limit 128Mi"),
    ({"resources": {"limits": {"memory": None}}}, "missing property 'memory'"),
    ("resources.requests.cpu=0", "/resources/requests/cpu"),
    ("resources.requests.gpu=1", "additional properties 'gpu' not allowed"),
    ("autoscaling.minReplicas=9", "autoscaling: minReplicas 9 exceeds maxReplicas 8"),
    ("autoscaling.enabled=yes", "/autoscaling/enabled"),
    ("podDisruptionBudget.maxUnavailable=0", "/podDisruptionBudget/maxUnavailable"),
    ("service.type=Balancer", "/service/type"),
    ("service.port=70000", "/service/port"),
    ("ingress.enabled=true", "/ingress/hosts"),
    ({"ingress": {"paths": ["v1"]}}, "/ingress/paths/0"),
    ({"ingress": {"hosts": ["https://example.org"]}}, "/ingress/hosts/0"),
    ({"networkPolicy": {"apiFrom": [{"namespaceSelektor": {}}]}},
     "additional properties 'namespaceSelektor' not allowed"),
    ({"networkPolicy": {"metricsFrom": [{}]}}, "/networkPolicy/metricsFrom/0"),
    ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
    ({"serviceMonitor": {"enabled": True}, "service": {"headless": False}},
     "serviceMonitor.enabled: needs service.headless"),
    ("podSecurity.runAsUser=0", "/podSecurity/runAsUser"),
    ("podSecurity.privileged=true", "additional properties 'privileged' not allowed"),
    ({"tolerations": [{"key": "a", "operator": "Is"}]}, "/tolerations/0/operator"),
    ({"nodeSelector": {"a": 1}}, "/nodeSelector/a"),
    ({"extraEnv": {"DEQD_SERVER_LISTEN": "x"}}, "DEQD_SERVER_LISTEN"),
    ({"extraEnv": {"A": 1}}, "/extraEnv/A"),
]


def lint(*args):
    return helm("lint", "--strict", "--quiet", CHART, "--kube-version", f"{OLDEST}.0", *args)


def test_wrong():
    for name, values in SETS.items():
        code, out = lint(*(("--values", values) if values else ()))
        equal(code, 0, f"{name}: helm lint --strict: {out}")

    def one(row):
        what, message = row
        if isinstance(what, str):
            return row, lint("--set", what)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump(what, f)
            f.flush()
            return row, lint("--values", f.name)
    with ThreadPoolExecutor(2) as pool:
        for (what, message), (code, out) in pool.map(one, WRONG):
            check(code == 1 and message in out, f"{what}: helm lint exits with {code}, expected {message!r} in: {out}")


# --- What is derived, and the image ---

def test_derived():
    p = subprocess.run([sys.executable, f"{ROOT}/docker/k8s/render.py", "--check"], capture_output=True, text=True)
    equal((p.returncode, p.stdout + p.stderr), (0, ""),
          "files, schema, table and manifests are what `make k8s-manifests` writes")
    objects = []
    for path in sorted(glob.glob(f"{MANIFESTS}/**/*.yaml", recursive=True)):
        with open(path) as f:
            objects += yaml.safe_load_all(f)
    validate(objects, "manifests")
    r = Rendered(objects)
    restricted(r, "manifests")
    promises(r, "manifests")
    check("Helm" not in json.dumps(objects) and "helm.sh" not in json.dumps(objects),
          "manifests: nothing says that helm manages them")
    plain = {yaml.safe_load(open(p))["kind"] for p in glob.glob(f"{MANIFESTS}/*.yaml")}
    equal(plain, {"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget",
                  "Service", "ServiceAccount"}, "manifests that every cluster knows")
    # a name that stands in two places
    rule, = yaml.safe_load(re.search("```yaml\n(.*?)```", open(f"{CHART}/README.md").read(), re.S)[1])
    metric = re.match("[a-z_]+", rule["seriesQuery"])[0]
    autoscaler = rendered("everything").of("HorizontalPodAutoscaler")[0]["spec"]
    equal(metric, autoscaler["metrics"][0]["pods"]["metric"]["name"],
          "the adapter's rule is for the autoscaler's metric")


def test_image():
    path = f"{ROOT}/docker/Dockerfile"
    if not os.path.exists(path):
        return skip("no docker/Dockerfile here")
    text = open(path).read().replace("\\\n", " ")
    equal(re.findall("^ENTRYPOINT (.*)$", text, re.M)[-1:], ['["/usr/bin/deqd"]'],
          "the image's entry point takes the chart's arguments")
    names = re.findall(r"\b(DEQD_[A-Z_]+)=", " ".join(re.findall("^ENV (.*)$", text, re.M)))
    check(set(names) <= {"DEQD_CONFIG"}, f"no environment of the image wins over the ConfigMap: {names}")
    equal(re.findall("^USER ([0-9]+)", text, re.M)[-1:],
          [str(rendered("defaults").pod["spec"]["securityContext"]["runAsUser"])], "the user is the chart's")


# --- A running deqd ---

def daemon(name, *settings, model="stories"):
    """deqd with a rendered configuration, on free ports of this machine and with a model of the sources."""
    f = tempfile.NamedTemporaryFile("w", suffix=".yaml")
    f.write(rendered(name).config_text)
    f.flush()
    d = Daemon("server.admin_listen=127.0.0.1:0",
               f"server.drain_delay_ms={rendered(name).config['server']['drain_delay_ms']}", *settings,
               model=f"{ROOT}/models/{model}", args=("--config", f.name))
    d.file = f  # read on a reload too
    return d


def test_running():
    r = rendered("defaults")
    limit = int(r.container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    request = int(r.container["resources"]["requests"]["memory"].removesuffix("Mi")) << 20
    with tempfile.NamedTemporaryFile("w") as keys:
        secret, = rendered("everything").of("Secret")
        keys.write(base64.b64decode(secret["data"]["keys"]).decode())
        keys.flush()
        with daemon("defaults", f"auth.keys_file={keys.name}", "server.drain_delay_ms=0") as d:
            admin = d.admin()
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                get = r.container[probe]["httpGet"]
                equal(admin.request("GET", get["path"])[0], 200, f"{get['path']} on the admin listener")
            scraped = rendered("everything").of("ServiceMonitor")[0]["spec"]["endpoints"][0]["path"]
            equal(admin.request("GET", scraped)[0], 200, "what the ServiceMonitor scrapes, without a key")
            equal(d.request("GET", "/metrics")[0], 401, "metrics on the API's port ask for a key")
            check("deqd_requests_waiting" in admin.metrics(), "the autoscaler's metric exists")
            # the keys of values-everything.yaml are the hashes of these two
            equal(d.request("GET", "/v1/models", headers={"Authorization": "Bearer a"})[0], 401,
                  "a key that is not in the Secret")
            d.key = "team-a-key"
            d.alive("a key of the Secret")
            # every sequence at work, as deep as the limits allow, and two reloads
            body = {"prompt": ["Once upon a time"] * 2, "n": 16, "max_tokens": 400, "temperature": 1,
                    "ignore_eos": True, "deq": {"window": 16}}
            results = []
            busy = [threading.Thread(target=lambda: results.append(d.post("/v1/completions", body, timeout=300)[0]))
                    for _ in range(2)]
            for t in busy:
                t.start()
            peak = 0
            for _ in range(2):
                equal(admin.request("POST", "/admin/reload", headers={"Authorization": "Bearer ops-key"},
                                    timeout=120)[0], 200, "a reload with the Secret's admin key")
                peak = max(peak, resident_peak(d.p.pid))
            for t in busy:
                t.join()
            peak = max(peak, resident_peak(d.p.pid))
            equal(results, [200, 200], "requests during reloads")
            idle = resident(d.p.pid)
            check(peak < limit * 0.8,
                  f"resident memory under load and reloads: {peak >> 20} MiB at most, "
                  f"of the limit {limit >> 20} MiB a fifth to spare")
            check(idle < request, f"resident memory afterwards: {idle >> 20} MiB, requested {request >> 20} MiB")
            print(f"resident at most {peak >> 20} MiB, afterwards {idle >> 20} MiB; "
                  f"limit {limit >> 20} MiB, request {request >> 20} MiB")


def resident(pid):
    return int(re.search("VmRSS:\\s+([0-9]+) kB", open(f"/proc/{pid}/status").read())[1]) << 10


def resident_peak(pid):
    return int(re.search("VmHWM:\\s+([0-9]+) kB", open(f"/proc/{pid}/status").read())[1]) << 10


def test_grace():
    """SIGTERM with endless requests open: not ready at once, and at an end before SIGKILL would come."""
    for name in ("minimal",):
        r = rendered(name)
        grace = r.pod["spec"]["terminationGracePeriodSeconds"]
        d = daemon(name, "engine.max_positions=1000000", "server.drain_delay_ms=1000", model="stories-transformer")
        stream = http.client.HTTPConnection(d.host, d.port, timeout=60 * SLOW)
        stream.request("POST", "/v1/completions",
                       json.dumps({"prompt": "A", "max_tokens": 900000, "ignore_eos": True, "stream": True}),
                       {"Content-Type": "application/json"})
        answer = stream.getresponse()
        answer.readline()
        admin = d.admin()
        begin = time.monotonic()
        d.p.terminate()
        while time.monotonic() - begin < 0.9 and (ready := admin.request("GET", "/health/ready")[0]) == 200:
            time.sleep(0.01)
        equal(ready, 503, "not ready after SIGTERM")
        equal(admin.request("GET", "/health/live")[0], 200, "but alive")
        rest = answer.read()
        check(b'"error"' in rest and b"[DONE]" not in rest, "the stream that does not end gets an error event")
        code = d.p.wait(60 * SLOW)
        took = time.monotonic() - begin
        # one second of delay was added above
        check(code == 0 and took < grace + 1,
              f"exit code {code} after {took:.1f} s, the grace period is {grace} s and the added delay 1 s")
        d.check_end(code)


if __name__ == "__main__":
    os.chdir(ROOT)
    print(f"helm {helm('version', '--template', '{{.Version}}')[1]}, Kubernetes {VERSIONS[0]} to {VERSIONS[-1]} "
          f"of kubernetes-validate {kubernetes_validate.__version__}")
    sys.exit(main("k8s", parts=sys.argv[1:]))
