# PID 1 of a new PID namespace, in mount, network, IPC and UTS namespaces of its own, whose root is still the outside's:
# builds the pod's root, waits for the network, and becomes the start command. Everything it mounts is in memory and
# goes with the namespace. Speaks on stderr: "up PID", then complaints or "ready"; after that stderr is the pod's log.
# sh namespace.sh SHM NAME HOME HIDDEN MIRROR [VISIBLE...] -- ARGV...
# Lower-case variables only: the pod's environment is already in place and must arrive unchanged.
set -eu
read -r pid rest </proc/self/stat
echo "up $pid" >&2
image=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin
shm=$1 name=$2 home=$3 hidden=$4 mirror=$5
shift 5

# /sys is a folder everywhere and nothing of an image lies there: a good place to build in.
mount -t tmpfs -o mode=700 tmpfs /sys
mkdir /sys/upper /sys/work /sys/root
chmod 755 /sys/upper
mount -t overlay overlay -o lowerdir=/,upperdir=/sys/upper,workdir=/sys/work /sys/root
cd /sys/root

mkdir -p proc sys dev run tmp var/tmp root home
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755,nosuid tmpfs dev
mkdir dev/shm dev/pts
mount -t tmpfs -o "mode=1777,nosuid,nodev,noexec,size=$shm" tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,nosuid,noexec devpts dev/pts
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=1777 tmpfs var/tmp
# Nobody's home is an image's: keys, kubeconfigs and caches of the one who runs the tests stay outside.
mount -t tmpfs -o mode=755 tmpfs home
mount -t tmpfs -o mode=700 tmpfs root
case $home in /root | /home | /home/* | /) ;; *) [ ! -d ".$home" ] || mount -t tmpfs -o mode=755 tmpfs ".$home" ;; esac

while [ "$1" != -- ]; do
	mkdir -p ".$1"
	mount --bind -o ro "$1" ".$1"
	# Everybody inside may enter what the image ships, wherever it lies outside.
	above=${1%/*}
	while [ -n "$above" ]; do
		chmod o+x ".$above"
		above=${above%/*}
	done
	shift
done
shift

echo "$name" >/proc/sys/kernel/hostname
echo "$name" >etc/hostname
printf '127.0.0.1\tlocalhost %s\n::1\tlocalhost\n' "$name" >etc/hosts
rm -f etc/ssh/ssh_host_*

# What the image does not ship is put aside where only root can find it, for the stand-in of apt-get below.
store=.srchat-mirror
[ -z "$hidden" ] || mkdir -m 700 "$store"
for what in $hidden; do
	case $what in
	sshd)
		files="usr/sbin/sshd usr/lib/openssh/sftp-server usr/lib/sftp-server usr/libexec/openssh/sftp-server usr/lib/ssh/sftp-server"
		sed -i /^sshd:/d etc/passwd
		;;
	curl) files="usr/bin/curl usr/local/bin/curl" ;;
	python) files=$(echo usr/bin/python* usr/local/bin/python*) ;;
	esac
	for file in $files; do
		[ -e "$file" ] || [ -L "$file" ] || continue
		mkdir -p "$store/$what/${file%/*}"
		mv "$file" "$store/$what/$file"
	done
done
[ "$mirror" = no ] || {
	rm -f usr/bin/apt-get
	cat >usr/bin/apt-get <<-'END'
		#!/bin/sh
		# Stands in for a package mirror: "installs" what the image does not ship by putting it back.
		back() { [ ! -d "/.srchat-mirror/$1" ] || cp -a "/.srchat-mirror/$1/." /; }
		for word; do
			case $word in
			openssh-server)
				back sshd
				grep -q ^sshd: /etc/passwd || echo "sshd:x:105:65534::/run/sshd:/usr/sbin/nologin" >>/etc/passwd
				;;
			curl) back curl ;;
			python3) back python ;;
			esac
		done
	END
	chmod 755 usr/bin/apt-get
}

mkdir .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside
cd /

# The network's side is built from outside, meanwhile.
read -r _
echo ready >&2
exec </dev/null 2>&1
unset OLDPWD
PATH=$image
# What Docker leaves a container: no CAP_SYS_ADMIN, so no mounts, and no CAP_SYS_PTRACE.
exec setpriv --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap -- "$@"
