"""Which system calls a container has: docker's default profile, as a program for the kernel's packet filter.

Called by `process.py` right before exec. Three answers: a call is allowed; it is known and refused, EPERM; it is not
known here, ENOSYS, so that a C library that tries a newer call first falls back to what there is. Known is what Linux
6.18 has; refused of it is what lets a process out of its container or changes the machine, unless it has the capability
that is meant for that; the refused names are the table below.

The program looks the number up by bisection: some eight comparisons a call. Sources: docker's default profile,
seccomp(2), bpf's instructions in linux/filter.h, syscall numbers in asm/unistd.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from functools import lru_cache

X86_64, AARCH64 = "x86_64", "aarch64"
_ARCHITECTURE = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
_COLUMN = {X86_64: 0, AARCH64: 1}
_KNOWN = {X86_64: ((0, 334), (424, 469)), AARCH64: ((0, 243), (260, 294), (424, 469))}
"""The numbers that Linux 6.18 gives to system calls, first and last of each range."""

_REFUSED: dict[str, tuple[int | None, int | None, tuple[str, ...]]] = {
    # the mounts and the namespaces around it
    "mount": (165, 40, ("SYS_ADMIN",)), "umount2": (166, 39, ("SYS_ADMIN",)), "pivot_root": (155, 41, ("SYS_ADMIN",)),
    "open_tree": (428, 428, ("SYS_ADMIN",)), "move_mount": (429, 429, ("SYS_ADMIN",)),
    "fsopen": (430, 430, ("SYS_ADMIN",)), "fsconfig": (431, 431, ("SYS_ADMIN",)),
    "fsmount": (432, 432, ("SYS_ADMIN",)), "fspick": (433, 433, ("SYS_ADMIN",)),
    "mount_setattr": (442, 442, ("SYS_ADMIN",)), "open_tree_attr": (467, 467, ("SYS_ADMIN",)),
    "setns": (308, 268, ("SYS_ADMIN",)), "unshare": (272, 97, ("SYS_ADMIN",)),
    "open_by_handle_at": (304, 265, ("DAC_READ_SEARCH",)),
    "quotactl": (179, 60, ("SYS_ADMIN",)), "quotactl_fd": (443, 443, ("SYS_ADMIN",)),
    "fanotify_init": (300, 262, ("SYS_ADMIN",)),
    # the kernel itself
    "init_module": (175, 105, ("SYS_MODULE",)), "finit_module": (313, 273, ("SYS_MODULE",)),
    "delete_module": (176, 106, ("SYS_MODULE",)), "create_module": (174, None, ()), "query_module": (178, None, ()),
    "get_kernel_syms": (177, None, ()), "kexec_load": (246, 104, ("SYS_BOOT",)),
    "kexec_file_load": (320, 294, ("SYS_BOOT",)), "reboot": (169, 142, ("SYS_BOOT",)),
    "bpf": (321, 280, ("SYS_ADMIN", "BPF")), "perf_event_open": (298, 241, ("SYS_ADMIN", "PERFMON")),
    "syslog": (103, 116, ("SYS_ADMIN", "SYSLOG")), "lookup_dcookie": (212, 18, ("SYS_ADMIN",)),
    "swapon": (167, 224, ("SYS_ADMIN",)), "swapoff": (168, 225, ("SYS_ADMIN",)), "acct": (163, 89, ("SYS_PACCT",)),
    "userfaultfd": (323, 282, ("SYS_PTRACE",)), "nfsservctl": (180, 42, ()), "sysfs": (139, None, ()),
    "_sysctl": (156, None, ()), "uselib": (134, None, ()), "ustat": (136, None, ()),
    "io_uring_setup": (425, 425, ()), "io_uring_enter": (426, 426, ()), "io_uring_register": (427, 427, ()),
    # what is not divided into namespaces: keys, the clock, ports of the machine, memory of the processors
    "add_key": (248, 217, ()), "keyctl": (250, 219, ()), "request_key": (249, 218, ()),
    "settimeofday": (164, 170, ("SYS_TIME",)), "clock_settime": (227, 112, ("SYS_TIME",)),
    "clock_adjtime": (305, 266, ("SYS_TIME",)), "ioperm": (173, None, ("SYS_RAWIO",)),
    "iopl": (172, None, ("SYS_RAWIO",)), "vhangup": (153, 58, ("SYS_TTY_CONFIG",)),
    "mbind": (237, 235, ("SYS_NICE",)), "set_mempolicy": (238, 237, ("SYS_NICE",)),
    "get_mempolicy": (239, 236, ("SYS_NICE",)), "set_mempolicy_home_node": (450, 450, ("SYS_NICE",)),
    "migrate_pages": (256, 238, ("SYS_NICE",)), "move_pages": (279, 239, ("SYS_NICE",)),
    "kcmp": (312, 272, ("SYS_PTRACE",)), "pidfd_getfd": (438, 438, ("SYS_PTRACE",)),
}  # fmt: skip
"""Name: number on x86_64, on aarch64, and the capabilities of which one is enough to have it all the same."""

_CLONE, _CLONE3, _SOCKET, _PERSONALITY = (56, 220), (435, 435), (41, 198), (135, 92)
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* of clone(2)
_AF_VSOCK = 40
_PERSONALITIES = (0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, without randomised addresses, 32-bit, only asked

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _JUMP_EQUAL, _JUMP_NOT_LESS, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def _answer(value: int) -> list[bytes]:
    return [_INSTRUCTION.pack(_RETURN, 0, 0, value)]


_ALLOWED, _DENIED, _UNKNOWN = _answer(_ALLOW), _answer(_ERRNO | errno.EPERM), _answer(_ERRNO | errno.ENOSYS)


@lru_cache(maxsize=8)
def program(capabilities: tuple[str, ...], machine: str = "") -> bytes:
    """The filter for a process with these capabilities, as an array of struct sock_filter; b"" for a machine whose
    numbers are not in the table, where there is none."""
    machine = machine or os.uname().machine
    if machine not in _ARCHITECTURE:
        return b""
    answers = _answers(frozenset(capabilities), _COLUMN[machine])
    segments: list[tuple[int, list[bytes]]] = []
    for first, last in _KNOWN[machine]:
        _add(segments, first, _ALLOWED)
        for number in sorted(number for number in answers if first <= number <= last):
            _add(segments, number, answers[number])
            _add(segments, number + 1, _ALLOWED)
        _add(segments, last + 1, _UNKNOWN)
    return b"".join(
        [
            _INSTRUCTION.pack(_LOAD, 0, 0, _ARCHITECTURE_AT),
            _INSTRUCTION.pack(_JUMP_EQUAL, 1, 0, _ARCHITECTURE[machine]),
            *_UNKNOWN,
            _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER_AT),
            *_bisect(segments),
        ]
    )


def _answers(capabilities: Iterable[str], column: int) -> dict[int, list[bytes]]:
    """Number: what to do, for those that are not simply allowed."""
    has = set(capabilities)
    answers: dict[int, list[bytes]] = {}
    for *numbers, enough in _REFUSED.values():
        number = numbers[column]
        if isinstance(number, int) and not has & set(enough):
            answers[number] = _DENIED
    is_vsock = _INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, _AF_VSOCK)
    answers[_SOCKET[column]] = [*_first_argument(), is_vsock, *_DENIED, *_ALLOWED]
    answers[_PERSONALITY[column]] = [*_first_argument(), *_one_of(_PERSONALITIES), *_DENIED, *_ALLOWED]
    if "SYS_ADMIN" not in has:
        test = _INSTRUCTION.pack(_JUMP_IF_SET, 0, 1, _NEW_NAMESPACES)
        answers[_CLONE[column]] = [*_first_argument(), test, *_DENIED, *_ALLOWED]
        answers[_CLONE3[column]] = _UNKNOWN  # its flags are behind a pointer, where no filter looks: clone(2) then
    return answers


def _first_argument() -> list[bytes]:
    """Its lower half; the kernel looks at no more of these."""
    return [_INSTRUCTION.pack(_LOAD, 0, 0, _FIRST_ARGUMENT_AT)]


def _one_of(values: tuple[int, ...]) -> list[bytes]:
    """Jumps over one instruction when it is one of them."""
    return [_INSTRUCTION.pack(_JUMP_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]


def _add(segments: list[tuple[int, list[bytes]]], start: int, answer: list[bytes]) -> None:
    """From this number on another answer; the one before covers what lies between."""
    if segments and segments[-1][0] == start:
        segments.pop()
    if not segments or segments[-1][1] is not answer:
        segments.append((start, answer))


def _bisect(segments: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Instructions that find the segment of the number that was loaded."""
    if len(segments) == 1:
        return segments[0][1]
    middle = len(segments) // 2
    below, above = _bisect(segments[:middle]), _bisect(segments[middle:])
    return [_INSTRUCTION.pack(_JUMP_NOT_LESS, len(below), 0, segments[middle][0]), *below, *above]
