#!/usr/bin/env bash
# All tests, in parallel; extra arguments go to pytest. conftest.py puts the long files first: xdist is to keep that order.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
if [ -n "${CLAVE_TEST_OPA_BUILD:-}" ]; then  # once, before the workers ask for it
  PYTHONPATH=tests .venv/bin/python -c 'from clave_testing.policies import opa_program; print("OPA:", opa_program())'
  unset CLAVE_TEST_OPA_BUILD
fi
exec .venv/bin/python -m pytest -n "${CLAVE_TEST_WORKERS:-3}" --dist loadfile --no-loadscope-reorder "$@"
