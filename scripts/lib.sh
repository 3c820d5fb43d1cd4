# Shared by the scripts of this folder: source it. Finds or makes the Python environment and runs named steps.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
NLG="$ROOT/examples/NLG"
# Threads of torch that wait for others sleep instead of spinning, and leave the cores to other programs.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

one_of() { # NAME VALUE "CHOICES": ends the script unless the value is one of them
    case " $3 " in *" $2 "*) ;; *) die "$1 ${2:-is missing}: expected one of $3" ;; esac
}

# attended COMMAND...: runs a program in such a way that TERM or Ctrl-C ends it together with the script, which waits for its
# end; bash alone dies first and leaves it, or heeds the signal only afterwards.
attended() {
    local status=0
    trap 'stop_child 130' INT
    trap 'stop_child 143' TERM
    "$@" &
    child=$!
    wait "$child" || status=$?
    child=""
    return "$status"
}

stop_child() { # EXIT CODE
    trap '' INT TERM
    [ -z "${child:-}" ] || { kill -TERM "$child" && wait "$child"; } 2>/dev/null || true
    exit "$1"
}

check_seeds() { # "SEEDS": ends the script unless they are different whole numbers, at least one
    local seed
    [ -n "${1// /}" ] || die "--seeds is empty"
    for seed in $1; do
        case "$seed" in *[!0-9]*) die "--seeds $1: expected whole numbers between blanks" ;; esac
        [ "$(printf '%s\n' $1 | grep -cx "$seed")" = 1 ] || die "--seeds $1: $seed stands there twice"
    done
}

# Sets PYTHON, and has it find the loralib of this checkout: the interpreter that the variable PYTHON names, else the
# active virtual or conda environment's, else that of .venv in the checkout. 1 where there is none of these.
find_python() {
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" > /dev/null || die "PYTHON=$PYTHON: no such program"
        case "$PYTHON" in /*) ;; */*) PYTHON="$PWD/$PYTHON" ;; esac
    elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        PYTHON="$(command -v python)" || die "the active environment has no python"
    elif [ -x "$ROOT/.venv/bin/python" ]; then
        PYTHON="$ROOT/.venv/bin/python"
    else
        return 1
    fi
    export PYTHON
}

# The same, for scripts that may install: makes .venv where there is nothing, and installs what requirement.txt lists and
# loralib itself, unless this environment already has this very list. An interpreter named by PYTHON is left as it is.
ensure_environment() {
    local given="${PYTHON:-}"
    if ! find_python; then
        local system
        system="$(command -v python3)" || die "python3 not found; Python 3.10 or newer is needed"
        say "making the environment .venv"
        "$system" -m venv "$ROOT/.venv" || die "python3 -m venv failed; install your system's venv package"
        export PYTHON="$ROOT/.venv/bin/python"
    fi
    [ -z "$given" ] || return 0
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "Python 3.10 or newer is needed, $PYTHON is $("$PYTHON" --version 2>&1)"
    local list stamp
    list="$(cat "$ROOT/requirement.txt" "$ROOT/setup.py" | cksum | tr ' ' '-')"
    stamp="$("$PYTHON" -c 'import sys; print(sys.prefix)')/.lora-installed"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$list $ROOT" ]; then
        say "installing packages (once)"
        "$PYTHON" -m pip install --quiet --requirement "$ROOT/requirement.txt" || die "installing requirement.txt failed"
        "$PYTHON" -m pip install --quiet --no-deps --editable "$ROOT" || die "installing loralib failed"
        printf '%s\n' "$list $ROOT" > "$stamp"
    fi
}
