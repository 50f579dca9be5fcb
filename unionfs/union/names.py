"""Names: what is there to be changed, and what may be made.

Called by `operations.py`, under the tree lock. It promises the errnos that the kernel gives, in the order in which it
looks.
"""

from __future__ import annotations

import errno

from unionfs.errors import failed
from unionfs.union.dentry import Dentry
from unionfs.union.inode import DirInode, Inode, Inodes


def directory_of(inode: Inode) -> DirInode:
    """The inode, if it is a directory. Raises ENOTDIR."""
    if not isinstance(inode, DirInode):
        raise failed(errno.ENOTDIR)
    return inode


class Names:
    def __init__(self, inodes: Inodes) -> None:
        self.inodes = inodes
        self.stack = inodes.stack
        self.dialect = inodes.stack.dialect

    def existing(self, parent: Inode, name: bytes) -> Dentry:
        """The dentry to be changed; afterwards the caller drops its inode if nobody refers to it. Raises ENOENT."""
        self.refuse_read_only()
        dentry = self.inodes.lookup(directory_of(parent), name)
        if dentry is None:
            raise failed(errno.ENOENT, name)
        return dentry

    def vacant(self, parent: Inode, name: bytes) -> DirInode:
        """The directory, if `name` can be made in it. Raises EEXIST."""
        there = self.inodes.lookup(directory_of(parent), name)
        if there is not None:
            self.inodes.drop_unused(there.inode)
            raise failed(errno.EEXIST, name)
        return self.open_to(parent, name)

    def open_to(self, parent: Inode, name: bytes) -> DirInode:
        """The directory, if a new name may be that. Precondition: it is not there."""
        directory = directory_of(parent)
        if directory.removed:
            raise failed(errno.ENOENT, name)
        self.refuse_read_only()
        self.refuse(name)
        return directory

    # What is refused

    def refuse(self, name: bytes) -> None:
        """Raises ENAMETOOLONG, and EINVAL for what would be misread as a mark."""
        self.refuse_long(name)
        if self.dialect.is_reserved(name):
            raise failed(errno.EINVAL, name)

    def refuse_long(self, name: bytes) -> None:
        if len(name) > self.dialect.longest_name:
            raise failed(errno.ENAMETOOLONG, name)

    def refuse_read_only(self) -> None:
        if self.stack.upper is None:
            raise failed(errno.EROFS)
