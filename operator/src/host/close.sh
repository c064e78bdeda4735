# Ends the gateways' access: their key first, so that nobody comes in any more, then whoever is in.

while read -r name value; do
    case $name in
    installation) installation=$(decoded "$value") ;;
    uid) uid=$(decoded "$value") ;;
    attempt) attempt=$(decoded "$value") ;;
    esac
done
guard "${installation:-}" "${uid:-}" "${attempt:-}"

rm -f "$root/keys/srchat-gw" "$root/keys/srchat-gw.new"
left=$(end gateway)
key_gone=yes
[ ! -e "$root/keys/srchat-gw" ] || key_gone=no
cat <<END
srchat 1
key_gone $key_gone
left $left
end
END
