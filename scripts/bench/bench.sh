#!/usr/bin/env bash
# All side-by-side measurements, one after another on an otherwise idle machine: layers, training, decoding, scoring, adapters,
# training of any causal model, beside the released loralib, transformers and peft; then one file with all rows and a plot.
#
#   bash scripts/bench/bench.sh --quick                       fewer cases and rounds
#   bash scripts/bench/bench.sh --full                        all (default)
#   --device cpu|cuda   cuda writes to a folder cuda/ of its own (default: cpu)
#   --threads N         of the CPU (default: 2)
#   --out DIR           where results.json and speed.png go (default: runs/bench)
#   --only "layers beam"  these programs; the file takes the others from the last run of the same kind
# Ends with 1 where a program failed; the others run all the same.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

usage() { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

programs=(layers train_step beam scoring adapters clm_trainer)
mode=full device=cpu threads=2 out="$ROOT/runs/bench" only=""
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) mode=quick; shift; continue ;;
        --full) mode=full; shift; continue ;;
        --help | -h) usage; exit 0 ;;
        --device | --threads | --out | --only) [ $# -ge 2 ] || die "$1 needs a value" ;;
        *) die "unknown option $1 (bash scripts/bench/bench.sh --help lists them)" ;;
    esac
    case "$1" in
        --device) device="$2" ;;
        --threads) threads="$2" ;;
        --out) out="$2" ;;
        --only) only="$2" ;;
    esac
    shift 2
done
[[ "$device" == cpu || "$device" == cuda ]] || die "--device is cpu or cuda, got $device"
[[ "$threads" =~ ^[1-9][0-9]*$ ]] || die "--threads is a number from 1 on, got $threads"
for name in $only; do
    [[ " ${programs[*]} " == *" $name "* ]] || die "--only: $name is unknown; choose from ${programs[*]}"
done
mkdir -p "$out" 2>/dev/null || die "cannot create $out"
out="$(cd "$out" && pwd)"
[ "$device" = cpu ] || out="$out/cuda"
parts="$ROOT/runs/bench/parts/$device-$mode"
[ -n "$only" ] || rm -rf "$parts"
mkdir -p "$parts"

ensure_environment
cd "$ROOT"
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="$threads" MKL_NUM_THREADS="$threads"
export BENCH_PEERS="${BENCH_PEERS:-$ROOT/.bench-peers}"
released="loralib==0.1.2"
if [ ! -f "$BENCH_PEERS/loralib/__init__.py" ]; then
    say "installing the released $released into $BENCH_PEERS (once)"
    "$PYTHON" -m pip install --quiet --no-deps --target "$BENCH_PEERS" "$released" || die "installing $released failed"
fi

read -ra chosen <<< "${only:-${programs[*]}}"
flags=(--threads "$threads" --device "$device")
[ "$mode" = full ] || flags+=(--quick)
elapsed() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }
failed=() number=0
for name in "${chosen[@]}"; do
    number=$((number + 1))
    say "$number/${#chosen[@]} $name ($mode, $device), $(elapsed) so far"
    rm -f "$parts/$name.json"
    if ! "$PYTHON" "scripts/bench/$name.py" "${flags[@]}" --json "$parts/$name.json"; then
        failed+=("$name")
        say "$name failed"
    fi
done
say "results, $(elapsed) so far"
"$PYTHON" scripts/bench/report.py "$parts"/*.json --out "$out"
[ ${#failed[@]} -eq 0 ] || { printf 'error: failed: %s\n' "${failed[*]}" >&2; exit 1; }
