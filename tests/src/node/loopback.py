"""A CNI plugin, last in its chain: in a pod, what is said to loopback goes to the loopback of the node, save for the ports that
the pod itself listens at. The rig's world (simulator, Hub, rented hosts) is on loopback, since srchat sends a provider's key
over plain HTTP to no other place."""

import json
import os
import subprocess
import sys


def inside(*command):
    subprocess.run(["nsenter", f"--net={os.environ['CNI_NETNS']}", *command], check=True, stdout=sys.stderr)


def nat(chain, *rule):
    inside("iptables", "--wait", "--table", "nat", "--append", chain, "--protocol", "tcp", *rule)


verb = os.environ["CNI_COMMAND"]
if verb == "VERSION":
    print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}))
elif verb == "ADD":
    settings = json.load(sys.stdin)
    own = ",".join(str(port) for port in settings["ownPorts"])
    # A path in /proc/sys leads to the namespace of whoever opens it.
    inside("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet")
    nat("OUTPUT", "--destination", "127.0.0.1", "--match", "multiport", "!", "--dports", own,
        "--jump", "DNAT", "--to-destination", settings["loopback"])
    nat("POSTROUTING", "--source", "127.0.0.1", "--destination", settings["loopback"], "--jump", "MASQUERADE")
    print(json.dumps(settings["prevResult"]))
