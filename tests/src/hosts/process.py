"""Keeps one machine that has no namespaces: whatever it starts becomes a descendant of this process and ends with it.

Orphans come back to a "child subreaper", so that a daemon cannot run away by double-forking; process groups alone
would lose it. Speaks on stderr: "up PID", then "ready"; reads one JSON line {argv, env, folders} on stdin. SIGTERM,
or the end of the one who started this, ends everything; so does the end of the start command, PID 1 of the pod.
"""
import ctypes
import json
import os
import shutil
import signal
import sys

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
parent = os.getppid()
prctl = ctypes.CDLL(None).prctl
asked = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, asked)
if prctl(SET_CHILD_SUBREAPER, 1) or prctl(SET_PDEATHSIG, signal.SIGTERM) or os.getppid() != parent:
    sys.exit("not a subreaper")
# A group of its own: Ctrl-C in a terminal is for the rig, which then ends its machines in order.
os.setsid()
print("up", os.getpid(), file=sys.stderr, flush=True)
wish = json.loads(sys.stdin.readline())


def children():
    """The processes whose parent is this one."""
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    yield int(name)
        except (OSError, ValueError, IndexError):
            pass


def end():
    """Kills what is left, until no child comes back, and takes the folders away."""
    while True:
        for pid in children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.wait()
        except ChildProcessError:
            break
    for folder in wish["folders"]:
        shutil.rmtree(folder, ignore_errors=True)


print("ready", file=sys.stderr, flush=True)
first = os.fork()
if first == 0:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(1, 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, asked)
    try:
        os.chdir(wish["env"]["HOME"])
        os.execvpe(wish["argv"][0], wish["argv"], wish["env"])
    except OSError as error:
        print(f"{wish['argv'][0]}: {error.strerror}", flush=True)
        os._exit(127)

how = None
while how is None:
    if signal.sigwait(asked) != signal.SIGCHLD:
        how = int(signal.SIGKILL)
        break
    while how is None:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        if pid == first:
            how = status
end()
# As container runtimes put it: 128 and the signal.
os._exit(128 + os.WTERMSIG(how) if os.WIFSIGNALED(how) else os.WEXITSTATUS(how))
