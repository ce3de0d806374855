#!/usr/bin/env bash
# Every static check in one command; all of them run, and the sum of their verdicts is the exit code.
set -uo pipefail
cd "$(dirname "$0")/.."
source tools/members.sh
failed=0
run() { printf '\n-- %s\n' "$*"; "$@" || failed=1; }
run .venv/bin/ruff format --check .
run .venv/bin/ruff check .
run .venv/bin/mypy $(for m in "${MEMBERS[@]}"; do echo "$m/src"; done)
run .venv/bin/lint-imports
for m in "${MEMBERS[@]}"; do (cd "$m" && run ../../.venv/bin/deptry src; exit $failed) || failed=1; done
run .venv/bin/codespell libs services docs tests README.md CHANGELOG.md
exit $failed
