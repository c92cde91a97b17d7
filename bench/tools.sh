#!/usr/bin/env bash
# What the bench measures and draws with, and no lock file of the product brings: `bench/tools.sh PYTHON`. Debian's packages
# for root, Go programs at pinned versions and a Python environment in bench/.cache. Whatever can't be had is said, and its
# rows in the table say it too; nothing here stops the bench.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 cache=bench/.cache
mkdir -p $cache/bin

missing=()
command -v nginx >/dev/null || missing+=(nginx)
[ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] || missing+=(libnginx-mod-nchan)
[ -e /usr/bin/pushpin ] || missing+=(pushpin)
command -v openssl >/dev/null || missing+=(openssl)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } ||
      echo "bench: apt-get could not install ${missing[*]}; peers that need them are left out" >&2
  else
    echo "bench: peers are left out for want of the packages ${missing[*]}" >&2
  fi
fi

# A module of one requirement, thrown away afterwards: like `go install`, which besides wants the list of all versions, and
# not every proxy has that.
go_program() { # NAME PACKAGE VERSION
  local name=$1 package=$2 version=$3 folder said
  [ -x "$cache/bin/$name" ] && [ "$(cat "$cache/bin/$name.version" 2>/dev/null)" = "$version" ] && return
  if ! command -v go >/dev/null; then
    echo "Go is not installed" >"$cache/bin/$name.why"
    return
  fi
  echo "building $package $version"
  folder=$(mktemp -d)
  printf 'module bench\n\ngo 1.23\n' >"$folder/go.mod"
  if said=$( (cd "$folder" && go get "$package@$version" && go build -o program "$package") 2>&1); then
    mv "$folder/program" "$cache/bin/$name"
    echo "$version" >"$cache/bin/$name.version"
    rm -f "$cache/bin/$name.why"
  else
    echo "go could not build $package $version: $(tail -n 1 <<<"$said" | cut -c 1-200)" >"$cache/bin/$name.why"
    echo "bench: $(cat "$cache/bin/$name.why")" >&2
  fi
  rm -rf "$folder"
}
# Mercure's hub as its module has it; the build within Caddy is a module that replaces another by a folder, which neither
# `go install` nor `go get` can follow.
go_program mercure github.com/dunglas/mercure/cmd/mercure v0.20.2
go_program centrifugo github.com/centrifugal/centrifugo/v5 v5.4.9

if ! [ $cache/venv/.done -nt bench/requirements.lock ]; then
  echo "installing what draws, and the peers in Python, into $cache/venv"
  if "$python" -m venv --clear $cache/venv &&
    $cache/venv/bin/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps --require-hashes -r bench/requirements.lock; then
    touch $cache/venv/.done
  else
    rm -rf $cache/venv
    echo "bench: no environment for sse-starlette and matplotlib; both are left out" >&2
  fi
fi
