"""Load a filter of system calls: seccomp(2) by prctl(2).

Called by the container floor, which makes the program. Raises OSError.
"""

from __future__ import annotations

import ctypes

from unionfs.linux.libc import check, libc

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
INSTRUCTION = 8
"""Bytes of a struct sock_filter."""


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def load(program: bytes) -> None:
    """This thread, and what it forks and executes, is held to `program` (an array of struct sock_filter) for good.

    Needs no_new_privs, or CAP_SYS_ADMIN.
    """
    given = _Program(len(program) // INSTRUCTION, program)
    check(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0))
