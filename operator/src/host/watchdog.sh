# The watchdog: ends this pod at its deadline, or when nobody has asked anything for 15 minutes. It runs beside boot, before
# anything that can hang, and counts by uptime, so that a clock that jumps changes nothing.

# number TEXT DEFAULT: TEXT if it is one.
number() {
    case $1 in
    '' | *[!0-9]* | ????????????????*) printf '%s' "$2" ;;
    *) printf '%s' "$1" ;;
    esac
}

# first_word FILE: of a plain file.
first_word() {
    word=''
    [ -f "$1" ] && [ ! -L "$1" ] && read -r word _ 2>/dev/null <"$1"
    printf '%s' "$word"
}

# delete_pod: asks the provider to delete this pod, and to stop it where it may not. Never returns.
delete_pod() {
    pause=5
    while :; do
        if command -v curl >/dev/null 2>&1; then
            call -X DELETE "${SRCHAT_API%/}/pods/$RUNPOD_POD_ID" ||
                call -X POST -H 'content-type: application/json' -d '{"action":"stop"}' "${SRCHAT_API%/}/pods/$RUNPOD_POD_ID/action"
        fi
        sleep "$pause"
        [ "$pause" -ge 60 ] || pause=$((pause * 2))
    done
}

# call CURL-ARGUMENTS: with the pod's own key, which goes through stdin and is in no argument.
call() {
    case ${RUNPOD_API_KEY:-} in
    '' | *[!A-Za-z0-9_.-]*) return 1 ;;
    esac
    printf 'header = "Authorization: Bearer %s"\n' "$RUNPOD_API_KEY" |
        curl -fsS -o /dev/null --connect-timeout 10 --max-time 30 -A srchat-watchdog -K - "$@" 2>/dev/null
}

# watchdog DEADLINE-BY-UPTIME CLOCK-MINUS-UPTIME BOOTED: looks every few seconds. Silence counts from the last heartbeat, which
# the controller's visits write, or the last activity, which gateways write.
watchdog() {
    until=$1 offset=$2 heard=$3
    while :; do
        now=$(uptime_s)
        for file in "$root/state/heartbeat" "$root/activity/last"; do
            at=$(number "$(first_word "$file")" 0)
            # What lies in the future is not true, and would silence this for ever.
            [ "$at" -gt "$heard" ] && [ "$at" -le "$now" ] && heard=$at
        done
        later=$(number "$(first_word "$root/state/deadline")" 0)
        later=$((later - offset))
        [ "$later" -gt "$until" ] && until=$later
        if [ "$now" -ge "$until" ]; then
            end_pod deadline
        elif [ $((now - heard)) -ge 900 ]; then
            end_pod silence
        fi
        sleep "${SRCHAT_TICK:-5}"
    done
}

# end_pod WHY: clears, then deletes for ever. Nothing is deployed here again.
end_pod() {
    printf '%s\n' "$1" >"$root/state/ended"
    clear_host 60 >"$root/state/cleared" 2>/dev/null
    delete_pod
}
