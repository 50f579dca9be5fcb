"""Remove: unlink and rmdir, and what becomes of an object whose name goes.

Called by `operations.py` and `rename.py`, under the tree lock. It promises: where a lower layer still has the name a
whiteout takes its place, atomically; else only the upper's own object goes. Nothing is copied up to be deleted. Whoever
holds the object (an open file, a reference) goes on using it.
"""

from __future__ import annotations

import errno

from unionfs.errors import failed
from unionfs.layer.location import Location
from unionfs.layer.whiteout import remove_directory
from unionfs.union.copyup import CopyUp
from unionfs.union.dentry import Dentry
from unionfs.union.inode import DirInode, FileInode, Inodes
from unionfs.union.listing import is_empty
from unionfs.union.lookup import find


class Removal:
    def __init__(self, inodes: Inodes, copyup: CopyUp) -> None:
        self.inodes = inodes
        self.stack = inodes.stack
        self.dialect = inodes.stack.dialect
        self.copyup = copyup

    def file(self, dentry: Dentry) -> None:
        """Remove the name of anything but a directory (unlink(2))."""
        try:
            if dentry.inode.is_dir:
                raise failed(errno.EISDIR, dentry.name)
            self._remove(dentry)
        except BaseException:
            self.inodes.drop_unused(dentry.inode)
            raise

    def directory(self, dentry: Dentry) -> None:
        """Remove a directory whose merged listing is empty, whatever whiteouts its upper holds (rmdir(2))."""
        try:
            self.empty_directory(dentry)
            self._remove(dentry)
        except BaseException:
            self.inodes.drop_unused(dentry.inode)
            raise

    def _remove(self, dentry: Dentry) -> None:
        name, inode, work = dentry.name, dentry.inode, self.copyup.work
        below = self.is_below(dentry)
        upper = self.copyup.directory(dentry.parent)
        self.hold(dentry)
        if below:
            self.dialect.whiteout(upper, name, work)
        elif isinstance(inode, DirInode):
            remove_directory(upper, name, work)
        else:
            upper.unlink(name)
        self.gone(dentry)

    def empty_directory(self, dentry: Dentry) -> None:
        """Raises ENOTDIR, ENOTEMPTY for what is no directory that can be removed or replaced."""
        if not isinstance(dentry.inode, DirInode):
            raise failed(errno.ENOTDIR, dentry.name)
        if not is_empty(self.dialect, dentry.inode.directories):
            raise failed(errno.ENOTEMPTY, dentry.name)

    def is_below(self, dentry: Dentry) -> bool:
        """Whether a lower layer has the name too, so that it would be seen if nothing hid it."""
        lowers = dentry.parent.lowers
        return bool(lowers) and (not dentry.in_upper or find(self.stack, lowers, dentry.name) is not None)

    def hold(self, dentry: Dentry) -> None:
        """Keep the object within reach: its name is about to go.

        Also a file that nobody has open: a descriptor of O_PATH or a bind mount of it is no more than a reference, and
        it can be opened by that.
        """
        inode, parent = dentry.inode, dentry.parent
        if isinstance(inode, DirInode):
            if inode.in_upper:
                inode.upper.pin()
        elif isinstance(inode, FileInode) and parent.in_upper and inode.is_at(parent.upper, dentry.name):
            others = [other for other in inode.dentries() if other is not dentry and other.in_upper]
            if others:
                inode.location = Location(others[0].parent.upper, others[0].name)
            elif inode.references > 0 or inode.handles or inode.index_key is not None:
                inode.location.hold()

    def gone(self, dentry: Dentry) -> None:
        """The name is gone from the layers: count, and forget it."""
        inode = dentry.inode
        if isinstance(inode, FileInode):
            self._count(inode, dentry)
        elif isinstance(inode, DirInode):
            inode.removed = True
        self.inodes.leave(dentry)

    def _count(self, inode: FileInode, dentry: Dentry) -> None:
        """Names of the upper are counted by its own link count, others on the side."""
        hardlinks, key = self.inodes.hardlinks, inode.index_key
        if not dentry.in_upper:
            inode.nlink_extra -= 1
        if key is None:
            return
        if not inode.in_upper:
            hardlinks.write_deleted(inode.location, inode.location.stat().st_ino, inode.nlink_extra)
            return
        if not dentry.in_upper:
            hardlinks.write(inode.location, inode.nlink_extra)
        if inode.link_count() == 0:
            index = Location(hardlinks.index, key)
            if inode.is_at(hardlinks.index, key):
                inode.location.hold()
            index.directory.unlink(key)
            inode.nlink_extra += 1
