#!/usr/bin/env bash
# Instruction tuning and classification (CS7643): GPT-2 on Alpaca with all weights and with LoRA on all layers of the blocks, and SMS
# spam, IMDB and SST-2 with a new output layer (these data sets are our choice: the report names none). Published validation
# losses on Alpaca: 1.371 (GPT-2 M, LoRA r 16, 2 epochs), 1.448 (GPT-2 M, full), 1.402 (GPT-2 L, LoRA r 16).
# The programs of examples/CLM do the work. docs/studies.md says what differs from the report.
# Stop it and start it again as you like: finished steps are kept, training goes on where it was.
#
#   bash scripts/study_cs7643.sh                generated data and a tiny GPT-2, offline, on a CPU
#   bash scripts/study_cs7643.sh --smallest     the same with a few steps a run, too short to learn anything
#   bash scripts/study_cs7643.sh --data-dir DIR --base gpt2     the study; a GPU is advised
#   --embedded        the first of these
#   --data-dir DIR    alpaca_data.json, SMSSpamCollection, imdb.jsonl, SST-2/{train,dev}.tsv (.gz or not)
#   --base NAME       GPT-2 as from_pretrained opens it: a folder or a name on the hub
#   --size SIZE       GPT-2's size: md (default) and lg have the recipes of Alpaca, sm those of classification
#   --seeds "123"   of the runs (default)
#   --recipes "NAMES" rows of scripts/studies/recipes.tsv, such as "alpaca-run12 alpaca-run19" (default: all of the size)
#   --judge NAME      a language model that scores the answers on Alpaca from 0 to 100, beside the offline scores, by judge.py;
#   --judge-url URL   its OpenAI-compatible endpoint, such as http://localhost:8000/v1; its key, if any, in OPENAI_API_KEY
#   --steps N         only N steps of training, as a trial
#   --rows N          only N rows that validate and N that test, as a trial
#   --work-dir DIR    where everything is written (default: runs/study-cs7643-SIZE, …-trial, …-embedded)
#   -- FLAGS          of run_clm.py for every run, such as --bf16 true
set -euo pipefail
{ # read as a whole before it runs: an edit in the hours of a run does not reach it
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/lib.sh"
source "$here/steps.sh"
source "$here/studies/study_steps.sh"
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac

clm_study cs7643 "123" "md lg sm" "$@"
exit
}
