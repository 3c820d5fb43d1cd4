#!/usr/bin/env bash
# One row of the paper's tables for GPT-2 with LoRA, over several seeds: raw files -> token ids -> training -> beam search ->
# scores -> a table with mean, standard deviation and 95 % interval beside the published figures (results.md, .json).
# Stop it and start it again as you like: finished steps are kept (steps.log), training and decoding go on where they were.
# Changed settings or data delete and repeat the steps that they concern; another --work-dir keeps both.
#
#   bash scripts/reproduce.sh DATASET [options] [-- flags of gpt2_ft.py, such as --bf16]     DATASET: e2e, webnlg or dart
#   --size md|lg|sm          GPT-2 Medium (default), Large or Small; the paper has no row for Small
#   --seeds "110 111 112"    of the runs (default)
#   --recipe scripts|paper   row of examples/NLG/hparams.tsv (default: scripts); docs/disagreements.md says what differs
#   --checkpoint last|best|both   what is decoded (default: as the recipe says): end of training, or the epoch with the
#                            lowest validation loss
#   --data-dir DIR           raw files, named as create_datasets.sh says (default: examples/NLG/data/<data set>)
#   --base FILE              pretrained weights (default: examples/NLG/pretrained_checkpoints/<model>-pytorch_model.bin)
#   --vocab DIR              encoder.json and vocab.bpe (default: examples/NLG/vocab)
#   --model-card CARD        another architecture than --size says: a JSON file
#   --work-dir DIR           where everything is written (default: runs/<data set>-<size>-<recipe>)
#   --embedded               offline toy on a CPU in minutes: generated data, toy vocabulary and base
#   --smallest               the same with a few steps, too short to learn anything
# The variable PYTHON names an interpreter with everything installed; without it the environment is made as elsewhere.
set -euo pipefail
{ # read as a whole before it runs: an edit in the hours of a run does not reach it
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/lib.sh"
source "$here/steps.sh"
source "$here/gpt2_steps.sh"

usage() { sed -n '2,22s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

dataset="" size="md" seeds="110 111 112" recipe="scripts" checkpoint="" data_dir="" base="" vocab="$NLG/vocab"
model_card="" work="" embedded="" smallest=""
while [ $# -gt 0 ]; do
    case "$1" in
        --embedded) embedded=yes; shift; continue ;;
        --smallest) embedded=yes smallest=yes; shift; continue ;;
        --help | -h) usage; exit 0 ;;
        --) shift; break ;;
        --size | --seeds | --recipe | --checkpoint | --data-dir | --base | --vocab | --model-card | --work-dir)
            [ $# -ge 2 ] || die "$1 needs a value" ;;
        -*) die "unknown option $1 (bash scripts/reproduce.sh --help lists them)" ;;
        *)
            [ -z "$dataset" ] || die "unexpected word $1 after $dataset"
            dataset="$1"
            shift
            continue
            ;;
    esac
    case "$1" in
        --size) size="$2" ;;
        --seeds) seeds="$2" ;;
        --recipe) recipe="$2" ;;
        --checkpoint) checkpoint="$2" ;;
        --data-dir) data_dir="$2" ;;
        --base) base="$2" ;;
        --vocab) vocab="$2" ;;
        --model-card) model_card="$2" ;;
        --work-dir) work="$2" ;;
    esac
    shift 2
done
ft_flags=("$@")

one_of "data set" "$dataset" "e2e webnlg dart"
one_of --size "$size" "sm md lg"
one_of --recipe "$recipe" "scripts paper"
one_of --checkpoint "${checkpoint:-last}" "last best both"
check_seeds "$seeds"

# --- settings: from the table, and what a toy on a CPU needs otherwise ----------------------------------------------
cell() { # COLUMN: its value in the row of this data set and recipe
    awk -F '\t' -v column="$1" -v dataset="$dataset" -v recipe="$recipe" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; if (!(column in at)) exit 1 }
        $1 == dataset && $2 == recipe { print $at[column]; found = 1 }
        END { exit !found }' "$NLG/hparams.tsv" || die "hparams.tsv has no $1 for $dataset, $recipe"
}
flags() { # COLUMN...: --COLUMN VALUE for each, in `made`
    local column value
    made=()
    for column in "$@"; do
        value="$(cell "$column")"
        made+=("--$column" "$value")
    done
}
flags train_batch_size valid_batch_size grad_acc seq_len clip lr weight_decay adam_beta2 scheduler warmup_step max_epoch \
    lora_dim lora_alpha lora_dropout lora_init label_smooth
train_flags=(${made[@]+"${made[@]}"} --correct_bias)
flags seq_len eval_len lora_dim lora_alpha beam length_penalty no_repeat_ngram_size repetition_penalty
beam_flags=(${made[@]+"${made[@]}"})
flags ref_num
decode_flags=(--ref_type "$dataset")
[ "$dataset" = e2e ] || decode_flags+=(${made[@]+"${made[@]}"} --tokenize --lower)
ref_num="${made[1]}" eos="$(cell eos_token_id)" checkpoint="${checkpoint:-$(cell checkpoint)}"
checkpoints="$checkpoint"
[ "$checkpoint" != both ] || checkpoints="last best"
toy_flags
train_flags+=(${toy_train[@]+"${toy_train[@]}"})
beam_flags+=(${toy_beam[@]+"${toy_beam[@]}"})
gpt2_files

ensure_environment
export TOKENIZERS_PARALLELISM=false
enter_work_folder "${work:-$ROOT/runs/$dataset-${embedded:+embedded-}$size-$recipe}"

gpt2_data
scored="" runs=()
for seed in $seeds; do
    adapt "$seed" "seed$seed" "$seed"
    runs+=("seed$seed")
done
step table "$scored" "results.md results.json" run "$NLG/src/results_table.py" "$dataset" ${runs[@]+"${runs[@]}"} --size "$size" \
    --recipe "$recipe" --checkpoint $checkpoints --output results ${embedded:+--toy} > /dev/null
cat results.md
say "results: $work/results.md"
exit
}
