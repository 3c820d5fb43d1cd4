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
#   --smallest               the same in a minute, too short to learn anything
# The variable PYTHON names an interpreter with everything installed; without it the environment is made as elsewhere.
set -euo pipefail
{ # read as a whole before it runs: an edit in the hours of a run does not reach it
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/lib.sh"
source "$here/steps.sh"

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
toy_counts=()
if [ -n "$embedded" ]; then # later flags replace earlier ones
    [ -z "$data_dir$base$model_card" ] || die "--embedded makes its own data and base; leave --data-dir, --base, --model-card out"
    toy=(--seq_len 192 --valid_batch_size 16)
    train_flags+=("${toy[@]}" --lr 1e-2 --warmup_step 50)
    beam_flags+=(--seq_len 192 --beam 5)
    base_flags=("${toy[@]}" --train_batch_size 16 --lr 2.5e-3 --warmup_step 100 --clip 1.0 --max_step 2000)
    if [ -n "$smallest" ]; then
        train_flags+=(--max_step 24 --warmup_step 4)
        beam_flags+=(--beam 2 --eval_len 24)
        base_flags+=(--max_step 40 --warmup_step 10)
        toy_counts=(--entries 60 12 24 --general 1000 80)
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" MKL_NUM_THREADS="${OMP_NUM_THREADS:-2}"
fi

folder="$dataset"
[ "$dataset" != webnlg ] || folder="webnlg_challenge_2017"
if [ -z "$embedded" ]; then
    case "$size" in sm) model=gpt2 ;; md) model=gpt2-medium ;; lg) model=gpt2-large ;; esac
    data_dir="${data_dir:-$NLG/data/$folder}" base="${base:-$NLG/pretrained_checkpoints/$model-pytorch_model.bin}"
    fetch="examples/NLG/download_pretrained_checkpoints.sh fetches it"
    [ -d "$data_dir" ] || die "$data_dir does not exist: --data-dir names the folder of the raw files ($fetch)"
    [ -f "$base" ] || die "$base does not exist: --base names the pretrained weights ($fetch)"
    [ -f "$vocab/encoder.json" ] || die "$vocab/encoder.json does not exist: --vocab names its folder ($fetch)"
    [ -z "$model_card" ] || [ -f "$model_card" ] || die "$model_card does not exist; --model-card names a JSON file"
fi
data_dir="$(absolute "$data_dir")" base="$(absolute "$base")" vocab="$(absolute "$vocab")"
model_card="$(absolute "$model_card")"

ensure_environment
export TOKENIZERS_PARALLELISM=false
enter_work_folder "${work:-$ROOT/runs/$dataset-${embedded:+embedded-}$size-$recipe}"

# --- the steps ------------------------------------------------------------------------------------------------------
make_toy_data() {
    if [ "$dataset" != e2e ]; then
        run "$ROOT/scripts/quickstart/triples.py" toy "$dataset" "$@"
        return
    fi
    run "$ROOT/scripts/quickstart/corpus.py" toy
    rm -rf toy/raw
    mv toy/e2e toy/raw
    [ -z "$smallest" ] || shorten 160 toy/raw/train.txt 40 toy/raw/valid.txt 90 toy/raw/test.txt \
        1000 toy/general/train.txt 80 toy/general/valid.txt
}

shorten() { # LINES FILE pairs: keeps the first lines
    while [ $# -gt 0 ]; do
        head -n "$1" "$2" > "$2.part"
        mv "$2.part" "$2"
        shift 2
    done
}

make_toy_vocab() {
    run "$ROOT/scripts/quickstart/vocabulary.py" vocab toy/general/train.txt --vocab_size 1024
    vocab_size="$("$PYTHON" -c 'import json; print(len(json.load(open("vocab/encoder.json"))))')"
    printf '{"vocab_size": %d, "n_positions": 256, "n_embd": 128, "n_layer": 4, "n_head": 4}\n' "$vocab_size" > model.json
}

encode() { # data set, raw folder, output folder
    printf 'bash examples/NLG/create_datasets.sh --data %s --out %s --vocab %s %s\n' "$2" "$3" "$vocab" "$1" >> commands.txt
    attended bash "$NLG/create_datasets.sh" --data "$2" --out "$3" --vocab "$vocab" "$1" > "$3.log"
}

encode_all() {
    local split
    encode "$folder" "$data_dir" tokens
    for split in train valid test; do
        [ -s "tokens/$split.jsonl" ] || die "$(grep "^skipped $folder $split" tokens.log)"
    done
}

train() { # folder, then flags of gpt2_ft.py
    local to="$1" resume=()
    shift
    [ ! -d "$to" ] || resume=(--resume) # a kill may come before the first state
    mkdir -p "$to"
    train_gpt2 "$to" "$to/train.log" --eval_interval 1000000 --save_interval 1000 "$@" ${resume[@]+"${resume[@]}"}
}

train_base() {
    encode e2e toy/general toy/general
    train base --train_data toy/general/train.jsonl --valid_data toy/general/valid.jsonl --random_seed 110 \
        --model_card "$model_card" "$@"
    ln -sf "$(basename "$(last base)")" base/model.pt
}

search() { # run folder, last or best, then flags of gpt2_beam.py
    local from="$1" which="$2" file
    shift 2
    file="$from/model.best.pt"
    [ "$which" = best ] || file="$(last "$from")"
    search_gpt2 "$from/$which" "$file" --data tokens/test.jsonl --base_checkpoint "$base" "$@"
}

score() { # folder with predictions.jsonl, then flags of gpt2_decode.py
    local at="$1" flags=()
    shift
    texts_gpt2 "$at" tokens/test_formatted.jsonl "$@"
    if [ "$dataset" = e2e ]; then
        score_e2e "$at"
        return
    fi
    [ "$dataset" = dart ] || flags=(--groups tokens/test_formatted.jsonl) # all, seen and unseen from one decoding
    run "$NLG/eval/GenerationEval/eval.py" -R "$at/references/reference" -H "$at/hypotheses.txt" -nr "$ref_num" \
        -m bleu,meteor,ter ${flags[@]+"${flags[@]}"} --json "$at/scores.json" > "$at/scores.txt"
}

if [ -n "$embedded" ]; then
    step toy_data "" toy make_toy_data ${toy_counts[@]+"${toy_counts[@]}"} >&2
    step toy_vocabulary toy_data "vocab model.json" make_toy_vocab >&2
    data_dir="toy/raw" vocab="vocab" model_card="model.json" base="base/model.pt"
    eos="$("$PYTHON" -c 'import json; print(json.load(open("vocab/encoder.json"))["<|endoftext|>"])')"
    step data "toy_data toy_vocabulary" tokens encode_all
    step base toy_vocabulary base train_base "${base_flags[@]}"
else
    model_card="${model_card:-gpt2.$size}"
    SINCE="$(digest "$data_dir" "$vocab/encoder.json" "$vocab/vocab.bpe")" step data "" tokens encode_all
fi
beam_flags+=(--eos_token_id "$eos")
decode_flags+=(--eos_token_id "$eos")
card=""
[ ! -f "$model_card" ] || card="$(cksum < "$model_card")"
SINCE="$card $(digest tokens) $(cksum < "$base")" # equal files keep a training, wherever they lie

scored=""
for seed in $seeds; do
    step "train.$seed" "" "seed$seed" train "seed$seed" --train_data tokens/train.jsonl \
        --valid_data tokens/valid.jsonl --model_card "$model_card" --init_checkpoint "$base" --lora_only_checkpoints \
        --random_seed "$seed" "${train_flags[@]}" ${ft_flags[@]+"${ft_flags[@]}"}
    for which in $checkpoints; do
        step "decode.$seed.$which" "train.$seed" "seed$seed/$which" search "seed$seed" "$which" "${beam_flags[@]}"
        step "score.$seed.$which" "decode.$seed.$which" "seed$seed/$which/scores.json" score "seed$seed/$which" \
            "${decode_flags[@]}"
        scored+=" score.$seed.$which"
    done
done
runs=()
for seed in $seeds; do runs+=("seed$seed"); done
step table "$scored" "results.md results.json" run "$NLG/src/results_table.py" "$dataset" ${runs[@]+"${runs[@]}"} --size "$size" \
    --recipe "$recipe" --checkpoint $checkpoints --output results ${embedded:+--toy} > /dev/null
cat results.md
say "results: $work/results.md"
exit
}
