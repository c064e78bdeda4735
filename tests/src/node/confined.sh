# PID 1 of PID, mount and network namespaces of its own: makes them a machine that can be a node, runs the command in it,
# and ends with it. Whatever a node leaves behind (pods, shims, mounts, networks, files) ends with these namespaces and
# with the folder.
# sh confined.sh FOLDER ADDRESS LOOPBACK COMMAND...
set -eu
folder=$1 address=$2 loopback=$3
shift 3

# What a node writes to fixed places.
mkdir "$folder/lib" "$folder/log" "$folder/sysctl"
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$folder/lib" /var/lib
mount --bind "$folder/log" /var/log
# Whoever asks for a name outside of a pod is refused at once, since nobody answers on loopback.
: >"$folder/resolv.conf"
mount --bind "$folder/resolv.conf" /etc/resolv.conf
# The kubelet would set these for the whole machine, which is not its own. It finds them set.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	name=${setting%=*}
	file=$folder/sysctl/$(echo "$name" | tr / .)
	echo "${setting#*=}" >"$file"
	mount --bind "$file" "/proc/sys/$name"
done

# One bridge with the node's addresses and nothing behind it: what has no other way goes there, and no further.
ip link set lo up
ip link add srchat0 type bridge
ip address add "$address/24" dev srchat0
ip address add "$loopback/24" dev srchat0
ip link set srchat0 up
ip route add default dev srchat0
echo 1 >/proc/sys/net/ipv4/ip_forward
# The world outside of the cluster listens on loopback, and pods reach it by this address (see loopback.py).
echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
iptables --wait --table nat --append PREROUTING --destination "$loopback" --protocol tcp --jump DNAT --to-destination 127.0.0.1

# Not exec: whoever loses its parent becomes a child of PID 1, and a shell buries what it did not bear.
"$@"
