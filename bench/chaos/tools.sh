#!/usr/bin/env bash
# The npm clients of the chaos kit, at locked versions, in bench/.cache/chaos. What can't be had is said, and the kit's report
# says it too; nothing here stops a run.
set -euo pipefail
cd "$(dirname "$0")/../.."
from=bench/chaos/programs/npm to=bench/.cache/chaos
mkdir -p $to

why() {
  echo "$1" >$to/why
  echo "chaos: $1" >&2
  exit 0
}
cmp -s $from/package-lock.json $to/.done && exit 0
rm -rf $to/.done $to/why $to/node_modules
command -v node >/dev/null || why "Node.js is not installed"
[ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 20')" = true ] || why "Node.js $(node --version) is too old; 20 is needed"
command -v npm >/dev/null || why "npm is not installed"
cp $from/package.json $from/package-lock.json $to/
echo "installing the chaos kit's npm clients into $to"
said=$(npm ci --prefix $to --no-audit --no-fund --ignore-scripts --omit-lockfile-registry-resolved 2>&1) || why "npm could not install them: $(tail -n 1 <<<"$said" | cut -c 1-200)"
cp $from/package-lock.json $to/.done
