# One look at the host. It is a heartbeat as well.

deadline='' known='' patience=0
while read -r name value; do
    case $name in
    installation) installation=$(decoded "$value") ;;
    uid) uid=$(decoded "$value") ;;
    attempt) attempt=$(decoded "$value") ;;
    deadline) deadline=$(decoded "$value") ;;
    known) known=$(decoded "$value") ;;
    patience) patience=$(decoded "$value") ;;
    esac
done
guard "${installation:-}" "${uid:-}" "${attempt:-}"
plain_number "$patience" || patience=0

state=$root/state deploy=$root/state/deploy
now=$(uptime_s)
printf '%s\n' "$now" | put "$state/heartbeat"
: >"$state/visited"

# A later deadline wins. It is written before it is told: what is acknowledged holds.
read -r offset until 2>/dev/null <"$state/clock" || die "the host has no clock"
in_force=$((offset + until))
later=$(word "$state/deadline")
if plain_number "$later" && [ "$later" -gt "$in_force" ]; then in_force=$later; fi
if plain_number "$deadline" && [ "$deadline" -gt "$in_force" ] && [ ! -e "$state/ended" ]; then
    printf '%s\n' "$deadline" | put "$state/deadline" && in_force=$deadline
fi

# look: stage, failure and engine as they are now.
look() {
    stage=connecting failure=- engine=absent port=-
    [ -d "$deploy" ] || return 0
    stage=$(word "$deploy/stage")
    failure=$(word "$deploy/failure")
    port=$(word "$deploy/port")
    : "${failure:=-}" "${port:=-}"
    # A job that neither lives nor said why it ended was killed; one that deploy is about to start was not.
    holder=$(word "$state/deploy.lock/pid")
    if [ "$failure" = - ] && [ ! -d "/proc/${holder:-none}" ] && [ -z "$(recorded job)" ]; then
        # It may have ended between the two looks.
        failure=$(word "$deploy/failure")
        : "${failure:=lost}"
    fi
    [ -e "$deploy/started" ] || return 0
    if [ -z "$(recorded engine)" ] || [ "$failure" = died ] || [ "$failure" = start ]; then
        engine=dead
    elif [ "$stage" = serving ]; then
        engine=silent
        curl -fsS -o /dev/null --noproxy '*' --max-time 5 "http://127.0.0.1:$port/health" 2>/dev/null && engine=healthy
    else
        engine=starting
    fi
}

look
while [ "$stage" = "$known" ] && [ "$failure" = - ] && [ $(($(uptime_s) - now)) -lt "$patience" ]; do
    # Cheap looks until something moved.
    while [ "$(word "$deploy/stage")" = "$known" ] && [ ! -e "$deploy/failure" ] && [ $(($(uptime_s) - now)) -lt "$patience" ]; do
        sleep 0.05
    done
    look
done

digest=$(word "$deploy/digest")
total=$(word "$deploy/total")
bytes=0
if [ -e "$deploy/verified" ]; then
    bytes=$total
elif [ -d "$root/hub" ]; then
    bytes=$(du --block-size=1 -s -- "$root/hub" 2>/dev/null | cut -f1)
fi
plain_number "$total" || total=0
plain_number "$bytes" || bytes=0
[ "$bytes" -le "$total" ] || bytes=$total

activity=never
if [ -e "$root/activity/last" ] || [ -L "$root/activity/last" ]; then
    activity=-
    last=$(word "$root/activity/last")
    current=$(uptime_s)
    if plain_number "$last" && [ "$last" -le "$current" ]; then activity=$((current - last)); fi
fi

# room DIR: free bytes.
room() {
    free=$(df --output=avail --block-size=1 -- "$1" 2>/dev/null | tail -n 1 | tr -d ' ')
    if plain_number "$free"; then printf '%s' "$free"; else printf '%s' -; fi
}

log=-
if [ "$failure" != - ]; then
    # The engine's own last words when it had any, else what the job said.
    log=$({
        cat "$deploy/said" 2>/dev/null
        [ ! -e "$deploy/started" ] || cat "$root/logs/engine.log.1" "$root/logs/engine.log" 2>/dev/null
    } | tail -c 6000 | tail -n 40 | encoded)
fi
medium=$(word "$deploy/medium")
quota=$(word "$deploy/quota")
users=yes
one_user && users=no

cat <<END
srchat 1
boot $(word "$state/boot")
deploy ${digest:--}
stage $stage
failure $failure
log ${log:--}
bytes $bytes
total $total
engine $engine
port $port
activity $activity
deadline $in_force
disk $(room "$root")
memory $(room "$mem")
medium ${medium:--}
quota ${quota:--}
users $users
end
END
