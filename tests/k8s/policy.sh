#!/usr/bin/env bash
# What others think of the manifests: `tests/k8s/policy.sh PYTHON` lets checkov look at every overlay. It has a hundred
# dependencies, so it lives in tests/k8s/.cache; the rules that matter most are in the suite too
# (test_replicas.py). Chosen over kube-linter because it is on the package index that everything else here comes from.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 cache=tests/k8s/.cache version=3.3.30

if [ "$(cat $cache/version 2>/dev/null)" != $version ]; then
  echo "installing checkov $version into $cache"
  "$python" -m venv --clear $cache/venv
  $cache/venv/bin/python -m pip --disable-pip-version-check --no-input install --quiet checkov==$version
  echo $version >$cache/version
fi

# Not followed, and why:
skipped=(
  CKV_K8S_11 # CPU limits: a throttled event loop stands still for all its clients
  CKV_K8S_15 # always pull: tags are fixed ones, and a cluster of one's own has nowhere to pull from
  CKV_K8S_35 # secrets as files: redis.url can only be given by value; the hash secret is a file
  CKV_K8S_43 # images by digest: it is known to whoever builds the image; `images` in his overlay sets it
)
rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
for overlay in k8s/overlays/*/; do
  .venv/bin/kubectl kustomize "$overlay" >"$rendered/$(basename "$overlay").yaml"
done
# It asks nobody outside (--skip-download), and exits with 1 where a rule is broken.
exec $cache/venv/bin/checkov --directory "$rendered" --framework kubernetes --skip-download --compact --quiet \
  --skip-check "$(IFS=,; echo "${skipped[*]}")"
