# GPT-2 of examples/NLG from raw files to scores: what reproduce.sh and study_swift.sh have in common. Source it after lib.sh
# and steps.sh. It reads and sets the scripts' variables: dataset size data_dir base vocab model_card embedded smallest
# checkpoints, and the flags train_flags beam_flags decode_flags ft_flags.

# gpt2_files: where the files of a run lie; ends the script where one is missing.
gpt2_files() {
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
}

# toy_flags: what a toy on a CPU needs, in toy_train, toy_beam, base_flags and toy_counts; later flags replace earlier ones.
toy_flags() {
    toy_train=() toy_beam=() base_flags=() toy_counts=()
    [ -n "$embedded" ] || return 0
    [ -z "$data_dir$base$model_card" ] || die "--embedded makes its own data and base; leave --data-dir, --base, --model-card out"
    local toy=(--seq_len 192 --valid_batch_size 16)
    toy_train=("${toy[@]}" --lr 1e-2 --warmup_step 50)
    toy_beam=(--seq_len 192 --beam 5)
    base_flags=("${toy[@]}" --train_batch_size 16 --lr 2.5e-3 --warmup_step 100 --clip 1.0 --max_step 2000)
    if [ -n "$smallest" ]; then
        toy_train+=(--max_step 24 --warmup_step 4)
        toy_beam+=(--beam 2 --eval_len 24)
        base_flags+=(--train_batch_size 8 --max_step 12 --warmup_step 4)
        toy_counts=(--entries 60 12 24 --general 1000 80)
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" MKL_NUM_THREADS="${OMP_NUM_THREADS:-2}"
}

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

# gpt2_data: the steps up to token ids and base weights; sets eos, the id of the end of a text, and SINCE.
gpt2_data() {
    if [ -n "$embedded" ]; then
        step toy_data "" toy make_toy_data ${toy_counts[@]+"${toy_counts[@]}"} >&2
        step toy_vocabulary toy_data "vocab model.json" make_toy_vocab >&2
        data_dir="toy/raw" vocab="vocab" model_card="model.json" base="base/model.pt"
        eos="$("$PYTHON" -c 'import json; print(json.load(open("vocab/encoder.json"))["<|endoftext|>"])')"
        step data "toy_data toy_vocabulary" tokens encode_all
        step base toy_vocabulary base train_base ${base_flags[@]+"${base_flags[@]}"}
    else
        model_card="${model_card:-gpt2.$size}"
        SINCE="$(digest "$data_dir" "$vocab/encoder.json" "$vocab/vocab.bpe")" step data "" tokens encode_all
    fi
    local card=""
    [ ! -f "$model_card" ] || card="$(cksum < "$model_card")"
    SINCE="$card $(digest tokens) $(cksum < "$base")" # equal files keep a training, wherever they lie
}

# adapt NAME FOLDER SEED: the steps train.NAME, and for each of checkpoints decode.NAME.* and score.NAME.*, added to scored.
adapt() {
    local name="$1" to="$2" seed="$3" which
    step "train.$name" "" "$to" train "$to" --train_data tokens/train.jsonl \
        --valid_data tokens/valid.jsonl --model_card "$model_card" --init_checkpoint "$base" --lora_only_checkpoints \
        --random_seed "$seed" "${train_flags[@]}" ${ft_flags[@]+"${ft_flags[@]}"}
    for which in $checkpoints; do
        step "decode.$name.$which" "train.$name" "$to/$which" search "$to" "$which" "${beam_flags[@]}" --eos_token_id "$eos"
        step "score.$name.$which" "decode.$name.$which" "$to/$which/scores.json" score "$to/$which" \
            "${decode_flags[@]}" --eos_token_id "$eos"
        scored+=" score.$name.$which"
    done
}
