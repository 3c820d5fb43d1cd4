#!/usr/bin/env bash
# Turns raw files into token ids: <split>_formatted.jsonl, then <split>.jsonl. Takes a few seconds. In examples/NLG:
#   bash create_datasets.sh              e2e, webnlg_challenge_2017 and dart
#   bash create_datasets.sh e2e dart     only these
# In data/<data set>, or where --data says: {train,valid,test}.txt; {train,dev,test}.json or .xml, or folders train, dev,
# test of XML files (WebNLG as published); dart-v1.1.1-full-{train,dev,test}.json or .xml. A data set or split whose raw
# file is absent is left out, and said so.
#   --data DIR    raw files of the one data set that is named
#   --out DIR     where its token ids go (default: beside the raw files)
#   --vocab DIR   folder with encoder.json and vocab.bpe (default: vocab)
set -euo pipefail

src="$(dirname "${BASH_SOURCE[0]}")/src"
. "$src/../../../scripts/lib.sh" # die, find_python, attended: TERM and Ctrl-C end the program that runs, too
find_python || export PYTHON=python
vocab="vocab" data="" out=""
made=0

# create DATASET CONVERTER SPLIT RAW... : RAW are the names that the raw file of the split may have
create() {
    local dataset="$1" converter="$2" split="$3" folder raw="" name
    folder="${data:-data/$dataset}"
    shift 3
    for name in "$@"; do
        if [[ -e "$folder/$name" ]]; then
            raw="$folder/$name"
            break
        fi
    done
    if [[ -z "$raw" ]]; then
        echo "skipped $dataset $split: $folder/$1 is absent"
        return
    fi
    echo "creating $dataset $split"
    folder="${out:-$folder}"
    mkdir -p "$folder"
    attended "$PYTHON" "$src/format_converting_$converter.py" "$raw" "$folder/${split}_formatted.jsonl"
    attended "$PYTHON" "$src/gpt2_encode.py" --vocab "$vocab" --input "$folder/${split}_formatted.jsonl" \
        --output "$folder/$split.jsonl" --add_bos --add_eos
    made=$((made + 1))
}

create_dataset() {
    local split
    case "$1" in
        e2e)
            for split in train valid test; do create e2e e2e "$split" "$split.txt"; done
            ;;
        webnlg_challenge_2017)
            for split in train dev test; do
                create "$1" webnlg "${split/dev/valid}" "$split.json" "$split.xml" "$split"
            done
            ;;
        dart)
            for split in train dev test; do
                create dart dart "${split/dev/valid}" "dart-v1.1.1-full-$split.json" "dart-v1.1.1-full-$split.xml"
            done
            ;;
        *)
            die "no data set $1: expected e2e, webnlg_challenge_2017 or dart"
            ;;
    esac
}

datasets=()
while [[ $# -gt 0 ]]; do
    case "$1" in
        --data | --out | --vocab)
            [[ $# -ge 2 ]] || die "$1 needs a value"
            case "$1" in
                --data) data="$2" ;;
                --out) out="$2" ;;
                --vocab) vocab="$2" ;;
            esac
            shift 2
            ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) die "no option $1: expected --data, --out or --vocab" ;;
        *)
            datasets+=("$1")
            shift
            ;;
    esac
done
[[ -z "$data$out" || ${#datasets[@]} -eq 1 ]] || die "--data and --out belong to one data set: name it"
[[ -d "$vocab" ]] || die "no folder $vocab here: run this in examples/NLG, after download_pretrained_checkpoints.sh"
if [[ ${#datasets[@]} -eq 0 ]]; then
    datasets=(e2e webnlg_challenge_2017 dart)
fi
for dataset in ${datasets[@]+"${datasets[@]}"}; do
    create_dataset "$dataset"
done
[[ $made -gt 0 ]] || die "no raw file found below ${data:-data/}: run download_pretrained_checkpoints.sh first"
echo "script complete!"
