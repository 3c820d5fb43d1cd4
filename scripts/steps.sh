# The steps of the scripts beside it: source it after lib.sh. `step` runs a command once: when it has ended it leaves
# steps/NAME.done and is kept from then on, until its words, SINCE or a step before it change; then its outputs are deleted
# and made again. A step that was cut off finds what it left behind, so that a program with a resume of its own continues.

# enter_work_folder DIR: makes it, goes there, and keeps other runs out until this one ends. Sets work.
enter_work_folder() {
    mkdir -p "$1" 2>/dev/null || die "cannot create $1"
    cd "$1"
    [ -z "$(ls -A)" ] || [ -e steps.log ] || die "$1 holds other files; give an empty or a new folder with --work-dir"
    work="$PWD"
    touch steps.log
    mkdir .running 2>/dev/null || {
        ! kill -0 "$(cat .running/pid 2>/dev/null)" 2>/dev/null || die "$work is in use by process $(cat .running/pid)"
    }
    printf '%s\n' $$ > .running/pid
    trap 'rm -rf "$work/.running"' EXIT
}

# step NAME "EARLIER STEPS" "OUTPUTS" COMMAND...: COMMAND may be a function. SINCE, if set, is the digest of files it reads.
step() {
    local name="$1" earlier="$2" outputs="$3" key before
    shift 3
    mkdir -p steps
    key="$(
        printf '%q ' "$@"
        printf '%s\n' "${SINCE:-}"
        for before in $earlier; do cksum < "steps/$before.done"; done
    )"
    if [ "$(cat "steps/$name.done" 2>/dev/null)" = "$key" ] && all_exist $outputs; then
        note "kept $name"
        return
    fi
    if [ "$(cat "steps/$name.begun" 2>/dev/null)" != "$key" ]; then
        rm -rf "steps/$name.done" $outputs
        printf '%s\n' "$key" > "steps/$name.begun.new"
        mv "steps/$name.begun.new" "steps/$name.begun"
    fi
    note "began $name"
    "$@"
    all_exist $outputs || die "step $name left no $outputs"
    mv "steps/$name.begun" "steps/$name.done"
    note "ended $name"
}

shorten() { # LINES FILE pairs: keeps the first lines
    while [ $# -gt 0 ]; do
        head -n "$1" "$2" > "$2.part"
        mv "$2.part" "$2"
        shift 2
    done
}

digest() { # of files, and of all files in folders
    find -L "$@" -type f -exec cksum {} + | sort | cksum
}

all_exist() {
    local path
    for path in "$@"; do [ -e "$path" ] || return 1; done
}

note() { # what happened when, on the terminal and in steps.log
    say "$*"
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >> steps.log
}

absolute() { [ -z "$1" ] || printf '%s/%s' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")"; }

run() { # PROGRAM ARGUMENTS...: runs a program of the project in the work folder and notes the command
    { printf 'python'; printf ' %q' "${@/#"$ROOT/"/}"; printf '\n'; } >> commands.txt
    attended "$PYTHON" "$@"
}

# --- GPT-2: what quickstart.sh and reproduce.sh have in common -------------------------------------------------------
last() { ls "$1"/model.[0-9]*.pt | sort -V | tail -n 1; } # the checkpoint of the last step

# Off a terminal, where programs show no bar: from the lines of a training on stdin, how far it is, on stderr.
show_progress() { # NAME
    local line rate=""
    [ ! -t 2 ] || { cat > /dev/null; return; }
    while IFS= read -r line; do # not awk, which may wait for more than a line
        case "$line" in
            *"ms/batch "*) rate="${line##*ms/batch}" rate="${rate%%|*}" ;;
            "  step "*" of "*) printf '%s: %s,%sms a batch, %s\n' "$1" "$(echo ${line%%,*})" "$rate" "${line##*, }" >&2 ;;
        esac
    done
}

train_gpt2() { # FOLDER LOG FLAGS of gpt2_ft.py...
    local folder="$1" log="$2"
    shift 2
    # Ctrl-C and TERM are for the trainer, which then saves its state and says so: who reads it must live until its end
    run "$NLG/src/gpt2_ft.py" --platform local --eval_each_epoch --work_dir "$folder" "$@" \
        > >(trap '' INT TERM; tee -a "$log" | show_progress "$folder")
}

search_gpt2() { # FOLDER CHECKPOINT FLAGS of gpt2_beam.py...: FOLDER/predictions.jsonl
    local folder="$1" checkpoint="$2"
    shift 2
    mkdir -p "$folder"
    say "beam search: $folder"
    run "$NLG/src/gpt2_beam.py" --platform local --batch_size 16 --model_card "$model_card" --init_checkpoint "$checkpoint" \
        --work_dir "$folder" --output_file predictions.jsonl "$@" > "$folder/beam.log"
}

texts_gpt2() { # FOLDER EXAMPLES FLAGS of gpt2_decode.py...: FOLDER/references, FOLDER/hypotheses.txt
    local folder="$1" examples="$2"
    shift 2
    run "$NLG/src/gpt2_decode.py" --vocab "$vocab" --sample_file "$folder/predictions.jsonl" --input_file "$examples" \
        --output_ref_file "$folder/references" --output_pred_file "$folder/hypotheses.txt" "$@" > "$folder/decode.log"
}

score_e2e() { # FOLDER
    run "$NLG/eval/e2e/measure_scores.py" "$1/references" "$1/hypotheses.txt" -p --json "$1/scores.json" > "$1/scores.txt"
}
