#!/usr/bin/env bash
# Known advisories against what is locked: exit 0 none, 1 some, 2 nothing was checked.
#
# pip-audit's exit code is the same for a finding and for no network, and a mirror of the index that
# carries no advisories makes it say that all is well. So it is asked about a release first that is
# known to be bad.
set -euo pipefail

python=$1
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

unchecked() {
  tail -n 1 "$tools/said" >&2
  echo "error: NOTHING WAS CHECKED: $1; run it where the package index and its advisories can be reached" >&2
  exit 2
}

audit() {
  "$tools/bin/pip-audit" --disable-pip --progress-spinner off "$@" >"$tools/found" 2>"$tools/said"
}

"$python" -m venv "$tools" 2>"$tools/said" || unchecked "no environment could be made"
"$tools/bin/pip" --disable-pip-version-check --no-input --retries 1 --quiet install pip-audit==2.10.1 2>"$tools/said" ||
  unchecked "pip-audit could not be installed"

echo 'aiohttp==3.9.1' >"$tools/bad" # several advisories, the oldest of 2024
audit --no-deps -r "$tools/bad" && unchecked "the index tells of no advisories at all"
[ -s "$tools/found" ] || unchecked "nobody answered"

if audit --require-hashes -r requirements.lock -r requirements-build.lock -r requirements-dev.lock; then
  echo 'no known advisories against what is locked'
  exit 0
fi
[ -s "$tools/found" ] || unchecked "the locks could not be looked up"
cat "$tools/found"
echo 'error: take newer releases with: make lock UPGRADE=--upgrade' >&2
exit 1
