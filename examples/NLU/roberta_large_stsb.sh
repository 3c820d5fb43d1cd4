#!/usr/bin/env bash
# roberta-large with LoRA on STSB; settings in hparams.tsv, options in run_task.sh.
# The paper's figure: 92.6 ± 0.2, median of 5 seeds, best epoch of each.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_task.sh" roberta_large_stsb "$@"
