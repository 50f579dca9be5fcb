"""Capabilities of the calling thread (capabilities(7)), by capget(2) and capset(2).

Called by the FUSE floor and `unionfs doctor`. Raises OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct

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
