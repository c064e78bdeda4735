# PID 1 of a new PID namespace, in mount, network, IPC and UTS namespaces of its own, whose root is still the outside's:
# builds the pod's root, waits for the network, and becomes the start command. Everything it mounts is in memory and
# goes with the namespace. Speaks on stderr: "up PID", then complaints or "ready"; after that stderr is the pod's log.
# sh namespace.sh RIGHTS SHM NAME HOME HIDDEN MIRROR [VISIBLE...] -- ARGV...
# RIGHTS is "root", or "user" in a user namespace with subordinate ids: what belongs to the real root is nobody's there.
# Lower-case variables only: the pod's environment is already in place and must arrive unchanged.
set -eu
umask 022
read -r pid rest </proc/self/stat
echo "up $pid" >&2
image=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin
rights=$1 shm=$2 name=$3 home=$4 hidden=$5 mirror=$6
shift 6

# /sys is a folder everywhere and nothing of an image lies there: a good place to build in.
mount -t tmpfs -o mode=700 tmpfs /sys
mkdir /sys/root
if [ "$rights" = root ]; then
	mkdir /sys/upper /sys/work
	chmod 755 /sys/upper
	mount -t overlay overlay -o lowerdir=/,upperdir=/sys/upper,workdir=/sys/work /sys/root
	cd /sys/root
else
	# The kernel refuses an overlay of a root with mounts that a user namespace may not undo, and nobody's files
	# cannot be changed through one. So /etc is a copy, the folders that are made below are new, the rest is shown.
	mount -t tmpfs -o mode=755 tmpfs /sys/root
	cd /sys/root
	for entry in /*; do
		case $entry in
		/etc) cp -R -P --preserve=mode /etc . 2>/dev/null || true ;;
		/proc | /sys | /dev | /run | /tmp | /root | /home | /lost+found) ;;
		*)
			if [ -L "$entry" ]; then
				cp -P "$entry" .
			elif [ -d "$entry" ]; then
				mkdir ".$entry"
				mount --rbind "$entry" ".$entry"
			fi
			;;
		esac
	done
	# The real ones could not be read; sshd takes a user without an entry for locked.
	rm -f etc/shadow etc/gshadow
	(umask 077 && sed 's/:.*/:*::0:99999:7:::/' etc/passwd >etc/shadow && sed 's/:.*/:*::/' etc/group >etc/gshadow)
fi

mkdir -p proc sys dev run tmp var/tmp root home
mount -t proc -o nosuid,nodev,noexec proc proc
# A user namespace may not see more of it than the outside shows; nothing of ours needs it.
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys 2>/dev/null || [ "$rights" = user ]
mount -t tmpfs -o mode=755,nosuid tmpfs dev
mkdir dev/shm dev/pts
mount -t tmpfs -o "mode=1777,nosuid,nodev,noexec,size=$shm" tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,nosuid,noexec devpts dev/pts
if [ "$rights" = root ]; then
	cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
else
	for device in null zero full random urandom tty; do
		: >"dev/$device"
		mount --bind "/dev/$device" "dev/$device"
	done
fi
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
case $home in /root | /home | /home/* | /tmp | /tmp/* | /) ;; *) [ ! -d ".$home" ] || mount -t tmpfs -o mode=755 tmpfs ".$home" ;; esac

while [ "$1" != -- ]; do
	mkdir -p ".$1"
	# A user namespace may clear no flag of the mount that it shows, nor hide what is mounted below it.
	mount --bind -o ro "$1" ".$1" 2>/dev/null || mount --bind -o ro,nosuid,nodev "$1" ".$1" 2>/dev/null ||
		mount --rbind "$1" ".$1"
	# Everybody inside may enter what the image ships, wherever it lies outside.
	above=${1%/*}
	while [ -n "$above" ]; do
		chmod o+x ".$above" 2>/dev/null || [ "$rights" = user ]
		above=${above%/*}
	done
	shift
done
shift

if [ "$rights" = root ]; then
	echo "$name" >/proc/sys/kernel/hostname
else
	hostname "$name"
fi
echo "$name" >etc/hostname
printf '127.0.0.1\tlocalhost %s\n::1\tlocalhost\n' "$name" >etc/hosts
rm -f etc/ssh/ssh_host_*

# What the image does not ship is put aside where only root can find it, for the stand-in of apt-get below.
store=.srchat-mirror
if [ -n "$hidden" ]; then
	mkdir -m 700 "$store"
	if [ "$rights" = user ]; then
		# Nobody's folders cannot be changed: in their place stand folders of links to what they hold.
		for folder in usr/bin usr/sbin usr/lib/openssh usr/libexec/openssh usr/local/bin; do
			if [ ! -d "$folder" ] || [ -L "$folder" ]; then continue; fi
			mkdir -p ".srchat-system/$folder"
			mount --rbind "/$folder" ".srchat-system/$folder"
			mount -t tmpfs -o mode=755 tmpfs "$folder"
			find "/$folder" -mindepth 1 -maxdepth 1 -printf '/.srchat-system%p\n' | xargs -r ln -s -t "$folder"
		done
	fi
fi
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
		if [ ! -e "$file" ] && [ ! -L "$file" ]; then continue; fi
		mkdir -p "$store/$what/${file%/*}"
		# What cannot be moved must at least lead nowhere: a link to what was.
		mv "$file" "$store/$what/$file" 2>/dev/null || [ ! -e "$file" ]
	done
done
if [ -n "$hidden" ] && [ "$mirror" = yes ]; then
	rm -f usr/bin/apt-get
	cat >usr/bin/apt-get <<-'END'
		#!/bin/sh
		# Stands in for a package mirror: "installs" what the image does not ship by putting it back.
		back() {
			cd "/.srchat-mirror/$1" 2>/dev/null || return 0
			find . ! -type d | while read -r file; do cp -p -P "$file" "/$file" 2>/dev/null; done
		}
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
fi

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
