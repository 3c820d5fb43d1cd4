#!/usr/bin/env bash
# Every check of the project: style, types, tests. Needs no GPU and no network once the packages are installed.
#
#   bash scripts/test.sh                 all of it (about 8 minutes on 2 free cores)
#   bash scripts/test.sh --fast          without the tests marked slow (a few minutes)
#   bash scripts/test.sh tests/nlg -k x  other arguments go to pytest
#
# Tests on real data sets read the folder named by LORA_SHARED (default: ../shared) and skip where it is absent.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in --help | -h) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
ensure_environment
cd "$ROOT"

select=()
if [ "${1:-}" = "--fast" ]; then
    select=(-m "not slow")
    shift
fi
say "ruff"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
say "mypy"
"$PYTHON" -m mypy loralib examples/common examples/NLG/src examples/NLG/eval examples/NLU/examples/text-classification examples/NLU/utils examples/CLM scripts
say "pytest"
workers="${TEST_WORKERS:-$("$PYTHON" -c 'import os; print(os.cpu_count() or 1)')}"
# one thread a worker: more would only take turns on the same cores
OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$PYTHON" -m pytest -n "$workers" --dist worksteal ${select[@]+"${select[@]}"} "$@"
