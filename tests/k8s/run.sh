#!/bin/sh
# The chart and the plain manifests under real tools: helm, and the schemas of Kubernetes as kubernetes-validate carries them. See check.py for what is
# checked. The tools are put under build/ and used again by the next run.
set -u
cd "$(dirname "$0")/../.." || exit
HELM=$(sh tests/k8s/helm.sh) || { echo "k8s: skipped: no helm (see above)"; exit 0; }
SERVICEMONITOR_CRD=$(sh tests/k8s/helm.sh crd) || SERVICEMONITOR_CRD=
venv=build/k8s-venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || exit
"$venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 PyYAML==6.0.4 jsonschema==4.26.0 ||
    { echo "k8s: skipped: kubernetes-validate could not be installed"; exit 0; }
export HELM SERVICEMONITOR_CRD DEQ_BUILD="${DEQ_BUILD:-build}"
exec "$venv/bin/python" tests/k8s/check.py "$@"
