#!/bin/sh
# What every script begins with: its roots, its parameters, and the guard that keeps it off what is not ours.
umask 077
root=${SRCHAT_ROOT:?} mem=${SRCHAT_MEMORY:?}
PATH=${PATH:-/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# decoded BASE64: its text; `-` is nothing. A trailing line end is lost, which no parameter of ours has.
decoded() {
    [ "$1" = - ] || printf '%s' "$1" | base64 -d
}

# plain_number TEXT: whether it is one that the shell can count with.
plain_number() {
    case $1 in '' | *[!0-9]* | ????????????????*) return 1 ;; esac
}

# guard INSTALLATION UID ATTEMPT: both roots must say that they are this attempt's.
guard() {
    for place in "$root" "$mem"; do
        said=''
        if [ -d "$place" ] && [ ! -L "$place" ]; then said=$(cat "$place/.srchat" 2>/dev/null); fi
        [ "$said" = "$1 $2 $3" ] || die "the host is not this attempt's"
    done
}

# put FILE: stdin takes the file's place in one step.
put() {
    cat >"$1.new.$$" && mv -f "$1.new.$$" "$1"
}

# word FILE: the first word of a plain file, or nothing.
word() {
    first=''
    if [ -f "$1" ] && [ ! -L "$1" ]; then read -r first _ 2>/dev/null <"$1"; fi
    printf '%s' "$first"
}

encoded() { base64 -w 0; }
