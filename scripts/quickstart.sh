#!/usr/bin/env bash
# LoRA from raw text to official scores, offline, on a CPU: makes data, trains a toy base GPT-2, adapts it with LoRA and by
# full fine-tuning, decodes the test set by beam search, scores it with the five E2E metrics, and writes report.html.
# Every step is a program of examples/NLG, run as a user would; the commands are listed in commands.txt and in the report.
#
#   bash scripts/quickstart.sh                        embedded data, about 5 minutes on 2 cores once packages are installed
#   bash scripts/quickstart.sh --smallest             the same with less data and a few steps, too short to learn
#   bash scripts/quickstart.sh --data-dir DIR         real E2E files: DIR/{train,valid,test}.txt (slots||reference); toy base,
#                                                     about 24,000 steps instead of 1,800
#   bash scripts/quickstart.sh --data-dir DIR --base FILE [--model-card gpt2.md] [--vocab DIR]
#                                                     real GPT-2 weights with the paper's settings (a GPU is advised)
#   bash scripts/quickstart.sh --real --data-dir DIR [--models DIR]
#                                                     real weights, SmolLM2-135M: 60 steps of LoRA on E2E's official CSV files,
#                                                     against none, 30 test inputs. Where DIR of
#                                                     --models (default: models) has no smollm2, get_small_models.sh fetches it
#   --work-dir DIR    where everything is written (default: runs/quickstart in the checkout, with --real runs/quickstart-real)
# The variable PYTHON names an interpreter with everything installed; without it the environment is made as elsewhere.
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/lib.sh"
source "$here/steps.sh"

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

work="" data_dir="" base="" model_card="gpt2.sm" vocab="$NLG/vocab" smallest="" real="" models="$ROOT/models"
while [ $# -gt 0 ]; do
    case "$1" in
        --smallest) smallest=yes; shift; continue ;;
        --real) real=yes; shift; continue ;;
        --help | -h) usage; exit 0 ;;
        --work-dir | --data-dir | --base | --model-card | --vocab | --models)
            [ $# -ge 2 ] || die "$1 needs a value" ;;
        *) die "unknown option $1 (bash scripts/quickstart.sh --help lists them)" ;;
    esac
    case "$1" in
        --work-dir) work="$2" ;;
        --data-dir) data_dir="$2" ;;
        --base) base="$2" ;;
        --model-card) model_card="$2" ;;
        --vocab) vocab="$2" ;;
        --models) models="$2" ;;
    esac
    shift 2
done
work="${work:-$ROOT/runs/quickstart${real:+-real}}"
if [ -n "$real" ]; then
    source "$here/quickstart/real.sh"
    exit
fi

# --- settings: one block for the toy base, one for real weights (Hu et al. 2021, Table 11) ---------------------------
if [ -z "$base" ]; then
    seq_len=256 threads=2
    pretrain=(--train_batch_size 16 --lr 3e-3 --warmup_step 100 --max_step 2000 --adam_beta2 0.98 --clip 1.0
        --eval_interval 250 --log_interval 50)
    tune=(--warmup_step 50 --max_epoch 3 --label_smooth 0.1 --adam_beta2 0.999 --eval_interval 100 --log_interval 25)
    lora_tune=(--train_batch_size 8 --lr 8e-3) full_tune=(--train_batch_size 16 --lr 1e-3)
    search=(--eval_len 80 --beam 10 --length_penalty 1.0 --no_repeat_ngram_size 4)
else
    seq_len=512 threads="" pretrain=()
    tune=(--warmup_step 500 --max_epoch 5 --label_smooth 0.1 --adam_beta2 0.999 --eval_interval 1000 --log_interval 100)
    lora_tune=(--train_batch_size 8 --lr 2e-4 --lora_dropout 0.1) full_tune=(--train_batch_size 8 --lr 5e-5)
    search=(--eval_len 64 --beam 10 --length_penalty 0.9 --no_repeat_ngram_size 4)
fi
lora=(--lora_dim 4 --lora_alpha 32)
if [ -n "$smallest" ]; then
    seq_len=128
    pretrain+=(--train_batch_size 8 --max_step 20)
    tune+=(--max_step 12)
    search+=(--eval_len 20 --beam 2)
fi

for file in "$base" ${data_dir:+"$data_dir/train.txt" "$data_dir/valid.txt" "$data_dir/test.txt"}; do
    [ -z "$file" ] || [ -f "$file" ] || die "$file does not exist"
done
[ -z "$base" ] || [ -d "$vocab" ] || die "$vocab does not exist; --vocab names the folder with encoder.json and vocab.bpe"

ensure_environment
# the same number of threads gives the same rounding, hence the same numbers, on every run
[ -z "$threads" ] || export OMP_NUM_THREADS="$threads" MKL_NUM_THREADS="$threads"
export TOKENIZERS_PARALLELISM=false

mkdir -p "$work" 2>/dev/null || die "cannot create $work"
work="$(cd "$work" && pwd)"
if [ -n "$(ls -A "$work")" ] && [ ! -e "$work/commands.txt" ]; then
    die "$work holds other files; give an empty or a new folder with --work-dir"
fi
rm -rf "$work"/{data,base,untuned,lora,full,vocab,model.json} "$work"/{base,lora,full}.log
: > "$work/commands.txt"
base="$(absolute "$base")" data_dir="$(absolute "$data_dir")" vocab="$(absolute "$vocab")"
[ ! -f "$model_card" ] || model_card="$(absolute "$model_card")"
cd "$work"

# --- the steps ------------------------------------------------------------------------------------------------------
say "1/6 data"
if [ -z "$data_dir" ] || [ -z "$base" ]; then
    run "$ROOT/scripts/quickstart/corpus.py" data >&2
    [ -z "$smallest" ] || shorten 400 data/e2e/train.txt 60 data/e2e/valid.txt 90 data/e2e/test.txt \
        3000 data/general/train.txt 60 data/general/valid.txt
fi
data_dir="${data_dir:-data/e2e}"
if [ -z "$base" ]; then
    vocab=vocab model_card=model.json
    run "$ROOT/scripts/quickstart/vocabulary.py" vocab data/general/train.txt --vocab_size 1024 >&2
fi
end_of_text="$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["<|endoftext|>"])' "$vocab/encoder.json")"
if [ -z "$base" ]; then # <|endoftext|> is the last id
    printf '{"vocab_size": %d, "n_positions": 256, "n_embd": 128, "n_layer": 4, "n_head": 4}\n' $((end_of_text + 1)) > model.json
fi
encode() { # text file -> <name>_formatted.jsonl -> <name>.jsonl
    run "$NLG/src/format_converting_e2e.py" "$1" "$2_formatted.jsonl"
    run "$NLG/src/gpt2_encode.py" --vocab "$vocab" --input "$2_formatted.jsonl" --output "$2.jsonl" --add_bos --add_eos
}
mkdir -p data/tokens
for split in train valid test; do
    encode "$data_dir/$split.txt" "data/tokens/$split"
done

train() { # folder, then flags of gpt2_ft.py
    local folder="$1"
    shift
    train_gpt2 "$folder" "$folder.log" --random_seed 110 --seq_len "$seq_len" --model_card "$model_card" --correct_bias \
        --weight_decay 0.01 --scheduler linear --valid_batch_size 60 --save_interval 1000000 "$@"
}
if [ -z "$base" ]; then
    say "2/6 toy base GPT-2 on the general corpus"
    for split in train valid; do
        encode "data/general/$split.txt" "data/tokens/general_$split"
    done
    train base --train_data data/tokens/general_train.jsonl --valid_data data/tokens/general_valid.jsonl \
        ${pretrain[@]+"${pretrain[@]}"}
    base="$(last base)"
else
    say "2/6 base weights: $base"
fi
e2e=(--train_data data/tokens/train.jsonl --valid_data data/tokens/valid.jsonl --init_checkpoint "$base" "${tune[@]}")
say "3/6 LoRA"
train lora "${e2e[@]}" "${lora[@]}" "${lora_tune[@]}" --lora_only_checkpoints
say "4/6 full fine-tuning"
train full "${e2e[@]}" "${full_tune[@]}"

say "5/6 decoding and scores"
decode_and_score() { # folder, checkpoint
    search_gpt2 "$1" "$2" --data data/tokens/test.jsonl --seq_len "$seq_len" "${search[@]}" --eos_token_id "$end_of_text"
    texts_gpt2 "$1" data/tokens/test_formatted.jsonl --eos_token_id "$end_of_text"
    score_e2e "$1"
}
decode_and_score untuned "$base"
decode_and_score lora "$(last lora)"
decode_and_score full "$(last full)"

say "6/6 report"
run "$ROOT/scripts/quickstart/report.py" . --test_data data/tokens/test_formatted.jsonl
