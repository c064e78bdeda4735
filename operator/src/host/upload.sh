# Lines `NAME SHA256 BASE64` on stdin become files in bin, each checked before it takes its name.
umask 077
cd "$SRCHAT_ROOT/bin" || exit 1
rm -f digest
while read -r name sum data; do
    case $name in visit | deploy | job | close | clear | gate | digest) ;; *) exit 1 ;; esac
    printf %s "$data" | base64 -d >".$name.$$" || exit 1
    found=$(sha256sum <".$name.$$")
    [ "${found%% *}" = "$sum" ] || exit 1
    chmod 0700 ".$name.$$" || exit 1
    if [ "$name" = gate ] && [ ! -e "$SRCHAT_ROOT/one-user" ]; then
        chown root:srchat-gw ".$name.$$" && chmod 0750 ".$name.$$" || exit 1
    fi
    mv -f ".$name.$$" "$name" || exit 1
done
[ -f digest ]
