"""Capabilities of the calling thread (capabilities(7)), by capget(2) and capset(2).

Called by the FUSE floor and `unionfs doctor`. Raises OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from unionfs.linux.libc import check, libc

CAP_FSETID, CAP_SYS_ADMIN = 4, 21
_FIRST_USER_NAMESPACE = "user:[4026531837]"
_VERSION = 0x20080522
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: their low halves, then their high ones


def rules_the_machine() -> bool:
    """Whether this thread has CAP_SYS_ADMIN in the first user namespace, and not only in one of its own."""
    try:
        if os.readlink("/proc/self/ns/user") != _FIRST_USER_NAMESPACE:
            return False
        header, sets = ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0), _HEADER.size), _buffer()
        check(libc.capget(header, sets))
    except OSError:
        return False
    effective: int = _SETS.unpack(sets.raw)[0]
    return bool(effective & 1 << CAP_SYS_ADMIN)


def _buffer() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(_SETS.size)


@contextmanager
def without(capability: int) -> Iterator[None]:
    """Lay a capability down for a moment; it stays permitted. One that is not in effect is none to lay down."""
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0), _HEADER.size)
    sets = _buffer()
    check(libc.capget(header, sets))
    before = _SETS.unpack(sets.raw)
    at, bit = (0, 1 << capability) if capability < 32 else (3, 1 << capability - 32)
    lowered = list(before)
    lowered[at] &= ~bit
    check(libc.capset(header, _SETS.pack(*lowered)))
    try:
        yield
    finally:
        check(libc.capset(header, _SETS.pack(*before)))
