#!/usr/bin/env bash
# All tests, in parallel; extra arguments go to pytest. conftest.py puts the long files first: xdist is to keep that order.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest -n "${CLAVE_TEST_WORKERS:-3}" --dist loadfile --no-loadscope-reorder "$@"
