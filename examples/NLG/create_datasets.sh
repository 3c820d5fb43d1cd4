#!/usr/bin/env bash
# Turns the raw files below data/ into token ids (run it in examples/NLG): <split>_formatted.jsonl, then <split>.jsonl.
#   bash create_datasets.sh              e2e, webnlg_challenge_2017 and dart
#   bash create_datasets.sh e2e dart     only these
# A data set or split whose raw file is absent is left out, and said so. Takes a few seconds.
set -euo pipefail

src="$(dirname "${BASH_SOURCE[0]}")/src"
python="${PYTHON:-python}"
vocab="vocab"
made=0

fail() {
    echo "error: $1" >&2
    exit 2
}

# create DATASET CONVERTER RAW SPLIT
create() {
    local folder="data/$1" raw="data/$1/$3"
    if [[ ! -f "$raw" ]]; then
        echo "skipped $1 $4: $raw is absent"
        return
    fi
    echo "creating $1 $4"
    "$python" "$src/format_converting_$2.py" "$raw" "$folder/$4_formatted.jsonl"
    "$python" "$src/gpt2_encode.py" --vocab "$vocab" --input "$folder/$4_formatted.jsonl" --output "$folder/$4.jsonl" \
        --add_bos --add_eos
    made=$((made + 1))
}

create_dataset() {
    local split
    case "$1" in
        e2e)
            for split in train valid test; do create e2e e2e "$split.txt" "$split"; done
            ;;
        webnlg_challenge_2017)
            for split in train dev test; do create "$1" webnlg "$split.json" "${split/dev/valid}"; done
            ;;
        dart)
            for split in train dev test; do create dart dart "dart-v1.1.1-full-$split.json" "${split/dev/valid}"; done
            ;;
        *)
            fail "no data set $1: expected e2e, webnlg_challenge_2017 or dart"
            ;;
    esac
}

[[ -d "$vocab" ]] || fail "no folder $vocab here: run this in examples/NLG, after download_pretrained_checkpoints.sh"
if [[ $# -eq 0 ]]; then
    set -- e2e webnlg_challenge_2017 dart
fi
for dataset in "$@"; do
    create_dataset "$dataset"
done
[[ $made -gt 0 ]] || fail "no raw file found below data/: run download_pretrained_checkpoints.sh first"
echo "script complete!"
