#!/usr/bin/env bash
# Does LoRA do here what the paper says? Real pretrained weights (SmolLM2-135M, MiniLM) on real data: the runs behind
# docs/replication.md. Hours on a CPU; stop it and start it again as you like, each run that has ended is kept.
#
#   bash scripts/replicate.sh                      everything that has no result yet
#   bash scripts/replicate.sh --list               what is complete, what is open
#   bash scripts/replicate.sh --only 'e2e/r*'      runs by name
#   --jobs N       runs at once, each with one thread (default: 1)
#   --models DIR   where the weights are, or are fetched to (default: models)
#   --data DIR     real data sets (default: data in the folder that the variable LORA_SHARED names, else in ../shared)
#   --work DIR     checkpoints and logs (default: runs/replication)
#   --results DIR  result files (default: docs/replication/results);  --commit commits each as it comes
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case " $* " in *" --help "* | *" -h "*) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
ensure_environment
models="$ROOT/models" previous=""
for word in "$@"; do
    [ "$previous" != --models ] || models="$word"
    previous="$word"
done
case " $* " in
    *" --list "*) ;;
    *) [ -d "$models/smollm2" ] && [ -d "$models/minilm" ] || bash "$ROOT/scripts/get_small_models.sh" "$models" ;;
esac
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
attended "$PYTHON" "$ROOT/scripts/replication/replicate.py" "$@"
