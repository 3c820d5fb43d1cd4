#!/usr/bin/env bash
# Fetches, into the folders below the current one (run it in examples/NLG): the weights of GPT-2 small, medium and large,
# the vocabulary and the three data sets. Every file is checked; one that broke off begins again.
#   bash download_pretrained_checkpoints.sh                             everything, about 5.5 GB
#   bash download_pretrained_checkpoints.sh vocab e2e gpt2-medium       only what E2E with GPT-2 medium needs
#   bash download_pretrained_checkpoints.sh --format safetensors gpt2   weights as safetensors
#   bash download_pretrained_checkpoints.sh --help                      the other names and flags
set -euo pipefail

exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/src/download.py" "$@"
