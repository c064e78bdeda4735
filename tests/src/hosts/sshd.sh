# The smallest start command with an sshd in it: makes a host key, says it ("HOST TYPE KEY"), lets the key in TRIAL_KEY
# in, and becomes sshd. Where users can be made it makes one, as boot does, and becomes it once.
set -eu
root=${SRCHAT_ROOT:-/srchat-trial}
mkdir -p "$root"
chmod 755 "$root"
sshd=$(command -v sshd || echo /usr/sbin/sshd)
ssh-keygen -q -t ed25519 -N '' -C '' -f "$root/key"
printf '%s\n' "$TRIAL_KEY" >"$root/authorized"
{
	echo "ListenAddress ${SRCHAT_SSH_LISTEN:-0.0.0.0:22}"
	echo "HostKey $root/key"
	echo "AuthorizedKeysFile $root/authorized"
	echo "PidFile none"
	echo "UsePAM no"
	# The folder may lie under /tmp, which everybody may write to.
	echo "StrictModes no"
	echo "PasswordAuthentication no"
	echo "KbdInteractiveAuthentication no"
	echo "Subsystem sftp internal-sftp"
	# The login shell of whoever runs this would read files of theirs, and act on them.
	echo "SetEnv HOME=$root"
} >"$root/config"
if [ -z "${SRCHAT_ONE_USER:-}" ]; then
	mkdir -p /run/sshd
	echo 'trial:*:1234:' >>/etc/group
	echo 'trial:x:1234:1234::/:/bin/sh' >>/etc/passwd
	echo 'trial:*::0:99999:7:::' >>/etc/shadow
	[ "$(chroot --userspec=trial / id -un)" = trial ]
fi
echo "HOST $(cat "$root/key.pub")"
exec "$sshd" -D -e -f "$root/config"
