#!/usr/bin/env bash
# Makes the virtual environment: `tests/python.sh PYTHON FOLDER`. Debian ships python3 without its venv module;
# root gets it installed, others are told its name.
set -euo pipefail
python=$1 venv=$2

if ! command -v "$python" >/dev/null; then
  echo "error: no $python here; install Python 3.11 or newer, or name one: make PYTHON=python3.13 …" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $("$python" --version) is too old, 3.11 is needed; name another: make PYTHON=python3.13 …" >&2
  exit 1
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: Python's venv module is missing; install the package $package" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "$package" >/dev/null
fi
# A folder left by an interrupted run has no pip: --clear makes it anew, an intact one is kept.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
