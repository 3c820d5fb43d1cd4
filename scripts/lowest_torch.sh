#!/usr/bin/env bash
# Runs the tests of loralib with the lowest torch that setup.py allows, in an environment of its own under runs/.
#
#   bash scripts/lowest_torch.sh              makes runs/lowest_torch (several GB on Linux: that torch comes with CUDA)
#   bash scripts/lowest_torch.sh -k merge     further arguments go to pytest
#
# Tests that need transformers or peft are left out: these packages ask for a newer torch.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case "${1:-}" in -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$ROOT"

floor="$(sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' setup.py)"
pinned() { sed -n "s/^\($1==[^;]*\).*/\1/p" requirement.txt | head -n 1; }
environment="$ROOT/runs/lowest_torch"
if [ ! -x "$environment/bin/python" ]; then
    say "making an environment with torch $floor"
    python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet "torch==$floor.*" "numpy<3" \
        "$(pinned safetensors)" "$(pinned pytest)" "$(pinned pytest-timeout)" "$(pinned hypothesis)"
fi
ignored=()
for file in $(grep -lE '^ *(import|from) (transformers|peft|tests.loralib.(architectures|peft_pair))' tests/loralib/*.py); do ignored+=(--ignore "$file"); done
say "pytest with torch $("$environment/bin/python" -c 'import torch; print(torch.__version__)')"
OMP_NUM_THREADS=1 "$environment/bin/python" -m pytest tests/loralib "${ignored[@]+"${ignored[@]}"}" "$@"
