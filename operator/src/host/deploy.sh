# Writes down what is to be served, lets the gateways in, and starts the job that does the slow part. Sent again it changes nothing.

[ ! -e "$root/state/ended" ] || die "the watchdog has ended this host"
next=$root/state/deploy.next.$$
mkdir -p "$next" || die "no room for the parameters"
trap 'rm -rf "$next"' EXIT
: >"$next/args"
: >"$next/env"
: >"$next/files"
: >"$next/packages"
: >"$next/probe"
token=''
while read -r name value; do
    case $name in
    installation) installation=$(decoded "$value") ;;
    uid) uid=$(decoded "$value") ;;
    attempt) attempt=$(decoded "$value") ;;
    # Never on disk, and only ever in the hands of builtins.
    token) token=$value ;;
    digest | model | revision | hub | gateways_key | total | engine | engine_dir)
        decoded "$value" >"$next/$name"
        printf '\n' >>"$next/$name"
        ;;
    file) { decoded "$value" && printf '\n'; } >>"$next/files" ;;
    package) { decoded "$value" && printf '\n'; } >>"$next/packages" ;;
    probe) printf '%s\n' "$value" >>"$next/probe" ;;
    env) printf '%s\n' "$value" >>"$next/env" ;;
    arg | arg_port | arg_file) printf '%s %s\n' "$name" "$value" >>"$next/args" ;;
    esac
done
guard "${installation:-}" "${uid:-}" "${attempt:-}"
for needed in digest model revision hub gateways_key total engine; do
    [ -s "$next/$needed" ] || die "no $needed was given"
done

# One deploy at a time; a lock whose holder is gone is nobody's.
lock=$root/state/deploy.lock
tries=0
until mkdir "$lock" 2>/dev/null; do
    holder=$(word "$lock/pid")
    if [ -n "$holder" ] && [ ! -d "/proc/$holder" ]; then
        rm -rf "$lock"
        continue
    fi
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || die "another deploy does not end"
    sleep 0.1
done
printf '%s\n' "$$" >"$lock/pid"
trap 'rm -rf "$next" "$lock"' EXIT

# measure: how much may be uploaded, and where to.
measure() {
    free=$(df --output=avail --block-size=1 -- "$mem" | tail -n 1 | tr -d ' ')
    plain_number "$free" || free=0
    left=''
    if plain_number "$(word /sys/fs/cgroup/memory.max)"; then
        left=$(($(word /sys/fs/cgroup/memory.max) - $(word /sys/fs/cgroup/memory.current)))
    elif plain_number "$(word /sys/fs/cgroup/memory/memory.limit_in_bytes)"; then
        left=$(($(word /sys/fs/cgroup/memory/memory.limit_in_bytes) - $(word /sys/fs/cgroup/memory/memory.usage_in_bytes)))
    fi
    # Without a limit of its own the container has what the machine has.
    while read -r key kib _; do
        if [ "$key" = MemAvailable: ]; then
            available=$((kib * 1024))
            if [ -z "$left" ] || [ "$left" -gt "$available" ]; then left=$available; fi
            break
        fi
    done </proc/meminfo
    quota=4294967296
    [ $((free / 4)) -ge "$quota" ] || quota=$((free / 4))
    [ $((${left:-0} / 8)) -ge "$quota" ] || quota=$((${left:-0} / 8))
    medium=memory
    if [ "$quota" -lt 268435456 ]; then
        medium=disk
        free=$(df --output=avail --block-size=1 -- "$root" | tail -n 1 | tr -d ' ')
        plain_number "$free" || free=0
        quota=4294967296
        # The weights come first.
        [ $((free / 4)) -ge "$quota" ] || quota=$((free / 4))
    fi
}

already=no
if [ "$(word "$deploy/digest")" = "$(word "$next/digest")" ] && [ ! -e "$deploy/failure" ] && [ -n "$(recorded job)" ]; then
    already=yes
else
    # Another deploy, or one that failed, makes room.
    [ "$(end job engine fetch)" = 0 ] || die "an earlier deploy does not end"
    rm -rf "$deploy" "$root/state/processes/job" "$root/state/processes/engine" "$root/state/processes/fetch" "$root/logs" "$mem/fetch"
    # Other weights than the last ones would only take room.
    if [ -d "$root/hub" ] && [ "$(cat "$root/hub/.model" 2>/dev/null)" != "$(cat "$next/model" "$next/revision")" ]; then
        rm -rf --one-file-system "$root/hub"
    fi
    measure
    port=$(free_port) || die "no port is free"
    mkdir -p "$root/hub" "$root/logs" "$root/activity" "$root/homes/$ENGINE/tmp" "$root/homes/$FETCH/tmp" "$root/homes/$GW" "$mem/fetch" || die "no room for the folders"
    cat "$next/model" "$next/revision" >"$root/hub/.model"
    if [ "$medium" = memory ]; then files=$mem/files; else files=$root/files; fi
    mkdir -p "$files" || die "no room for uploads"
    chmod 0711 "$root/homes"
    chmod 0755 "$root/hub"
    chmod 0750 "$root/logs"
    grant "$GW" "$files" "$root/activity" "$root/homes/$GW"
    grant "$ENGINE" "$root/homes/$ENGINE" "$root/homes/$ENGINE/tmp"
    grant "$FETCH" "$root/hub" "$root/homes/$FETCH" "$root/homes/$FETCH/tmp" "$mem/fetch"
    if ! one_user; then chgrp "$GW" "$root/logs" && chmod 2750 "$root/logs"; fi
    if [ -n "$token" ]; then
        (decoded "$token" >"$mem/fetch/token") || die "no room for the token"
        grant "$FETCH" "$mem/fetch/token"
    fi
    printf '%s\n' "$port" >"$next/port"
    printf '%s\n' "$medium" >"$next/medium"
    printf '%s\n' "$quota" >"$next/quota"
    printf '%s\n' "$files" >"$next/uploads"
    printf 'installing\n' >"$next/stage"
    mv "$next" "$deploy" || die "no room for the parameters"
    # timeout makes the job the leader of a group of its own; it has no limit, each of its steps has.
    timeout 0 "$root/bin/job" </dev/null >/dev/null 2>"$deploy/said" &
    record job $!
fi
admit "$(word "$deploy/port")" || die "the gateways' key could not be written"

cat <<END
srchat 1
deploy $(word "$deploy/digest")
already $already
port $(word "$deploy/port")
files $(printf '%s' "$(cat "$deploy/uploads")" | encoded)
medium $(word "$deploy/medium")
quota $(word "$deploy/quota")
end
END
