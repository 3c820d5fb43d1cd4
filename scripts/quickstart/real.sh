# quickstart.sh --real, which sources it: SmolLM2-135M on E2E, with LoRA and without. Steps that have ended are kept.

CLM="$ROOT/examples/CLM"
steps=60 batch=8 inputs=30
train=(--method lora --lora_r 8 --learning_rate 2e-3 --warmup_steps 0.1 --lr_scheduler_type linear --eval_steps 20)
new_tokens=64
if [ -n "$smallest" ]; then # a trial too short to learn
    steps=4 inputs=6 new_tokens=4
fi

[ -z "$base" ] || die "--real has a base of its own; leave --base out"
[ -n "$data_dir" ] || die "--real needs --data-dir with trainset.csv, devset.csv and testset_w_refs.csv (.gz or not) of the E2E \
challenge: github.com/tuetschek/e2e-dataset"
[ -d "$data_dir" ] || die "$data_dir does not exist: --data-dir names the folder of E2E's official CSV files"
ensure_environment
[ -f "$models/smollm2/config.json" ] || bash "$ROOT/scripts/get_small_models.sh" "$models"
data_dir="$(absolute "$data_dir")" models="$(absolute "$models")"
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
enter_work_folder "$work"

real_data() {
    local name
    run "$ROOT/scripts/quickstart/real.py" rows "$data_dir" data --train $((steps * batch)) --test "$inputs" >&2
    for name in train valid test inputs; do
        run "$NLG/src/format_converting_e2e.py" "data/$name.csv" "data/$name.jsonl"
    done
}

real_train() {
    run "$CLM/run_clm.py" --model_name_or_path "$models/smollm2" --output_dir lora --do_train --do_eval --eval_strategy steps \
        --train_file data/train.jsonl --validation_file data/valid.jsonl --max_steps "$steps" --seed 0 --logging_steps 5 \
        --per_device_train_batch_size "$batch" --save_strategy steps --save_steps 20 --save_total_limit 1 --disable_tqdm true \
        "${train[@]}" >&2
}

real_texts() { # FOLDER, FLAGS of generate.py that name the weights
    local folder="$1"
    shift
    mkdir -p "$folder"
    run "$CLM/generate.py" "$@" --input data/inputs.jsonl --output "$folder/generated.jsonl" --max_new_tokens "$new_tokens"
    run "$ROOT/scripts/quickstart/real.py" texts "$folder/generated.jsonl" "$folder/hypotheses.txt"
    run "$NLG/eval/e2e/measure_scores.py" data/test.csv "$folder/hypotheses.txt" --slots data/inputs.csv \
        --json "$folder/scores.json" > "$folder/scores.txt"
}

real_report() {
    run "$ROOT/scripts/quickstart/report.py" . --test_data data/test.jsonl > table.txt
}

SINCE="$(digest "$data_dir"/*.csv*)" step data "" data real_data
SINCE="$(cksum < "$models/smollm2/config.json")"
step untuned data "untuned" real_texts untuned --model "$models/smollm2"
step train data lora real_train
step tuned train lora/scores.json real_texts lora --adapter lora
step report "untuned tuned" "report.html table.txt" real_report
cat table.txt
