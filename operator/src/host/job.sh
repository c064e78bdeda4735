# The slow part of a deploy, detached: engine, weights, service. Each step leaves its state in files; the first failure ends it.

fail() {
    rm -rf "$mem/fetch"
    printf '%s\n' "$1" | put "$deploy/failure"
    exit 1
}
stage() { printf '%s\n' "$1" | put "$deploy/stage"; }
one_line() {
    line=''
    [ ! -f "$deploy/$1" ] || IFS= read -r line <"$deploy/$1"
    printf '%s' "$line"
}

model=$(one_line model) revision=$(one_line revision) hub=$(one_line hub) engine=$(one_line engine) total=$(one_line total)
engine_dir=$(one_line engine_dir)
repository=$root/hub/models--${model%%/*}--${model#*/}
snapshot=$repository/snapshots/$revision

# as_user USER NAME=VALUE... PROGRAM ARGUMENT...: the image's variables and private folders, nothing else. Never returns.
as_user() {
    who=$1 home=$root/homes/$1
    shift
    set -- "HOME=$home" "USER=$who" "LOGNAME=$who" "TMPDIR=$home/tmp" "LANG=C.UTF-8" "XDG_CACHE_HOME=$home/cache" \
        "XDG_CONFIG_HOME=$home/config" "XDG_DATA_HOME=$home/data" "HF_HOME=$home/hf" "HF_HUB_CACHE=$root/hub" \
        "TRITON_CACHE_DIR=$home/triton" "TORCHINDUCTOR_CACHE_DIR=$home/inductor" "VLLM_CACHE_ROOT=$home/vllm" \
        "HF_HUB_DISABLE_TELEMETRY=1" "PYTHONUNBUFFERED=1" "$@"
    while IFS= read -r line; do set -- "$line" "$@"; done <"$root/state/image.env"
    cd / || exit 1
    if one_user; then
        exec timeout "$limit" env -i "$@"
    else
        exec timeout "$limit" chroot --userspec="$who:$who" / env -i "$@"
    fi
}

# run KIND SECONDS USER ...: as_user, recorded, waited for; what it says is kept within bounds.
run() {
    kind=$1 limit=$2
    shift 2
    as_user "$@" </dev/null >"$deploy/output" 2>&1 &
    child=$!
    record "$kind" "$child"
    wait "$child"
    result=$?
    tail -c 3000 "$deploy/output" >&2
    rm -f "$deploy/output"
    return "$result"
}

# on_path NAME: in the folders that the image's PATH names.
on_path() {
    while IFS= read -r line; do
        case $line in PATH=*) path=${line#PATH=} ;; esac
    done <"$root/state/image.env"
    rest=${path:-/usr/local/bin:/usr/bin:/bin}:
    while [ -n "$rest" ]; do
        folder=${rest%%:*}
        rest=${rest#*:}
        if [ -n "$folder" ] && [ -x "$folder/$1" ]; then
            printf '%s' "$folder/$1"
            return 0
        fi
    done
    return 1
}

find_engine() {
    if [ -x "$root/venv/bin/$engine" ]; then
        printf '%s' "$root/venv/bin/$engine"
    elif on_path "$engine"; then
        :
    elif [ -n "$engine_dir" ] && [ -x "$engine_dir/$engine" ]; then
        printf '%s' "$engine_dir/$engine"
    else
        return 1
    fi
}

# install_engine: pinned packages into a virtual environment that everybody can read and nobody but root can write.
install_engine() {
    [ -s "$deploy/packages" ] || return 1
    uv=$(on_path uv) || {
        python=$(on_path python3) || return 1
        timeout 300 "$python" -m venv "$root/venv-uv" || return 1
        timeout 300 "$root/venv-uv/bin/pip" install -q uv==0.9.7 || return 1
        uv=$root/venv-uv/bin/uv
    }
    umask 022
    set --
    while IFS= read -r package; do set -- "$@" "$package"; done <"$deploy/packages"
    # The image's own packages (PyTorch for its CUDA) are seen from inside.
    UV_CACHE_DIR=$root/venv-uv/cache timeout 300 "$uv" venv -q --system-site-packages "$root/venv" &&
        UV_CACHE_DIR=$root/venv-uv/cache VIRTUAL_ENV=$root/venv timeout 1500 "$uv" pip install -q "$@"
    result=$?
    rm -rf "$root/venv-uv"
    umask 077
    return "$result"
}

program=$(find_engine) || {
    install_engine </dev/null >"$deploy/output" 2>&1
    installed=$?
    tail -c 3000 "$deploy/output" >&2
    rm -f "$deploy/output"
    if [ "$installed" != 0 ] || ! program=$(find_engine); then
        printf 'this image has no %s, and it could not be installed\n' "$engine" >&2
        fail install
    fi
}
set --
while IFS= read -r line; do set -- "$@" "$(decoded "$line")"; done <"$deploy/probe"
run engine 300 "$ENGINE" "$program" "$@" || fail probe
: >"$deploy/said"

stage downloading
have=$(du --block-size=1 -s -- "$root/hub" | cut -f1)
free=$(df --output=avail --block-size=1 -- "$root/hub" | tail -n 1 | tr -d ' ')
if plain_number "$free" && [ $((total - have)) -gt "$free" ]; then
    printf 'the weights need %s bytes, %s are free\n' "$((total - have))" "$free" >&2
    fail disk
fi

# Runs as the download's user, which may read none of our scripts: it is handed over as text.
# shellcheck disable=SC2016
fetching='
umask 022
repository=$1 revision=$2 hub=$3 model=$4 token=$5 hf=$6 list=$7
snapshot=$repository/snapshots/$revision
mkdir -p "$snapshot" "$repository/refs" || exit 5
cd "$snapshot" || exit 5
size_of() { stat -L -c %s -- "$1" 2>/dev/null || printf 0; }
header() {
    [ -r "$token" ] && printf "header = \"Authorization: Bearer %s\"\n" "$(cat "$token")"
}
# one SIZE SUM ESCAPED PATH
one() {
    case /$4/ in */../*) exit 4 ;; esac
    tries=0
    while [ ! -e "$4" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 5 ] || exit 5
        [ "$tries" = 1 ] || sleep 1
        case $4 in */*) mkdir -p -- "${4%/*}" || exit 5 ;; esac
        had=$(size_of "$4.part")
        if [ "$had" -gt "$1" ]; then rm -f -- "$4.part"; fi
        if [ "$had" != "$1" ] || [ "$1" = 0 ]; then
            code=$(header | curl -fsSL -K - -C - --connect-timeout 20 --speed-limit 1024 --speed-time 60 -o "$4.part" -w "%{http_code}" "$hub/$model/resolve/$revision/$3")
            result=$?
            case $code in 401 | 403) exit 3 ;; 404) exit 5 ;; esac
            # The server would not go on where we were.
            if [ "$result" = 33 ] || [ "$code" = 416 ]; then rm -f -- "$4.part"; fi
            [ "$result" = 0 ] || continue
            [ "$1" != 0 ] || [ -e "$4.part" ] || : >"$4.part"
        fi
        [ "$(size_of "$4.part")" = "$1" ] || { rm -f -- "$4.part"; continue; }
        mv -- "$4.part" "$4" || exit 5
    done
    [ "$(size_of "$4")" = "$1" ] || { echo "wrong size of a file of the repository"; rm -f -- "$4"; exit 4; }
    [ "$2" = - ] && return 0
    found=$(sha256sum <"$4")
    [ "${found%% *}" = "$2" ] || { echo "wrong SHA-256 of a file of the repository"; rm -f -- "$4"; exit 4; }
}
if [ -n "$hf" ]; then
    set --
    while read -r _ _ _ path; do set -- "$@" "$path"; done <<END
$list
END
    HF_ENDPOINT=$hub HF_TOKEN_PATH=$token HF_XET_HIGH_PERFORMANCE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$hf" download "$model" --revision "$revision" "$@" >/dev/null || echo "hf failed; going on with curl"
fi
# Four at a time: one connection to a store is seldom as fast as the line.
running=0 worst=0 pids=
finish() {
    for pid in $pids; do
        wait "$pid"
        result=$?
        [ "$result" -gt "$worst" ] && worst=$result
    done
    pids= running=0
    [ "$worst" = 0 ] || exit "$worst"
}
while read -r size sum escaped path; do
    (one "$size" "$sum" "$escaped" "$path") </dev/null &
    pids="$pids $!" running=$((running + 1))
    [ "$running" -lt 4 ] || finish
done <<END
$list
END
finish
'
hf=$(on_path hf) || hf=''
run fetch 14400 "$FETCH" /bin/sh -c "$fetching" fetch "$repository" "$revision" "$hub" "$model" "$mem/fetch/token" "$hf" "$(cat "$deploy/files")"
case $? in
0) ;;
3) fail refused ;;
4) fail verify ;;
124) fail timeout ;;
*) fail download ;;
esac
rm -rf "$mem/fetch"
: >"$deploy/verified"
: >"$deploy/said"

stage loading
port=$(word "$deploy/port")
if listening "$port"; then
    # Taken since deploy. Never let in anybody that close has shut out.
    port=$(free_port) || fail start
    printf '%s\n' "$port" | put "$deploy/port"
    [ ! -e "$root/keys/srchat-gw" ] || admit "$port" || fail start
fi

# bounded_log: stdin to the engine's log, two files of a few MiB. dd writes what it reads at once.
bounded_log() {
    log=$root/logs/engine.log size=0
    umask 027
    while :; do
        dd bs=4096 count=256 oflag=append conv=notrunc status=none of="$log" || cat >/dev/null
        before=$size
        size=$(stat -c %s -- "$log" 2>/dev/null) || break
        [ "$size" != "$before" ] || break
        if [ "$size" -gt 2097152 ]; then
            mv -f "$log" "$log.1"
            size=0
        fi
    done
}

set --
while read -r kind value; do
    case $kind in
    arg) set -- "$@" "$(decoded "$value")" ;;
    arg_port) set -- "$@" "$port" ;;
    arg_file) set -- "$@" "$snapshot/$(decoded "$value")" ;;
    esac
done <"$deploy/args"
set -- "$program" "$@"
while IFS= read -r line; do set -- "$(decoded "$line")" "$@"; done <"$deploy/env"
mkfifo "$deploy/pipe" || fail start
bounded_log <"$deploy/pipe" &
# Opens when the log's end is open: only then may the name go.
exec 3>"$deploy/pipe"
rm -f "$deploy/pipe"
limit=0
as_user "$ENGINE" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 "$@" </dev/null >&3 2>&1 3>&- &
child=$!
exec 3>&-
record engine "$child"
: >"$deploy/started"

pause=0.05 slow=$(($(uptime_s) + 10))
until curl -fsS -o /dev/null --noproxy '*' --max-time 5 "http://127.0.0.1:$port/health" 2>/dev/null; do
    born "$child" >/dev/null || {
        wait "$child"
        printf 'the engine ended with status %s\n' "$?" >&2
        fail start
    }
    sleep "$pause"
    [ "$(uptime_s)" -lt "$slow" ] || pause=0.5
done
stage serving
wait "$child"
printf 'the engine ended with status %s\n' "$?" >&2
printf 'died\n' | put "$deploy/failure"
