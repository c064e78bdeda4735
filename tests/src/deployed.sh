# The start command of a host as deploy leaves it: the gate in its place, the gateways' key bound to it, sshd.
set -eu
root=$SRCHAT_ROOT
mem=$SRCHAT_MEMORY
mkdir -p "$root/bin" "$root/activity" "$root/logs" "$root/state" "$root/home" "$mem/files"
chmod 711 "$root" "$root/bin"
chmod 700 "$mem/files"
printf '%s' "$GATE" >"$root/bin/gate"
chmod 755 "$root/bin/gate"
for place in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server; do
	[ -x "$place" ] && ln -sf "$place" "$root/bin/sftp-server"
done
[ -x "$root/bin/sftp-server" ]
printf 'line %s\n' 1 2 3 4 5 >"$root/logs/engine.log"
# sshd wants its empty folder when it runs as root, and distributions make it only with their own service.
[ "$(id -u)" != 0 ] || install -d -m 755 /run/sshd
sshd=$(command -v sshd || echo /usr/sbin/sshd)
ssh-keygen -q -t ed25519 -N '' -C '' -f "$root/key"
printf 'restrict,port-forwarding,permitopen="127.0.0.1:%s",command="%s/bin/gate" %s\n' "$ENGINE_PORT" "$root" "$GATEWAYS_KEY" >"$root/authorized"
{
	echo "ListenAddress ${SRCHAT_SSH_LISTEN:-127.0.0.1:22}"
	echo "HostKey $root/key"
	echo "AuthorizedKeysFile $root/authorized"
	# A login shell reads what the user's own home has for it, which may be anything.
	echo "SetEnv HOME=$root/home SRCHAT_ROOT=$root SRCHAT_MEMORY=$mem"
	echo "AllowTcpForwarding local"
	echo "PidFile none"
	echo "UsePAM no"
	# The folder may lie under /tmp, which everybody may write to.
	echo "StrictModes no"
	echo "PasswordAuthentication no"
	echo "KbdInteractiveAuthentication no"
	echo "MaxSessions 100"
	echo "MaxStartups 100"
} >"$root/config"
read -r kind key _ <"$root/key.pub"
echo "HOST $kind $key"
echo "ROOT $root"
echo "FILES $mem/files"
exec "$sshd" -D -e -f "$root/config"
