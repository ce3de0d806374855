#!/usr/bin/env bash
# Writes requirements.lock (run time and demo) and requirements-dev.lock (the same pins and the tools on top):
# hashed, for every platform, without a host name. The workspace's own members are installed from the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/members.sh
UV=${UV:-.venv/bin/uv}
pyprojects=("${MEMBERS[@]/%//pyproject.toml}")
own=(); for m in "${MEMBERS[@]}"; do own+=(--no-emit-package "$(sed -n 's/^name = "\(.*\)"/\1/p' "$m/pyproject.toml" | head -n 1)"); done
# The members are given by path, so that uv takes their requirements from the tree and asks no registry for them.
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for m in "${MEMBERS[@]}"; do echo "-e file://$PWD/$m"; done >"$work/members.in"
echo "-e file://$PWD/libs/clave[demo]" >>"$work/members.in"
printf "hatchling\neditables\n" >>"$work/members.in"
"$UV" pip compile "$work/members.in" --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-header --no-annotate --quiet "${own[@]}" "$@" -o requirements.lock
"$UV" pip compile "$work/members.in" --group pyproject.toml:dev -c requirements.lock --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet "${own[@]}" "$@" -o requirements-dev.lock
if grep -nE 'https?://|file://|--index' requirements*.lock; then echo "lock names a host or a path" >&2; exit 1; fi
