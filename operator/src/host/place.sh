# What deploy and its job have in common: users, ports, the gateways' key.

# grant USER PATH...: gives paths to a user, where there are users.
grant() {
    one_user && return 0
    owner=$1
    shift
    chown -h "$owner:$owner" -- "$@"
}

# listening PORT: whether somebody listens on it, on any address.
listening() {
    hex=$(printf ':%04X' "$1")
    for table in /proc/net/tcp /proc/net/tcp6; do
        while read -r _ local _ state _; do
            case $local,$state in *"$hex",0A) return 0 ;; esac
        done 2>/dev/null <"$table"
    done
    return 1
}

# free_port: prints one below the range that the system gives out by itself.
free_port() {
    tries=0
    while [ "$tries" -lt 50 ]; do
        random=$(od -An -N2 -tu2 /dev/urandom)
        port=$((20000 + random % 12000))
        if ! listening "$port"; then
            printf '%s' "$port"
            return 0
        fi
        tries=$((tries + 1))
    done
    return 1
}

# admit PORT: the gateways' key, bound to this port and to the gate.
admit() {
    printf 'restrict,port-forwarding,permitopen="127.0.0.1:%s",command="%s/bin/gate" %s\n' "$1" "$root" "$(cat "$deploy/gateways_key")" >"$root/keys/srchat-gw.new" &&
        chmod 0644 "$root/keys/srchat-gw.new" &&
        mv -f "$root/keys/srchat-gw.new" "$root/keys/srchat-gw"
}

deploy=$root/state/deploy
