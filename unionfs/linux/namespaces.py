"""Namespaces, and what surrounds them: unshare(2), setns(2), pivot_root(2), prctl(2), sethostname(2), pidfds.

Called by the container floor. Each is the system call and no more; every function raises OSError. Sources:
namespaces(7), unshare(2), setns(2), pivot_root(2), prctl(2), pidfd_open(2), proc_pid_stat(5).
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

from unionfs.linux.libc import check, libc

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000

FLAG_NAMES = {
    CLONE_NEWUSER: "CLONE_NEWUSER", CLONE_NEWNS: "CLONE_NEWNS", CLONE_NEWPID: "CLONE_NEWPID",
    CLONE_NEWUTS: "CLONE_NEWUTS", CLONE_NEWIPC: "CLONE_NEWIPC", CLONE_NEWNET: "CLONE_NEWNET",
    CLONE_NEWCGROUP: "CLONE_NEWCGROUP",
}  # fmt: skip

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_START_TIME = 19  # of the fields of /proc/PID/stat behind the command's name


def names_of(flags: int) -> str:
    """CLONE_NEWNS|CLONE_NEWPID"""
    return "|".join(name for flag, name in FLAG_NAMES.items() if flags & flag)


def unshare(flags: int) -> None:
    """unshare(2). With CLONE_NEWPID it is the children made from now on that are born in the new namespace."""
    check(libc.unshare(flags))


def setns(descriptor: int, flags: int = 0) -> None:
    """setns(2): into the namespace of a descriptor of /proc/PID/ns, or into those `flags` name of a pidfd."""
    check(libc.setns(descriptor, flags))


def pivot_root_here() -> None:
    """pivot_root(".", "."): the working directory becomes the root, with the old root mounted on top of it."""
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root(2) has no known number on {os.uname().machine}")
    check(libc.syscall(number, ctypes.c_char_p(b"."), ctypes.c_char_p(b".")))


def set_hostname(name: bytes) -> None:
    """sethostname(2)."""
    check(libc.sethostname(name, len(name)))


def die_with_parent(signal: int) -> None:
    """Have this process sent `signal` when the thread that forked it ends (PR_SET_PDEATHSIG)."""
    check(libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def set_dumpable(on: bool) -> None:
    """Whether others of this user may look into this process by ptrace(2) and /proc (PR_SET_DUMPABLE)."""
    check(libc.prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0))


def set_name(name: bytes) -> None:
    """The name that ps(1) shows for this thread, 15 bytes (PR_SET_NAME)."""
    check(libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name[:15]), 0, 0, 0))


def start_time(pid: int) -> int:
    """When a process began, in clock ticks since boot; with its pid it names a process for good. 0: there is none."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        if fields[0] not in (b"Z", b"X"):
            return int(fields[_START_TIME])
    return 0
