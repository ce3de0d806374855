#!/usr/bin/env bash
# install.sh runtime|dev: creates .venv from the hashed lock and links the workspace's members into it.
# uv is the accelerator; where it cannot be had, plain pip does the same from the same lock.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/members.sh
kind=${1:-runtime}
lock=requirements.lock; [ "$kind" = dev ] && lock=requirements-dev.lock
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "clave needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 3; }
started=$(date +%s)
if [ ! -x .venv/bin/python ]; then
  echo "-- creating .venv"
  "$python" -m venv .venv || { echo "python3 has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 3; }
fi
links=(); for m in "${MEMBERS[@]}"; do links+=(-e "$m"); done
if [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null; then
  echo "-- installing $(grep -cE '^[a-z0-9]' "$lock") pinned packages with uv"
  # Compiled here, in parallel, and not by six services at their first start.
  export UV_COMPILE_BYTECODE=1 UV_PYTHON=.venv/bin/python UV_LINK_MODE=${UV_LINK_MODE:-copy}
  cache=$(.venv/bin/uv cache dir) && mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ] || export UV_NO_CACHE=1  # no home, no cache
  .venv/bin/uv pip install --require-hashes -r "$lock"
  .venv/bin/uv pip install --quiet --no-deps --no-build-isolation "${links[@]}"
else
  echo "-- installing $(grep -cE '^[a-z0-9]' "$lock") pinned packages with pip (uv was not to be had)"
  .venv/bin/python -m pip install --disable-pip-version-check --require-hashes -r "$lock"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "${links[@]}"
fi
touch .venv/.runtime; [ "$kind" = dev ] && touch .venv/.dev
echo "-- installed in $(($(date +%s) - started)) s"
