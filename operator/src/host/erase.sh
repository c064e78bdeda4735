# What clear and the watchdog have in common: erasing trees, and looking again. `root` and `mem` are set, and their markers
# checked, by the caller.

# overwrite PATH: zeros over every plain file in it, links not followed; fails when the time is up.
overwrite() {
    [ "$(uptime_s)" -lt "$overwrite_until" ] || return 1
    [ -L "$1" ] && return 0
    if [ -d "$1" ]; then
        for inside in "$1"/* "$1"/.[!.]* "$1"/..?*; do
            { [ -e "$inside" ] || [ -L "$inside" ]; } || continue
            overwrite "$inside" || return 1
        done
    elif [ -f "$1" ]; then
        shred -n 0 -z -- "$1" 2>/dev/null || return 1
    fi
}

first() { read -r first_word _ && printf '%s' "$first_word"; }

# erase KIND METHOD PATH: one line `path` of the report goes to the file $report, to be completed by `look_again`.
erase() {
    files=0 bytes=0 method=$2
    if [ -e "$3" ] || [ -L "$3" ]; then
        # The name may hold line ends: only the first word of the first line is du's.
        files=$(du --inodes -s -- "$3" 2>/dev/null | first)
        bytes=$(du --apparent-size --block-size=1 -s -- "$3" 2>/dev/null | first)
        [ "$method" = unlinked ] || overwrite "$3" || method=unlinked
        rm -rf --one-file-system -- "$3" 2>/dev/null
    fi
    printf '%s %s %s %s %s\n' "$(printf '%s' "$3" | base64 -w 0)" "$1" "${files:-0}" "${bytes:-0}" "$method" >>"$report"
}

# strays DIR DEPTH UID...: files of our users outside our roots.
strays() {
    dir=$1 depth=$2
    shift 2
    for found in "$dir"/* "$dir"/.[!.]* "$dir"/..?*; do
        { [ -e "$found" ] || [ -L "$found" ]; } || continue
        [ "$found" = "$root" ] || [ "$found" = "$mem" ] && continue
        owner=$(stat -c %u -- "$found" 2>/dev/null) || continue
        ours=no
        for uid in "$@"; do [ "$owner" = "$uid" ] && ours=yes; done
        if [ "$ours" = yes ]; then
            erase strays overwritten "$found"
        elif [ -d "$found" ] && [ ! -L "$found" ] && [ "$depth" -gt 0 ]; then
            # A subshell, so that the loop above keeps its variables.
            (strays "$found" $((depth - 1)) "$@")
        fi
    done
}

# erase_all: everything that a session left. sshd, the controller's key, the watchdog and the report stay.
erase_all() {
    erase uploads overwritten "$mem/files"
    erase uploads overwritten "$root/files"
    erase secrets overwritten "$mem/fetch"
    erase secrets overwritten "$root/keys/srchat-gw"
    erase logs overwritten "$root/logs"
    erase logs overwritten "$root/activity"
    erase logs overwritten "$root/state/deploy"
    erase homes overwritten "$root/homes"
    erase caches unlinked "$root/hub"
    erase caches unlinked "$root/venv"
    one_user && return 0
    # shellcheck disable=SC2046
    set -- $(uid_of "$GW") $(uid_of "$ENGINE") $(uid_of "$FETCH")
    [ $# -gt 0 ] || return 0
    for place in /tmp /var/tmp /dev/shm; do
        [ -d "$place" ] && strays "$place" 4 "$@"
    done
}

# look_again: prints the report's lines with what is there now; fails when something is.
look_again() {
    clean=0
    while read -r name kind files bytes method; do
        # Names of strays are foreign: the dot keeps a line end at theirs.
        path=$(printf '%s' "$name" | base64 -d && printf .)
        path=${path%.} found=gone
        if [ -e "$path" ] || [ -L "$path" ]; then
            found=remains clean=1
        fi
        printf 'path %s %s %s %s %s %s\n' "$name" "$kind" "$files" "$bytes" "$method" "$found"
    done <"$report"
    return "$clean"
}

# clear_host SECONDS: all of it, in the order that matters: no way in, nothing running, nothing left. Prints the report's lines.
clear_host() {
    overwrite_until=$(($(uptime_s) + $1 / 2))
    report=$root/state/report.$$
    : >"$report"
    rm -f -- "$root/keys/srchat-gw.new"
    [ -f "$root/keys/srchat-gw" ] && : >"$root/keys/srchat-gw"
    left=$(end gateway job engine fetch)
    erase_all
    verdict=yes
    look_again || verdict=no
    rm -f -- "$report"
    [ "$left" = 0 ] || verdict=no
    key_gone=yes
    [ -e "$root/keys/srchat-gw" ] && key_gone=no verdict=no
    printf 'key_gone %s\nleft %s\n' "$key_gone" "$left"
    [ "$verdict" = yes ]
}
