# Closes, ends what runs, erases, looks again, and reports what was seen.

seconds=60
while read -r name value; do
    case $name in
    installation) installation=$(decoded "$value") ;;
    uid) uid=$(decoded "$value") ;;
    attempt) attempt=$(decoded "$value") ;;
    seconds) seconds=$(decoded "$value") ;;
    esac
done
guard "${installation:-}" "${uid:-}" "${attempt:-}"
plain_number "$seconds" || seconds=60

# gpu: MiB in use at boot and now, in all cards together.
gpu() {
    if [ ! -s "$root/state/gpu" ] || ! command -v nvidia-smi >/dev/null 2>&1; then
        printf -
        return 0
    fi
    before=0 after=0
    while read -r mib; do plain_number "$mib" && before=$((before + mib)); done <"$root/state/gpu"
    timeout 20 nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits </dev/null >"$root/state/gpu.now" 2>/dev/null || {
        printf -
        return 0
    }
    while read -r mib; do plain_number "$mib" && after=$((after + mib)); done <"$root/state/gpu.now"
    printf '%s %s' "$before" "$after"
}

printf 'srchat 1\n'
cleared=yes
clear_host "$seconds" || cleared=no
users=yes
one_user && users=no
printf 'users %s\ngpu %s\ncleared %s\nend\n' "$users" "$(gpu)" "$cleared"
