"""Makes sockets in the network namespace that this was started in, for an owner who may not enter it.

Stdin is a Unix socket: a request a message ("up", "listen HOST PORT", "connect HOST PORT"), the answer "ok" with the
new socket's descriptor, or what went wrong. Ends when the other side has gone.
"""
import array
import fcntl
import socket
import struct

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
asked = socket.socket(fileno=0)
while True:
    words = asked.recv(4096).decode().split()
    if not words:
        break
    made = None
    try:
        if words[0] == "up":
            with socket.socket() as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        else:
            address = (words[1], int(words[2]))
            made = socket.socket(socket.AF_INET6 if ":" in words[1] else socket.AF_INET)
            if words[0] == "listen":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(address)
                made.listen(128)
            else:
                made.settimeout(5)
                made.connect(address)
                made.settimeout(None)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))] if made else []
        asked.sendmsg([b"ok"], rights)
    except OSError as error:
        asked.sendmsg([str(error).encode()])
    finally:
        if made:
            made.close()
