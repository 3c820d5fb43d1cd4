#!/usr/bin/env bash
# "Finetuning GPT-2 on E2E using LoRA" (A. Swift, USC, CSCI 567): GPT-2 Small on the E2E NLG Challenge with LoRA on the fused
# attention projection (recipe baseline: 147,456 parameters, published BLEU 0.6476) and on all layers of the blocks with both
# factors Gaussian (recipe improved: 2,359,296, BLEU 0.6882), by the programs of examples/NLG: the study's Tables 3 and 4
# beside ours, with the claim about 80 % of the distance to GPT-2 Medium recomputed. docs/studies.md says what differs.
# With --study-form the programs of examples/CLM train on the study's own form of the data: representations as in the CSV files, a
# new token <|ref|> before the reference, and a loss over everything, padding included.
# Stop it and start it again as you like: finished steps are kept, training and decoding go on where they were.
#
#   bash scripts/study_swift.sh                generated data and a toy base, offline, on a CPU
#   bash scripts/study_swift.sh --smallest     the same with a few steps, too short to learn anything
#   bash scripts/study_swift.sh --data-dir DIR --base FILE     the study; a GPU is advised (published: about an hour)
#   bash scripts/study_swift.sh --study-form     generated data, in the study's own form: 2 minutes of one free core
#   bash scripts/study_swift.sh --study-form --data-dir DIR --base gpt2     the study in its own form
#   --embedded        the first of these
#   --data-dir DIR    raw files of E2E: train.txt, valid.txt, test.txt; with --study-form the official trainset.csv, devset.csv,
#                     testset_w_refs.csv (.gz or not)
#   --base FILE       pretrained weights of GPT-2 Small; with --study-form a folder or a name on the hub
#   --vocab DIR       encoder.json and vocab.bpe (default: examples/NLG/vocab); not with --study-form
#   --seeds "44"      of the runs (default: that of the study)
#   --recipes "NAMES" rows of scripts/studies/recipes.tsv (default: baseline improved)
#   --steps N         with --study-form: only N steps of training, as a trial
#   --rows N          with --study-form: only N rows that validate and N that test, as a trial
#   --work-dir DIR    where everything is written (default: runs/study-swift-sm, …-swift-form-sm, …-trial, …-embedded)
#   -- FLAGS          of gpt2_ft.py (with --study-form of run_clm.py), such as --fp16, with which the study ran
set -euo pipefail
{ # read as a whole before it runs: an edit in the hours of a run does not reach it
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/lib.sh"
source "$here/steps.sh"
source "$here/gpt2_steps.sh"
source "$here/studies/study_steps.sh"
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac

words=() form=""
for word in "$@"; do
    [ "$word" = --study-form ] && form=-form || words+=("$word")
done
set -- ${words[@]+"${words[@]}"}
[ -z "$form" ] || { clm_study swift-form "44" "sm" "$@"; exit; }

study_options swift "44" "sm" "$@"
dataset=e2e model_card="" checkpoints=last
toy_flags
gpt2_files
ensure_environment
export TOKENIZERS_PARALLELISM=false
enter_work_folder "$work"

eos=50256 # <|endoftext|> alone ends a text, as in the study
gpt2_data
scored="" runs=() decode_flags=(--ref_type e2e)
for name in $recipes; do
    train_flags=($(recipe swift "$name" train) ${toy_train[@]+"${toy_train[@]}"})
    beam_flags=($(recipe swift "$name" generate) ${toy_beam[@]+"${toy_beam[@]}"})
    for seed in $seeds; do
        adapt "$name.$seed" "$name/seed$seed" "$seed"
        runs+=("$name/seed$seed")
    done
done
study_tables swift ${runs[@]+"${runs[@]}"}
exit
}
