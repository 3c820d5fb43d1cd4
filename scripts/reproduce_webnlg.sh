#!/usr/bin/env bash
# WebNLG 2017 with LoRA, over seeds, beside Table 14 of the paper (mean of 3 seeds):
# BLEU 46.7 unseen, 62.1 seen, 55.3 all for GPT-2 M; 48.4, 64.0, 57.0 for L.
# 5 epochs and beam search with 10 beams for each seed: a GPU is advised. Options are those of reproduce.sh: --size --seeds
# --recipe --checkpoint --data-dir --base --vocab --model-card --work-dir --embedded --smallest --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh" webnlg "$@"
