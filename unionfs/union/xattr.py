"""Extended attributes: a user's own, none of the bookkeeping, and the virtual ones.

Called by `operations.py`, whose methods of these names say what they do. Bookkeeping is neither seen (ENODATA) nor
written (EPERM). Nothing is copied up for a call that fails anyway.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from unionfs.errors import failed
from unionfs.union import virtual
from unionfs.union.inode import DirInode, FileInode, Inode
from unionfs.union.source import Sources

_CAPABILITIES = b"security.capability"
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")


class Xattrs:
    """`copy_up` sees that an object is in the upper, or raises; `untouched` keeps others from its attributes. Both are
    called without the tree lock."""

    def __init__(
        self, sources: Sources, tree: threading.RLock, copy_up: Callable[[Inode], object],
        untouched: Callable[[Inode], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        self.sources = sources
        self.stack = sources.stack
        self.dialect = sources.dialect
        self.tree = tree
        self.copy_up = copy_up
        self.untouched = untouched

    def get(self, inode: Inode, name: bytes) -> bytes:
        """The kernel asks for capabilities before it writes to a file and before it changes its owner: for each new
        file twice, and untarring many is quicker by a twentieth when that needs no system call."""
        if name == _CAPABILITIES and isinstance(inode, FileInode) and inode.has_no_capabilities:
            raise failed(errno.ENODATA, name)
        with self.tree:
            if name.startswith(virtual.PREFIX):
                return virtual.answer(self.sources, inode, name)
            stored = self.dialect.stored(name)
            if self.dialect.is_mark(stored):
                raise failed(errno.ENODATA, name)
            return inode.location.getxattr(stored)

    def list(self, inode: Inode) -> list[bytes]:
        with self.tree:
            kept = inode.location.listxattr()
        return [self.dialect.shown(name) for name in kept if not self.dialect.is_mark(name)]

    def set(self, inode: Inode, name: bytes, value: bytes, flags: int) -> None:
        stored = self._stored(inode, name)
        if flags:
            self._check(inode, stored, flags)
        self.copy_up(inode)
        if name == _CAPABILITIES and isinstance(inode, FileInode):
            inode.has_no_capabilities = False
        with self.untouched(inode), self.tree:
            inode.location.setxattr(stored, value, flags)
            self._note_acl(inode, name)

    def _check(self, inode: Inode, stored: bytes, flags: int) -> None:
        with self.tree:
            there = inode.location.find_xattr(stored) is not None
        if flags & os.XATTR_CREATE and there:
            raise failed(errno.EEXIST, stored)
        if flags & os.XATTR_REPLACE and not there:
            raise failed(errno.ENODATA, stored)

    def remove(self, inode: Inode, name: bytes) -> None:
        stored = self._stored(inode, name)
        with self.tree:
            inode.location.getxattr(stored)
        self.copy_up(inode)
        with self.untouched(inode), self.tree:
            inode.location.removexattr(stored)
            self._note_acl(inode, name)

    def _stored(self, inode: Inode, name: bytes) -> bytes:
        """The name under which it is kept, if it may be changed: files and directories alone have user attributes."""
        if self.stack.upper is None:
            raise failed(errno.EROFS)
        stored = self.dialect.stored(name)
        foreign = name.startswith(b"user.") and inode.kind not in (stat.S_IFREG, stat.S_IFDIR)
        if foreign or self.dialect.is_mark(stored):
            raise failed(errno.EPERM, name)
        return stored

    @staticmethod
    def _note_acl(inode: Inode, name: bytes) -> None:
        if name in _ACLS and isinstance(inode, DirInode):
            inode.inherited = None
