"""Capabilities of the calling thread (capabilities(7)), by capget(2) and capset(2).

Called by the FUSE floor, by `unionfs doctor`, and by the container floor, which takes them away. Raises OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from unionfs.linux.libc import check, libc

CAP_FSETID, CAP_SYS_ADMIN, CAP_SYS_NICE = 4, 21, 23
_FIRST_USER_NAMESPACE = "user:[4026531837]"
_VERSION = 0x20080522
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: their low halves, then their high ones


def rules_the_machine(capability: int = CAP_SYS_ADMIN) -> bool:
    """Whether this thread has a capability (one of the first 32) in the first user namespace, not in one of its own."""
    try:
        if os.readlink("/proc/self/ns/user") != _FIRST_USER_NAMESPACE:
            return False
        header, sets = _header(), _buffer()
        check(libc.capget(header, sets))
    except OSError:
        return False
    effective: int = _SETS.unpack(sets.raw)[0]
    return bool(effective & 1 << capability)


class Without:
    """A capability laid down for a moment, by the thread that enters; it stays permitted. One that is not in effect is
    none to lay down. Made once and used often: what a thread has is looked at here, and is the same in all of them."""

    def __init__(self, capability: int) -> None:
        self._header = _header()
        sets = _buffer()
        check(libc.capget(self._header, sets))
        self._before = sets.raw
        lowered = list(_SETS.unpack(self._before))
        lowered[0 if capability < 32 else 3] &= ~(1 << capability % 32)
        self._lowered = _SETS.pack(*lowered)

    def __enter__(self) -> None:
        check(libc.capset(self._header, self._lowered))

    def __exit__(self, *failure: object) -> None:
        check(libc.capset(self._header, self._before))


def _header() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0), _HEADER.size)


def _buffer() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(_SETS.size)


# --- the sets of a process that is about to run somebody else's program

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""The capabilities, each at the place of its number."""

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 23, 24, 47, 4
_PR_SET_NO_NEW_PRIVS = 38


def limit_bounding_set(numbers: Iterable[int]) -> None:
    """No program run from here on can have others than these, whatever its file says (PR_CAPBSET_DROP)."""
    kept = set(numbers)
    for number in range(64):
        if libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) < 0:
            return  # the kernel's last capability was the one before
        if number not in kept:
            check(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))


def set_all(numbers: Iterable[int]) -> None:
    """These, of those that this thread has, are permitted and in effect; none is inherited, and none ambient."""
    header, sets = _header(), _buffer()
    check(libc.capget(header, sets))
    before = _SETS.unpack(sets.raw)
    mask = sum(1 << number for number in numbers)
    low, high = before[1] & mask & 0xFFFFFFFF, before[4] & mask >> 32
    check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    check(libc.capset(header, _SETS.pack(low, low, 0, high, high, 0)))


def set_no_new_privs() -> None:
    """No exec gives more rights than this thread has, for good (PR_SET_NO_NEW_PRIVS)."""
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
