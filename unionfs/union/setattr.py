"""The change of attributes: size, owner, mode, times, in the order in which the kernel's own rules come out right.

Called by `operations.py`, under the tree lock, when the object is in the upper.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from unionfs.errors import failed
from unionfs.union.handle import FileHandle
from unionfs.union.inode import DirInode, Inode


class Change(NamedTuple):
    """What is to change; None is "as it is". `kill_priv`: setuid goes, and setgid where the group may execute."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    kill_priv: bool = False

    def refuse(self, inode: Inode, handle: FileHandle | None) -> None:
        """Raise what cannot be done at all, before anything is copied up, and cut, for it."""
        if self.size is not None and handle is not None and handle.flags & os.O_ACCMODE == os.O_RDONLY:
            raise failed(errno.EINVAL)
        if self.size is not None and inode.kind != stat.S_IFREG:
            raise failed(errno.EISDIR if inode.is_dir else errno.EINVAL)
        if self.size is not None and self.size < 0:
            raise failed(errno.EINVAL)
        if self.mode is not None and inode.kind == stat.S_IFLNK:
            raise failed(errno.EOPNOTSUPP)


def change_attributes(inode: Inode, change: Change, fd: int | None = None) -> None:
    """`fd`: a descriptor of the file that is open for writing, which may be all there is of an unlinked one."""
    mode, uid, gid, size, atime_ns, mtime_ns, kill_priv = change
    location = inode.location
    if size is not None:
        if fd is not None:
            os.ftruncate(fd, size)
        else:
            location.truncate(size)
    if uid is not None or gid is not None:
        location.chown(-1 if uid is None else uid, -1 if gid is None else gid)
    if kill_priv:
        now = os.fstat(fd).st_mode if fd is not None else location.stat().st_mode
        kept = without_privileges(now)
        if kept != now:
            location.chmod(stat.S_IMODE(kept))
    if mode is not None:
        location.chmod(mode)
    if atime_ns is not None or mtime_ns is not None:
        location.set_times(atime_ns, mtime_ns)
    if isinstance(inode, DirInode):
        inode.inherited = None


def without_privileges(mode: int) -> int:
    """The mode of a file that somebody without CAP_FSETID has written (inode(7), "The set-user-ID bit")."""
    if stat.S_ISDIR(mode):
        return mode
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode
