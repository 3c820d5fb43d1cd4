# Steps of a story that run once: source it in the folder where the story works. A step that ended leaves steps/NAME.done
# and is kept from then on, until its words, SINCE or a step before it change; then its outputs are deleted and made anew.
# A step that was cut off finds what it left behind, so that a program with a resume of its own goes on.

# enter_work_folder DIR: makes it, goes there, and keeps other stories out until this one ends. Sets work.
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

digest() { # of files, and of all files in folders
    find "$@" -type f -exec cksum {} + | sort | cksum
}

all_exist() {
    local path
    for path in "$@"; do [ -e "$path" ] || return 1; done
}

note() { # what happened when, on the terminal and in steps.log
    say "$*"
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >> steps.log
}
