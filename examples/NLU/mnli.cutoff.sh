#!/usr/bin/env bash
# deberta-v2-xxlarge with LoRA and token cutoff on MNLI; settings in hparams.tsv, options in run_task.sh.
# No figure is published.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_task.sh" mnli.cutoff "$@"
