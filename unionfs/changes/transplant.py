"""Transplant: an object copied out of a layer into another directory, with all that belongs to it.

Called by `staging.py` (into a lower layer) and `export.py` (into a new directory). It promises: type, owner, mode,
times to the nanosecond, extended attributes, ACLs and holes are those of the original, and no others; what the target's
filesystem or the caller's rights do not allow is named in the log.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from unionfs import events
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.union.content import Content
from unionfs.union.source import Sources

Translation = Callable[[bytes], bytes | None]
"""The name that an extended attribute has in the copy; None: it is not copied, nor is one of that name taken away."""


def transplant(
    sources: Sources, source: Location, st: os.stat_result, directory: Directory, name: bytes, translation: Translation
) -> None:
    """Copy an object, no directory, to the free `name`, with all its data. Where it fails, nothing is left."""
    copy = Location(directory, name)
    _make(source, st, directory, name)
    try:
        if stat.S_ISREG(st.st_mode):
            _copy_data(sources.open(source), copy, st.st_size)
        copy_attributes(source, st, copy, translation)
    except BaseException:
        with suppress(OSError):
            directory.unlink(name)
        raise


def _make(source: Location, st: os.stat_result, directory: Directory, name: bytes) -> None:
    if stat.S_ISREG(st.st_mode):
        os.close(directory.create(name, os.O_WRONLY, 0o600))
    elif stat.S_ISLNK(st.st_mode):
        directory.symlink(name, source.readlink())
    else:
        directory.mknod(name, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev)


def _copy_data(content: Content, copy: Location, size: int) -> None:
    target = copy.open(os.O_RDWR)
    try:
        if not content.clone_into(target):
            os.ftruncate(target, size)
            content.copy(target, 0, size)
    finally:
        os.close(target)
        content.close()


def copy_attributes(source: Location, st: os.stat_result, copy: Location, translation: Translation) -> None:
    """Owner before mode and capabilities, which a change of owner takes away; times last."""
    made = copy.stat()
    if (made.st_uid, made.st_gid) != (st.st_uid, st.st_gid):
        _chown(copy, st)
    _copy_xattrs(source, copy, translation)
    if not stat.S_ISLNK(st.st_mode):
        copy.chmod(stat.S_IMODE(st.st_mode))
    copy.set_times(st.st_atime_ns, st.st_mtime_ns)


def _chown(copy: Location, st: os.stat_result) -> None:
    try:
        copy.chown(st.st_uid, st.st_gid)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
        events.warning(f"{os.fsdecode(copy.path)} belonged to user {st.st_uid}: no right to give it to them")


def _copy_xattrs(source: Location, copy: Location, translation: Translation) -> None:
    wanted: dict[bytes, bytes] = {}
    for name in source.listxattr():
        target, value = translation(name), source.find_xattr(name)
        if target is not None and value is not None:
            wanted[target] = value
    for name in copy.listxattr():
        if name not in wanted and translation(name) is not None:
            with suppress(OSError):  # one that the kernel gives to every file, as SELinux does
                copy.removexattr(name)
    for name, value in wanted.items():
        if copy.find_xattr(name) != value:
            _set(copy, name, value)


def _set(copy: Location, name: bytes, value: bytes) -> None:
    try:
        copy.setxattr(name, value)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise
        events.warning(f"{os.fsdecode(copy.path)}: the attribute {os.fsdecode(name)} was not copied: {error.strerror}")
