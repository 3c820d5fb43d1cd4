# What the study_*.sh scripts have in common: their options, the table of recipes, and the end of a study. Source it after
# lib.sh and steps.sh.

STUDIES="$ROOT/scripts/studies"

# study_options STUDY "SEEDS" "SIZES" WORDS...: sets data_dir base seeds size recipes work embedded smallest steps rows, vocab
# (swift), course (cs224n), judge judge_url (cs7643), and the words behind -- as ft_flags. Without --data-dir and --base everything
# is embedded. The first of SIZES is the default. STUDY is a study, or swift-form: the same script, recipes of examples/CLM.
study_options() {
    local study="$1" script="study_${1%-form}.sh" sizes="$3" all name
    seeds="$2" size="${3%% *}" data_dir="" base="" recipes="" work="" embedded="" smallest="" steps="" rows="" vocab="$NLG/vocab"
    course="" judge="" judge_url="" ft_flags=()
    shift 3
    while [ $# -gt 0 ]; do
        case "$1" in
            --embedded) embedded=yes; shift; continue ;;
            --smallest) embedded=yes smallest=yes; shift; continue ;;
            --course-prompts) belongs "$1" cs224n; course=-course; shift; continue ;;
            --) shift; ft_flags=("$@"); break ;;
            --data-dir | --base | --seeds | --size | --recipes | --work-dir) ;;
            --vocab) belongs "$1" swift ;;
            --steps | --rows) belongs "$1" "swift-form cs224n cs7643" ;;
            --judge | --judge-url) belongs "$1" cs7643 ;;
            *) die "unknown option $1 (bash scripts/$script --help lists them)" ;;
        esac
        [ $# -ge 2 ] || die "$1 needs a value"
        case "$1" in
            --data-dir) data_dir="$2" ;;
            --base) base="$2" ;;
            --seeds) seeds="$2" ;;
            --size) size="$2" ;;
            --recipes) recipes="$2" ;;
            --vocab) vocab="$2" ;;
            --work-dir) work="$2" ;;
            --steps) steps="$2" ;;
            --rows) rows="$2" ;;
            --judge) judge="$2" ;;
            --judge-url) judge_url="$2" ;;
        esac
        shift 2
    done
    [ -n "$data_dir$base" ] || embedded=yes
    [ -z "$embedded" ] || [ -z "$data_dir$base" ] || die "--embedded makes its own data and base; leave --data-dir and --base out"
    [ -n "$embedded" ] || { [ -n "$data_dir" ] && [ -n "$base" ]; } || die "--data-dir and --base go together; without both: --embedded"
    [ -z "$judge$judge_url" ] || { [ -n "$judge" ] && [ -n "$judge_url" ]; } || die "--judge and --judge-url go together"
    for name in $steps $rows; do
        case "$name" in *[!0-9]* | 0*) die "--steps and --rows take whole numbers from 1, got $name" ;; esac
    done
    check_seeds "$seeds"
    one_of --size "$size" "$sizes"
    all="$(awk -F '\t' -v study="$study" -v size="$size" '$1 == study && $3 ~ size { printf "%s ", $2 }' "$STUDIES/recipes.tsv")"
    recipes="${recipes:-$all}"
    for name in $recipes; do one_of --recipes "$name" "$all"; done
    local trial="$steps$rows" # in a folder of its own: other settings make finished runs anew
    work="${work:-$ROOT/runs/study-$study-$size$course${trial:+-trial}${embedded:+-embedded}}"
}

belongs() { # OPTION "STUDIES": ends the script unless the option is for the study of the caller
    case " $2 " in *" $study "*) ;; *) die "$1 is no option here (bash scripts/$script --help lists them)" ;; esac
}

recipe() { # STUDY RECIPE COLUMN: a cell of recipes.tsv
    awk -F '\t' -v study="$1" -v recipe="$2" -v column="$3" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; if (!(column in at)) exit 1 }
        $1 == study && $2 == recipe { if ($at[column] != "-") print $at[column]; found = 1 }
        END { exit !found }' "$STUDIES/recipes.tsv" || die "recipes.tsv has no $3 for $1, $2"
}

study_tables() { # STUDY RUN...: results.md, results.json and report.html of the work folder, from the runs
    local study="${1%-form}" apart="" options=""
    [ "$1" = "$study" ] || options="--study-form"
    [ -z "$course" ] || options="--course-prompts"
    [ -z "$rows" ] || apart="$rows rows of each set that validates or tests"
    [ -z "$steps" ] || apart="$steps steps${apart:+, $apart}"
    [ -z "$embedded" ] || apart="generated data and a toy base${apart:+, $apart}"
    shift
    SINCE="${SINCE:-} $(digest "$STUDIES"/*.py "$STUDIES/published.json")" step table "$scored" "results.md results.json report.html" \
        run "$STUDIES/tables.py" "$study" "$@" --size "$size" --output . "--options=$options" "--apart=$apart" > /dev/null
    cat results.md
    say "results: $work/results.md, $work/report.html"
}

# --- the runs of examples/CLM: study_cs224n.sh, study_cs7643.sh, and study_swift.sh --study-form ---------------------
CLM="$ROOT/examples/CLM"

# clm_study STUDY "SEEDS" "SIZES" WORDS...: options as above, every recipe with every seed, then the tables.
clm_study() {
    local name seed
    study_options "$@"
    [ -n "$embedded" ] || [ -d "$data_dir" ] || die "$data_dir does not exist: --data-dir names the folder of the raw files"
    data_dir="$(absolute "$data_dir")"
    [ ! -d "$base" ] || base="$(absolute "$base")"
    ensure_environment
    export TOKENIZERS_PARALLELISM=false
    enter_work_folder "$work"
    scored="" runs=()
    clm_data "$1"
    for name in $recipes; do
        for seed in $seeds; do
            clm_adapt "$1" "$name" "$seed"
            runs+=("$name/seed$seed")
        done
    done
    study_tables "$1" ${runs[@]+"${runs[@]}"}
}

# clm_data STUDY: the steps up to JSON lines and the base; sets toy_train and toy_generate.
clm_data() {
    local name tasks="" scale=1 base_steps=300
    for name in $recipes; do tasks+=" $(clm_task "$1" "$name")"; done
    toy_train=() toy_generate=()
    if [ -n "$embedded" ]; then
        toy_train=(--max_steps 60 --learning_rate 3e-3 --max_seq_length 256) toy_generate=(--max_new_tokens 48)
        [ -z "$smallest" ] || { scale=0.25 base_steps=4 toy_train+=(--max_steps 3) toy_generate+=(--max_new_tokens 8); }
        step toy "" toy run "$STUDIES/toy.py" toy --scale "$scale" >&2
        step base toy base clm_train base toy/base 1 --task lm --method full --train_file toy/base.jsonl \
            --learning_rate 3e-3 --per_device_train_batch_size 16 --max_seq_length 256 --max_steps "$base_steps"
        data_dir=toy/raw base=base
    fi
    [ -z "$steps" ] || toy_train+=(--max_steps "$steps")
    [ -z "$steps$embedded" ] || toy_train+=(--warmup_steps 0.1) # 500 steps would be longer than the run
    SINCE="$(digest "$data_dir" "$STUDIES/data.py")" step data "" data run "$STUDIES/data.py" "$data_dir" data $tasks \
        ${rows:+--rows "$rows"} >&2
    SINCE="$(digest data)"
    [ ! -d "$base" ] || SINCE+=" $(digest "$base")"
}

# clm_train FOLDER BASE SEED FLAGS of run_clm.py...: goes on where it was stopped
clm_train() {
    local to="$1" from="$2" seed="$3"
    shift 3
    mkdir -p "$(dirname "$to")"
    say "run_clm.py: $to"
    run "$CLM/run_clm.py" --model_name_or_path "$from" --output_dir "$to" --seed "$seed" --do_train --logging_steps 10 \
        --disable_tqdm true "$@" > "$to.log"
}

clm_task() { # STUDY RECIPE: its task; with --course-prompts that of the course's two prompts
    local task
    task="$(recipe "$1" "$2" task)"
    [ "$task" != quora ] || task+="$course"
    printf '%s\n' "$task"
}

# clm_adapt STUDY RECIPE SEED: the steps of one run, by its task
clm_adapt() {
    local study="$1" name="$2" seed="$3" to="$2/seed$3" task flags=() data tested
    task="$(clm_task "$study" "$name")"
    data="data/$task" tested="data/$task/test.jsonl"
    [ "$task" != quora ] || tested="$data/valid.jsonl"
    flags=($(recipe "$study" "$name" train) --do_eval --train_file "$data/train.jsonl"
        ${toy_train[@]+"${toy_train[@]}"} ${ft_flags[@]+"${ft_flags[@]}"})
    case "$task" in
        sst | cfimdb) flags+=(--task cls --validation_file "$data/valid.jsonl" --do_predict --test_file "$tested") ;;
        quora*) # the blank belongs to the prompt; the rows that validate are labelled too, as no test set is public
            flags+=(--task cloze --template "{text} " --validation_file "$data/valid.jsonl" --do_predict
                --test_file "$tested") ;;
        sms | imdb | sst2) flags+=(--task cls --validation_file "$data/test.jsonl") ;;
        sonnets*) flags+=(--task lm --validation_file "$data/valid.jsonl") ;;
        alpaca) flags+=(--task sft --validation_file "$data/valid.jsonl") ;;
        e2e) flags+=(--task sft --separator "" --validation_file "$data/valid.jsonl") ;;
    esac
    step "train.$name.$seed" "" "$to" clm_train "$to" "$base" "$seed" ${flags[@]+"${flags[@]}"}
    scored+=" train.$name.$seed"
    case "$task" in
        sst | cfimdb | quora*)
            step "label.$name.$seed" "train.$name.$seed" "$to/predictions.csv" run "$STUDIES/course_files.py" \
                "$(case "$task" in quora*) echo paraphrases ;; *) echo sentiments ;; esac)" "$to/test_results.txt" "$tested" \
                "$to/predictions.csv"
            [ "$task" != quora-course ] || {
                step "score.$name.$seed" "train.$name.$seed" "$to/labels.json" clm_score "$to" "$task" "$tested"
                scored+=" score.$name.$seed"
            } ;;
        sonnets* | alpaca | e2e)
            step "write.$name.$seed" "train.$name.$seed" "$to/generated.jsonl" clm_generate "$to" "$data/test.jsonl" \
                --seed "$seed" $(recipe "$study" "$name" generate) ${toy_generate[@]+"${toy_generate[@]}"}
            step "score.$name.$seed" "write.$name.$seed" "$to/texts.json" clm_score "$to" "$task" "$data/test.jsonl"
            scored+=" score.$name.$seed"
            [ -z "$judge" ] || {
                step "judge.$name.$seed" "write.$name.$seed" "$to/answers.jsonl $to/judge.json" clm_judge "$to" \
                    --url "$judge_url" --judge "$judge"
                scored+=" judge.$name.$seed"
            } ;;
    esac
}

clm_generate() { # FOLDER PROMPTS FLAGS of generate.py...
    local to="$1" prompts="$2" which=--model
    shift 2
    [ ! -f "$to/adapter_config.json" ] || which=--adapter
    run "$CLM/generate.py" "$which" "$to" --input "$prompts" --output "$to/generated.jsonl" "$@"
}

clm_score() { # FOLDER TASK TESTS: the figures of texts or labels; of sonnets the whole text counts, with the lines given
    local texts="$1/generated.jsonl"
    case "$2" in
        e2e)
            run "$CLM/score.py" e2e --python --hypotheses "$texts" --references "${3%/*}/references.txt" \
                --json "$1/texts.json" > "$1/texts.txt"
            return ;;
        quora*)
            run "$CLM/score.py" labels --predictions "$1/test_results.txt" --references "$3" --json "$1/labels.json" > /dev/null
            return ;;
        sonnets*)
            texts="$1/whole.jsonl"
            run "$STUDIES/course_files.py" sonnets "$1/generated.jsonl" "$texts" "$1/generated_sonnets.txt" ;;
    esac
    run "$CLM/score.py" texts --hypotheses "$texts" --references "$3" --json "$1/texts.json" > "$1/texts.txt"
}

clm_judge() { # FOLDER FLAGS of judge.py...: answers that are there are not asked for again
    local to="$1"
    shift
    run "$CLM/judge.py" --input "$to/generated.jsonl" --answers "$to/answers.jsonl" --json "$to/judge.json" "$@" >&2
}
