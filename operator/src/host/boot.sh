# The start command: PID 1 of the pod. Nothing here may be slow where sshd is present, and no child may read our stdin.

exec </dev/null
umask 077
# Every shell in use has it, though POSIX does not say so.
# shellcheck disable=SC3045
ulimit -c 0
root=${SRCHAT_ROOT:-/srchat} mem=${SRCHAT_MEMORY:-/dev/shm/srchat}
trap 'exit 0' TERM

# hold: PID 1 that exits is started again and bills; it stays, so that the watchdog can end the pod.
hold() {
    while :; do
        sleep 3600 &
        wait $!
    done
}

fail() {
    printf 'SRCHAT-BOOT-FAILED %s\n' "$1"
    hold
}

case $root$mem in *[!A-Za-z0-9/._-]*) fail root ;; esac

marker() { printf '%s %s %s' "$SRCHAT_INSTALLATION" "$SRCHAT_UID" "$SRCHAT_ATTEMPT"; }

# own DIR: makes a root of ours, or finds it ours.
own() {
    if [ -e "$1" ] || [ -L "$1" ]; then
        [ -d "$1" ] && [ ! -L "$1" ] && [ "$(cat "$1/.srchat" 2>/dev/null)" = "$(marker)" ]
    else
        above=${1%/*}
        [ -z "$above" ] || (umask 022 && mkdir -p -- "$above")
        mkdir -- "$1" && chmod 0711 "$1" && marker >"$1/.srchat"
    fi
}
if ! own "$root" || ! own "$mem"; then fail root; fi
mkdir -p "$root/bin" "$root/keys" "$root/ssh" "$root/state/processes" || fail root
chmod 0711 "$root/bin" || fail root
chmod 0755 "$root/keys" || fail root
[ -z "${SRCHAT_ONE_USER:-}" ] || : >"$root/one-user"
rm -f "$root/state/visited" "$root/state/heartbeat"

# The deadline first: an expired pod that the provider starts again never serves again.
booted=$(uptime_s)
offset=$(($(date +%s) - booted))
until=$(($(number "${SRCHAT_DEADLINE:-}" 0) - offset))
later=$(($(number "$(first_word "$root/state/deadline")" 0) - offset))
[ "$later" -gt "$until" ] && until=$later
printf '%s %s\n' "$offset" "$until" >"$root/state/clock" || fail root
# What the watchdog ended stays ended, whatever the clock says now.
[ ! -e "$root/state/ended" ] || until=0
watchdog "$until" "$offset" "$booted" >/dev/null 2>&1 &
watchdog_pid=$!
kill -0 "$watchdog_pid" 2>/dev/null || fail watchdog
[ "$booted" -lt "$until" ] || fail expired

boot=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf '%s\n' "$boot" >"$root/state/boot" || fail root

# SSH sessions do not have the image's variables, and engines need these.
env | while IFS= read -r line; do
    case $line in
    PATH=* | LD_LIBRARY_PATH=* | CUDA_*=* | NVIDIA_*=*) printf '%s\n' "$line" ;;
    esac
done >"$root/state/image.env"

if command -v nvidia-smi >/dev/null 2>&1; then
    timeout 20 nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits >"$root/state/gpu" 2>/dev/null &
fi

# find_program NAME DIR...: on PATH or in one of the folders.
find_program() {
    command -v "$1" 2>/dev/null && return 0
    name=$1
    shift
    for place in "$@"; do
        if [ -x "$place/$name" ]; then
            printf '%s\n' "$place/$name"
            return 0
        fi
    done
    return 1
}
find_sshd() { find_program sshd /usr/sbin /usr/local/sbin /sbin; }
find_sftp() { find_program sftp-server /usr/lib/openssh /usr/libexec/openssh /usr/lib/ssh /usr/libexec; }

install_programs() {
    if command -v apt-get >/dev/null 2>&1; then
        # No service may be started by a package.
        export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
        apt-get -qq update && apt-get -qq -y --no-install-recommends install openssh-server openssh-sftp-server curl ca-certificates
    elif command -v dnf >/dev/null 2>&1; then
        dnf -q -y install openssh-server curl ca-certificates
    elif command -v apk >/dev/null 2>&1; then
        apk add -q openssh-server openssh-sftp-server curl ca-certificates coreutils
    else
        return 1
    fi
}

# bounded SECONDS FUNCTION: a function cannot be run by timeout.
bounded() {
    "$2" >"$root/ssh/install.log" 2>&1 &
    installer=$!
    (sleep "$1" && kill "$installer") >/dev/null 2>&1 &
    alarm=$!
    wait "$installer"
    result=$?
    kill "$alarm" 2>/dev/null
    return "$result"
}
if ! find_sshd >/dev/null || ! find_sftp >/dev/null; then
    bounded 180 install_programs
fi
sshd=$(find_sshd) || fail install
sftp=$(find_sftp) || fail install
ln -sf "$sftp" "$root/bin/sftp-server" || fail install
if ! command -v curl >/dev/null 2>&1 && ! one_user; then
    # Until it is there the watchdog can only clear.
    install_programs >/dev/null 2>&1 &
fi

# add_user NAME: three lines. `*` is no password; `!` would lock the account for keys as well.
add_user() {
    uid_of "$1" >/dev/null && return 0
    id=64100
    while :; do
        taken=no
        while IFS=: read -r _ _ uid _; do [ "$uid" = "$id" ] && taken=yes; done </etc/passwd
        while IFS=: read -r _ _ gid _; do [ "$gid" = "$id" ] && taken=yes; done </etc/group
        [ "$taken" = yes ] || break
        id=$((id + 1))
    done
    printf '%s:x:%s:%s::%s:/bin/sh\n' "$1" "$id" "$id" "$root/homes/$1" >>/etc/passwd &&
        printf '%s:x:%s:\n' "$1" "$id" >>/etc/group &&
        printf '%s:*:20000:0:99999:7:::\n' "$1" >>/etc/shadow
}
keys="$root/keys/root $root/keys/srchat-gw"
if ! one_user; then
    for user in "$GW" "$ENGINE" "$FETCH"; do add_user "$user" || fail root; done
    uid_of sshd >/dev/null || printf 'sshd:x:74:65534::/run/sshd:/bin/false\n' >>/etc/passwd
    mkdir -p /run/sshd && chmod 0755 /run/sshd
    keys="$root/keys/%u"
fi

rm -f "$root/ssh/host_key" "$root/ssh/host_key.pub"
find_keygen=$(find_program ssh-keygen "${sshd%/*}" /usr/bin) || fail hostkey
"$find_keygen" -q -t ed25519 -N '' -C '' -f "$root/ssh/host_key" >/dev/null 2>&1 || fail hostkey
read -r kind blob _ <"$root/ssh/host_key.pub" || fail hostkey
key="$kind $blob"

printf '%s\n' "$SRCHAT_CONTROLLER_KEY" >"$root/keys/root" || fail sshd
chmod 0644 "$root/keys/root" || fail sshd
{
    if [ -n "${SRCHAT_SSH_LISTEN:-}" ]; then
        printf 'ListenAddress %s\n' "$SRCHAT_SSH_LISTEN"
    else
        printf 'Port 22\n'
    fi
    # A rig's folder may lie below a world-writable one; a root of ours on a pod does not.
    if one_user; then printf 'StrictModes no\n'; else printf 'AllowUsers root %s\n' "$GW"; fi
    # bash reads ~/.bashrc for every command that comes over SSH: the image's may say or do anything, or never end.
    cat <<END
HostKey $root/ssh/host_key
AuthorizedKeysFile $keys
PidFile $root/ssh/pid
SetEnv SRCHAT_ROOT=$root SRCHAT_MEMORY=$mem HOME=$root
HostKeyAlgorithms ssh-ed25519
PubkeyAuthentication yes
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
AllowAgentForwarding no
AllowTcpForwarding local
AllowStreamLocalForwarding no
GatewayPorts no
PermitTunnel no
PermitUserEnvironment no
PermitUserRC no
PermitTTY no
X11Forwarding no
PrintMotd no
PrintLastLog no
UseDNS no
Compression no
MaxSessions 256
MaxStartups 64:30:256
LoginGraceTime 30
ClientAliveInterval 30
ClientAliveCountMax 4
LogLevel ERROR
Subsystem sftp internal-sftp
END
} >"$root/ssh/config" || fail sshd

hash() { sha256sum | cut -c 1-64; }
tag=$(printf '%s%s%s%s' "$SRCHAT_NONCE" "$(printf '%s' "${RUNPOD_POD_ID:-}" | hash)" "$(printf '%s' "$boot" | hash)" "$(printf '%s' "$key" | hash)" | hash)
unset SRCHAT_NONCE
say() { printf 'SRCHAT-HOST %s %s %s\n' "$boot" "$key" "$tag"; }

serve() {
    rm -f "$root/ssh/pid"
    "$sshd" -D -f "$root/ssh/config" -E "$root/ssh/log" >/dev/null 2>&1 &
    sshd_pid=$!
    # sshd writes its pid once it listens: whoever reads the line may connect.
    round=0
    while [ ! -s "$root/ssh/pid" ]; do
        kill -0 "$sshd_pid" 2>/dev/null && [ "$round" -lt 500 ] || return 1
        round=$((round + 1))
        sleep 0.01
    done
}
serve || fail sshd
say

# A line can be lost: again every 30 seconds until somebody has come.
while [ ! -e "$root/state/visited" ]; do
    sleep 30
    [ -e "$root/state/visited" ] || say
done 2>/dev/null &

# sshd may fall to the kernel's memory killer; three new starts tell that from one that cannot run.
starts=1
while :; do
    wait "$sshd_pid"
    kill -0 "$sshd_pid" 2>/dev/null && continue
    starts=$((starts + 1))
    if [ "$starts" -gt 4 ] || ! serve; then fail sshd; fi
done
