"""The C library, for the system calls that the os module does not have."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, *names: bytes) -> int:
    """Return `result`, or raise OSError with the call's errno and the names it was about."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), *[os.fsdecode(name) for name in names[:1]])
