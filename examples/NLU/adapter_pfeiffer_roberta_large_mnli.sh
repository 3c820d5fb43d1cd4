#!/usr/bin/env bash
# roberta-large with Pfeiffer adapters on MNLI; settings in hparams.tsv, options in run_task.sh.
# The paper's figure: 90.5 ± 0.3, median of 5 seeds, best epoch of each.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_task.sh" adapter_pfeiffer_roberta_large_mnli "$@"
