# Users and processes: whose they are, and how they are ended. Only coreutils and the shell may be counted on.
# `root` is set by the caller.

GW=srchat-gw ENGINE=srchat-engine FETCH=srchat-fetch

uptime_s() {
    up=0
    read -r up _ <"${SRCHAT_UPTIME:-/proc/uptime}" && up=${up%%.*}
    printf '%s' "$up"
}

one_user() { [ -e "$root/one-user" ]; }

# uid_of USER: its uid, or nothing.
uid_of() {
    while IFS=: read -r name _ uid _; do
        if [ "$name" = "$1" ]; then
            printf '%s' "$uid"
            return 0
        fi
    done </etc/passwd
    return 1
}

# pids_of UID...: live processes (zombies are not) of these users.
pids_of() {
    for dir in /proc/[0-9]*; do
        state='' owner=''
        while read -r key value _; do
            case $key in
            State:) state=$value ;;
            Uid:) owner=$value && break ;;
            esac
        done 2>/dev/null <"$dir/status" || continue
        case $owner,$state in ,* | *,Z) continue ;; esac
        for uid in "$@"; do
            [ "$owner" = "$uid" ] && printf '%s ' "${dir#/proc/}"
        done
    done
}

# born PID: what tells a process from a later one of the same number.
born() {
    stat=''
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    # The name may hold anything; the fields are counted behind its closing bracket.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    [ "$1" != Z ] || return 1
    # shift takes one digit in some shells only.
    shift 9 && shift 9 && shift 1
    printf '%s' "$1"
}

# recorded KIND...: live processes that were recorded under state/processes/KIND, as `PID BORN` in a file each.
recorded() {
    for kind in "$@"; do
        for file in "$root/state/processes/$kind"/*; do
            if [ ! -f "$file" ] || [ -L "$file" ]; then continue; fi
            pid='' since=''
            read -r pid since <"$file" || continue
            case $pid in '' | *[!0-9]*) continue ;; esac
            [ "$(born "$pid")" = "$since" ] && printf '%s ' "$pid"
        done
    done
}

# living KIND...: processes of the kinds gateway, job, engine, fetch. By user where there are users, else by what was recorded.
living() {
    recorded "$@"
    one_user && return 0
    uids=''
    for kind in "$@"; do
        case $kind in
        gateway) uids="$uids $(uid_of "$GW")" ;;
        engine) uids="$uids $(uid_of "$ENGINE")" ;;
        fetch) uids="$uids $(uid_of "$FETCH")" ;;
        esac
    done
    # shellcheck disable=SC2086
    pids_of $uids
}

# end KIND...: asks, waits two seconds, kills, and waits until none is left; prints how many are.
end() {
    signal=TERM round=0 quiet=0 left=0
    while [ "$round" -lt 150 ]; do
        pids=$(living "$@")
        if [ -z "$pids" ]; then
            # One more look: a connection may have been on its way in.
            quiet=$((quiet + 1))
            [ "$quiet" -ge 2 ] && break
        else
            quiet=0
            for pid in $pids; do
                # A recorded process leads a group; for others this finds none.
                kill "-$signal" "-$pid" 2>/dev/null
                kill "-$signal" "$pid" 2>/dev/null
            done
            [ "$round" -ge 20 ] && signal=KILL
            sleep 0.1
        fi
        round=$((round + 1))
    done
    for pid in $(living "$@"); do left=$((left + 1)); done
    printf '%s' "$left"
}

# record KIND PID: for `recorded`.
record() {
    mkdir -p "$root/state/processes/$1"
    printf '%s %s\n' "$2" "$(born "$2")" >"$root/state/processes/$1/$2"
}
