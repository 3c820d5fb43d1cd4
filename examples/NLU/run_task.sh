#!/usr/bin/env bash
# Trains one row of hparams.tsv with one seed or several and prints the scores beside the published one:
#   bash run_task.sh roberta_base_cola
#   bash run_task.sh roberta_base_cola --recipe paper --seeds 0 1 2 3 4
#   num_gpus=2 bash run_task.sh roberta_large_rte --data_dir glue_data
# The effective batch is the setting: batch per device and accumulation follow from the number of GPUs (all of this
# machine, or the variable num_gpus). A run that was stopped goes on when the command is repeated.
#   --recipe scripts|paper   the released scripts' settings (default), or the paper's
#   --seeds N...             one run each (default: the row's)
#   --runs DIR               where results go (default: runs)
#   --max_device_batch N     most examples on a device at once (default: the row's batch per device)
#   --dry-run                prints the commands alone
# Anything else goes to run_glue.py, after the row's flags.
# For example one's own model, data and length:
#   bash run_task.sh roberta_base_mnli --model_name_or_path FOLDER --train_file FILE --validation_file FILE \
#       --learning_rate 5e-3 --max_steps 200 --save_full_model
set -euo pipefail
for word in "$@"; do
    case "$word" in --help | -h)
        sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
        ;;
    esac
done
# what the released scripts set: cuBLAS and hashing that repeat themselves
export CUBLAS_WORKSPACE_CONFIG=":16:8" PYTHONHASHSEED=0
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
find_python || die "no Python environment: activate one, name one with PYTHON, or let scripts/reproduce_glue.sh make .venv"
exec "$PYTHON" "$ROOT/examples/NLU/utils/recipes.py" "$@"
