"""Scan: a directory of the lower layers alone, name by name, without making an inode of each.

Called by `operations.py` for an engine that tells the kernel of whole directories at once: an inode, a dentry and their
places in the tables cost more than all the system calls, and most names of a lower layer are only looked at. It
promises to read only. What it tells of a *plain* name stays true until the name or its object is changed through the
union, and the union sees the object itself as soon as it is looked up.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence

from unionfs.layer.layer import Directory
from unionfs.union.attributes import Attributes, of_lower
from unionfs.union.inode import DirInode, Inode, Inodes
from unionfs.union.listing import merge, shown_number
from unionfs.union.lookup import goes_on

_DT_DIR = stat.S_IFDIR >> 12


Scanned = tuple[bytes, int, int, Directory]
"""A name, its type (DT_*), its object's inode number (0: not known yet) and the real directory that gives it."""


class Scan:
    def __init__(self, inodes: Inodes, tree: threading.RLock) -> None:
        self.root = inodes.root
        self.dialect = inodes.stack.dialect
        self.tree = tree

    def lower_roots(self) -> list[Directory]:
        """The lower layers' parts of the root."""
        return self.root.lowers

    @staticmethod
    def is_lower(inode: Inode) -> bool:
        """Whether it is a directory of which the upper has no part."""
        return isinstance(inode, DirInode) and not inode.in_upper and not inode.removed

    def names(self, inode: Inode) -> list[Scanned] | None:
        """All names of a directory of which the upper has no part; None for any other."""
        with self.tree:
            if not isinstance(inode, DirInode) or not self.is_lower(inode):
                return None
            merged = merge(self.dialect, inode.directories).items()
            return [(name, kind, shown_number(where, name), where) for name, (where, kind) in merged]

    def plain(self, inode: Inode, scanned: Sequence[Scanned]) -> list[Attributes | None]:
        """The attributes of names in it that are plain; None for others, which have to be looked up: directories,
        objects with several names, and those that the union holds already."""
        found: list[Attributes | None] = []
        assert isinstance(inode, DirInode)
        with self.tree:
            last, fd = None, -1
            for name, kind, _, where in scanned:
                if kind == _DT_DIR or name in inode.children:
                    found.append(None)
                    continue
                if where is not last:  # most names of a directory are in the same layer
                    last, fd = where, where.fd
                found.append(_attributes(where, fd, name))
        return found

    def goes_on(self, parent: Inode, name: bytes, inode: Inode) -> bool:
        """Whether the lower part of a directory is just what the lower part of its parent has under its name, and not
        cut off (opaque) or elsewhere (redirect)."""
        with self.tree:
            if not isinstance(parent, DirInode) or not isinstance(inode, DirInode):
                return False
            return bool(inode.lowers) and goes_on(parent.lowers, name, inode.lowers)

    def hides(self, inode: Inode, name: bytes) -> bool:
        """Whether the upper has anything to say of `name` in a directory: an object, or a whiteout."""
        with self.tree:
            if not isinstance(inode, DirInode) or inode.removed:
                return True
            return inode.in_upper and self.dialect.find(inode.upper, name) is not None


def _attributes(where: Directory, fd: int, name: bytes) -> Attributes | None:
    try:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
    if st.st_nlink != 1 or stat.S_ISDIR(st.st_mode):
        return None
    return of_lower(where.layer, st, 1)
