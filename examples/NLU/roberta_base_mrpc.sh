#!/usr/bin/env bash
# roberta-base with LoRA on MRPC; settings in hparams.tsv, options in run_task.sh.
# The paper's figure: 89.7 ± 0.7, median of 5 seeds, best epoch of each.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_task.sh" roberta_base_mrpc "$@"
