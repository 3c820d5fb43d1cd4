#!/usr/bin/env bash
# "Can we make GPT-2 better?" (Stanford CS224N, default project): SST-5 and CFIMDB with a new last layer alone, all weights (two
# settings) and LoRA; Quora question pairs as a cloze; sonnets with early stopping, ranks 16 to 128, scored by chrF. Published
# for GPT-2 small: SST-5 0.504 and CFIMDB 0.967 (full, tuned), Quora 0.898 (full) and 0.855 (LoRA r 16), sonnets chrF 40.459.
# The programs of examples/CLM do the work. docs/studies.md says what differs from the report.
# Stop it and start it again as you like: finished steps are kept, training goes on where it was.
#
#   bash scripts/study_cs224n.sh                generated data and a tiny GPT-2, offline, on a CPU
#   bash scripts/study_cs224n.sh --smallest     the same with a few steps a run, too short to learn anything
#   bash scripts/study_cs224n.sh --data-dir DIR --base gpt2     the study; a GPU is advised
#   --embedded        the first of these
#   --data-dir DIR    as the course names them: ids-sst-train.csv, quora-train.csv, sonnets.txt, … (.gz or not)
#   --base NAME       GPT-2 as from_pretrained opens it: a folder or a name on the hub
#   --size SIZE       GPT-2's size: sm (default) or md, for the recipes and the table
#   --seeds "11711"   of the runs (default)
#   --recipes "NAMES" rows of scripts/studies/recipes.tsv, such as "sst-head quora-r16 sonnets-r64" (default: all of the size)
#   --course-prompts  Quora as in the course: another prompt in training than in the test (default: the test's in both)
#   --steps N         only N steps of training, as a trial
#   --rows N          only N rows that validate and N that test, as a trial
#   --work-dir DIR    where everything is written (default: runs/study-cs224n-SIZE, …-course, …-trial, …-embedded)
#   -- FLAGS          of run_clm.py for every run, such as --bf16 true
set -euo pipefail
{ # read as a whole before it runs: an edit in the hours of a run does not reach it
here="$(dirname "${BASH_SOURCE[0]}")"
source "$here/lib.sh"
source "$here/steps.sh"
source "$here/studies/study_steps.sh"
case " $* " in *" --help "* | *" -h "*) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac

clm_study cs224n "11711" "sm md" "$@"
exit
}
