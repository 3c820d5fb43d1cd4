# What the study_*.sh scripts have in common: their options, the table of recipes, and the end of a study. Source it after
# lib.sh and steps.sh.

STUDIES="$ROOT/scripts/studies"

# study_options STUDY "SEEDS" WORDS...: sets data_dir base seeds recipes work embedded smallest, vocab (swift), and the words
# behind -- as ft_flags. Without --data-dir and --base everything is embedded.
study_options() {
    local study="$1"
    seeds="$2" data_dir="" base="" recipes="" work="" embedded="" smallest="" vocab="$NLG/vocab" ft_flags=()
    shift 2
    while [ $# -gt 0 ]; do
        case "$1" in
            --embedded) embedded=yes; shift; continue ;;
            --smallest) embedded=yes smallest=yes; shift; continue ;;
            --) shift; ft_flags=("$@"); break ;;
            --data-dir | --base | --seeds | --recipes | --vocab | --work-dir) [ $# -ge 2 ] || die "$1 needs a value" ;;
            *) die "unknown option $1 (bash scripts/study_$study.sh --help lists them)" ;;
        esac
        case "$1" in
            --data-dir) data_dir="$2" ;;
            --base) base="$2" ;;
            --seeds) seeds="$2" ;;
            --recipes) recipes="$2" ;;
            --vocab) vocab="$2" ;;
            --work-dir) work="$2" ;;
        esac
        shift 2
    done
    [ -n "$data_dir$base" ] || embedded=yes
    [ -z "$embedded" ] || [ -z "$data_dir$base" ] || die "--embedded makes its own data and base; leave --data-dir and --base out"
    [ -n "$embedded" ] || { [ -n "$data_dir" ] && [ -n "$base" ]; } || die "--data-dir and --base go together; without both: --embedded"
    check_seeds "$seeds"
    local all name
    all="$(awk -F '\t' -v study="$study" '$1 == study { printf "%s ", $2 }' "$STUDIES/recipes.tsv")"
    recipes="${recipes:-$all}"
    for name in $recipes; do one_of --recipes "$name" "$all"; done
    work="${work:-$ROOT/runs/study-$study${embedded:+-embedded}}"
}

recipe() { # STUDY RECIPE COLUMN: a cell of recipes.tsv
    awk -F '\t' -v study="$1" -v recipe="$2" -v column="$3" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; if (!(column in at)) exit 1 }
        $1 == study && $2 == recipe { if ($at[column] != "-") print $at[column]; found = 1 }
        END { exit !found }' "$STUDIES/recipes.tsv" || die "recipes.tsv has no $3 for $1, $2"
}

study_tables() { # STUDY RUN...: results.md, results.json and report.html of the work folder, from the runs
    local study="$1"
    shift
    SINCE="${SINCE:-} $(digest "$STUDIES")" step table "$scored" "results.md results.json report.html" \
        run "$STUDIES/tables.py" "$study" "$@" --output . ${embedded:+--toy} > /dev/null
    cat results.md
    say "results: $work/results.md, $work/report.html"
}
