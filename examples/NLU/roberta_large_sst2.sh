#!/usr/bin/env bash
# roberta-large with LoRA on SST2; settings in hparams.tsv, options in run_task.sh.
# The paper's figure: 96.2 ± 0.5, median of 5 seeds, best epoch of each.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_task.sh" roberta_large_sst2 "$@"
