"""The lab host of a user without root: one user namespace for all of its containers, and a network namespace in which
their bridges are.

Called by `rootless.py`, which makes it with the first command and joins it with the others, and by `wiring.py`. A
keeper process holds both namespaces. Every command and every monitor holds a shared lock of the file lab.lock for as
long as it lives (flock(2); forks inherit it, what they execute does not), and the keeper waits for an exclusive one:
when nobody is left it ends, and the namespaces with it. Sources: user_namespaces(7), network_namespaces(7), flock(2).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from unionfs.linux import capabilities, namespaces, terminal
from unionfs.linux.namespaces import CLONE_NEWNET

_LOCK, _MAKING, _KEEPER = "lab.lock", "lab.making", "lab"
_MOST_DESCRIPTORS = 1024


def home(root: str) -> str:
    """The network namespace in which bridges are: a path, "" for this process's own, as root of the machine has it."""
    if capabilities.rules_the_machine():
        return ""
    keeper = find(root)
    return f"/proc/{keeper}/ns/net" if keeper else ""


def hold(root: str) -> None:
    """Keep the lab, there already or to come, from ending before this process and its forks do."""
    os.makedirs(root, 0o711, exist_ok=True)
    fcntl.flock(os.open(os.path.join(root, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_SH)


def making(root: str) -> int:
    """A descriptor, to be closed, with the right to make the lab: one process at a time has it."""
    fd = os.open(os.path.join(root, _MAKING), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def find(root: str) -> int:
    """The pid of the keeper, 0 where there is none."""
    with suppress(OSError, ValueError), open(os.path.join(root, _KEEPER), encoding="utf-8") as file:
        pid, start = map(int, file.read().split())
        if namespaces.start_time(pid) == start:
            return pid
    return 0


def keep(root: str) -> None:
    """Fork the keeper of this process's user namespace, with a network namespace of its own; it is there on return."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            _keep(root, writing)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        pipe.read()


def _keep(root: str, ready: int) -> None:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.closerange(3, ready)
    os.closerange(ready + 1, _MOST_DESCRIPTORS)
    namespaces.set_name(b"unionfs lab")
    namespaces.unshare(CLONE_NEWNET)
    terminal.loopback_up()
    me = os.getpid()
    path = os.path.join(root, _KEEPER)
    with open(f"{path}.{me}", "w", encoding="utf-8") as file:
        file.write(f"{me} {namespaces.start_time(me)}")
    os.rename(f"{path}.{me}", path)
    os.close(ready)
    fcntl.flock(os.open(os.path.join(root, _LOCK), os.O_RDWR | os.O_CLOEXEC), fcntl.LOCK_EX)
    os.unlink(path)
