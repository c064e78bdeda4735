#!/bin/sh
# What the gateways' key may do on this host: four things. It runs as the gateways' user, whatever was asked for.
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
root=${SRCHAT_ROOT:?} mem=${SRCHAT_MEMORY:?}
files=$mem/files
[ -d "$files" ] || files=$root/files

deny() {
    printf 'this key may not do that\n' >&2
    exit 1
}
uptime_s() {
    up=0
    read -r up _ <"${SRCHAT_UPTIME:-/proc/uptime}"
    printf '%s' "${up%%.*}"
}

# Without users, close can only find this connection if it is written down: the nearest sshd above us.
if [ -e "$root/one-user" ]; then
    pid=$PPID
    while [ "$pid" -gt 1 ]; do
        read -r stat 2>/dev/null <"/proc/$pid/stat" || break
        fields=${stat##*) }
        case $stat in
        *'(sshd'*)
            # shellcheck disable=SC2086
            set -- $fields
            shift 9 && shift 9 && shift 1
            mkdir -p "$root/state/processes/gateway" && printf '%s %s\n' "$pid" "$1" >"$root/state/processes/gateway/$pid"
            break
            ;;
        esac
        # shellcheck disable=SC2086
        set -- $fields
        pid=$2
    done
fi

answer() {
    last=''
    if [ ! -e "$root/activity/last" ]; then
        printf 'activity never\n'
    elif read -r last <"$root/activity/last" && [ -n "$last" ]; then
        printf 'activity %s\n' "$(($(uptime_s) - last))"
    else
        printf 'activity -\n'
    fi
}

case ${SSH_ORIGINAL_COMMAND:-} in
heartbeat)
    while read -r line; do
        case $line in
        touch) uptime_s >"$root/activity/.$$" && printf '\n' >>"$root/activity/.$$" && mv -f "$root/activity/.$$" "$root/activity/last" ;;
        ask) ;;
        *) deny ;;
        esac
        answer
    done
    ;;
sftp)
    cd "$files" || exit 1
    exec "$root/bin/sftp-server" -d "$files" -u 077
    ;;
'log '*)
    # shellcheck disable=SC2086
    set -f && set -- $SSH_ORIGINAL_COMMAND
    [ $# = 3 ] || deny
    case $2 in '' | *[!0-9]* | ??????*) deny ;; esac
    case $3 in
    once) cat "$root/logs/engine.log.1" "$root/logs/engine.log" 2>/dev/null | tail -n "$2" ;;
    follow)
        tail -q -n "$2" -F "$root/logs/engine.log" 2>/dev/null &
        follower=$!
        # Ends when the other side closes its end, which it does by going away.
        cat >/dev/null
        kill "$follower" 2>/dev/null
        ;;
    *) deny ;;
    esac
    ;;
'sha256 '*)
    path=$(printf '%s' "${SSH_ORIGINAL_COMMAND#sha256 }" | base64 -d 2>/dev/null; printf .) || deny
    path=${path%.}
    case /$path/ in *//* | */./* | */../*) deny ;; esac
    cd "$files" || exit 1
    if [ ! -f "$path" ] || [ -L "$path" ]; then
        printf 'no such file\n' >&2
        exit 2
    fi
    sum=$(sha256sum <"./$path") || exit 1
    printf '%s\n' "${sum%% *}"
    ;;
*) deny ;;
esac
