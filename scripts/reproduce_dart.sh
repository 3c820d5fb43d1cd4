#!/usr/bin/env bash
# DART v1.1.1 with LoRA, over seeds, beside Table 13 of the paper (mean of 3 seeds):
# BLEU 47.1 for GPT-2 M, 47.5 for L.
# 5 epochs and beam search with 10 beams for each seed: a GPU is advised. Options are those of reproduce.sh: --size --seeds
# --recipe --checkpoint --data-dir --base --vocab --model-card --work-dir --embedded --smallest --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh" dart "$@"
