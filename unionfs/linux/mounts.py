"""Mounts: mount(2), umount2(2) and the table of /proc/self/mountinfo.

Called by the FUSE floor, the inspection commands and the launcher. Every function raises OSError that carries the
errno and the path it was about. Reading the table never touches the file systems in it: a mount whose server hangs
or died is listed like any other. Sources: mount(2), umount(2), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import NamedTuple

from unionfs.linux.libc import check, libc

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS = 1, 2, 4, 8, 16
MS_DIRSYNC, MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME = 128, 256, 1024, 2048
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

FLAG_WORDS: dict[str, tuple[int, int]] = {
    "ro": (MS_RDONLY, 0), "rw": (0, MS_RDONLY),
    "nosuid": (MS_NOSUID, 0), "suid": (0, MS_NOSUID),
    "nodev": (MS_NODEV, 0), "dev": (0, MS_NODEV),
    "noexec": (MS_NOEXEC, 0), "exec": (0, MS_NOEXEC),
    "sync": (MS_SYNCHRONOUS, 0), "async": (0, MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0), "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "noatime": (MS_NOATIME, 0), "atime": (0, MS_NOATIME),
    "nodiratime": (MS_NODIRATIME, 0), "diratime": (0, MS_NODIRATIME),
    "relatime": (MS_RELATIME, 0), "norelatime": (0, MS_RELATIME),
    "strictatime": (MS_STRICTATIME, 0), "nostrictatime": (0, MS_STRICTATIME),
    "lazytime": (MS_LAZYTIME, 0), "nolazytime": (0, MS_LAZYTIME),
}  # fmt: skip
"""What each word of mount(8) sets and clears in the flags of mount(2)."""

_ESCAPES = {b"\\040": b" ", b"\\011": b"\t", b"\\012": b"\n", b"\\043": b"#", b"\\134": b"\\"}

libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


class Mount(NamedTuple):
    """One line of mountinfo. `device` is the st_dev of what is mounted, `root` the part of it that is seen."""

    id: int
    parent: int
    device: int
    root: bytes
    point: bytes
    options: tuple[bytes, ...]
    fstype: bytes
    source: bytes


def mount(source: bytes, target: bytes, fstype: bytes, flags: int = 0, data: bytes = b"") -> None:
    """mount(2). Raises OSError naming the target."""
    check(libc.mount(source, target, fstype, flags, data), target)


def unmount(target: bytes, flags: int = 0) -> None:
    """umount2(2), never through a symbolic link. Flags: MNT_DETACH, MNT_FORCE. Raises OSError: EBUSY, EINVAL, EPERM."""
    check(libc.umount2(target, flags | UMOUNT_NOFOLLOW), target)


def flags_of(words: Iterable[str]) -> int:
    """The flags of mount(2) for words like "ro" and "nosuid"; a later word wins. Raises KeyError for another word."""
    flags = 0
    for word in words:
        sets, clears = FLAG_WORDS[word]
        flags = flags & ~clears | sets
    return flags


def table(path: str = "/proc/self/mountinfo") -> list[Mount]:
    """The mounts of this mount namespace, in the order in which they were made."""
    with open(path, "rb") as file:
        return [parse(line) for line in file]


def parse(line: bytes) -> Mount:
    """One line of mountinfo: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`. Raises ValueError."""
    before, separator, after = line.rstrip(b"\n").partition(b" - ")
    fields = before.split(b" ")
    if not separator or len(fields) < 6:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    major, _, minor = fields[2].partition(b":")
    fstype, source, *options = [*after.split(b" "), b"", b""][:3]
    return Mount(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=os.makedev(int(major), int(minor)),
        root=unescape(fields[3]),
        point=unescape(fields[4]),
        options=tuple(dict.fromkeys(option for part in (fields[5], *options) for option in part.split(b",") if option)),
        fstype=unescape(fstype),
        source=unescape(source),
    )


def unescape(field: bytes) -> bytes:
    r"""Undo the octal escapes of space, tab, newline, # and \ in a field of mountinfo."""
    if b"\\" not in field:
        return field
    parts = field.split(b"\\")
    return parts[0] + b"".join(_ESCAPES.get(b"\\" + part[:3], b"\\" + part[:3]) + part[3:] for part in parts[1:])


def absolute(path: bytes) -> bytes:
    """The real path of `path`, found without asking what is mounted on it: that server may hang, or be this process."""
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    try:
        target = os.readlink(path)
    except OSError:
        return os.path.join(os.path.realpath(parent), name) if name else path
    return os.path.realpath(os.path.join(parent, target))


def find(path: bytes, mounts: list[Mount] | None = None) -> Mount:
    """The mount that `path` lies on: the one with the longest mount point, the newest of several on one point.

    Raises OSError ENOENT when there is none, which is so in a chroot without a mount of its own.
    """
    path = absolute(path)
    best: Mount | None = None
    for entry in table() if mounts is None else mounts:
        inside = path == entry.point or path.startswith(entry.point.rstrip(b"/") + b"/")
        if inside and (best is None or len(entry.point) >= len(best.point)):
            best = entry
    if best is None:
        raise FileNotFoundError(2, "no mount holds it", os.fsdecode(path))
    return best


def inside(path: bytes) -> list[Mount]:
    """The mounts below `path`, an absolute one, not that on `path` itself."""
    below = path.rstrip(b"/") + b"/"
    return [entry for entry in table() if entry.point.startswith(below) and entry.point != below]


def is_mountpoint(path: bytes) -> bool:
    """Whether something is mounted on exactly `path`."""
    path = absolute(path)
    return any(entry.point == path for entry in table())
