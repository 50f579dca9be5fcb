"""Waiting: what may wait long, for a copy of data, a sync, or somebody who copies just now.

Asked by the engine, which has one thread that answers and must not wait: what may wait is done by another. A wrong "no"
costs time, a wrong "yes" the hand-over to another thread.
"""

from __future__ import annotations

import os
import stat

from unionfs.layer.location import Location
from unionfs.layer.whiteout import Overlay
from unionfs.linux import files
from unionfs.union.copyup import CopyUp
from unionfs.union.handle import FileHandle
from unionfs.union.inode import FileInode, Inode


class Waiting:
    def __init__(self, copyup: CopyUp) -> None:
        self.copyup = copyup
        self.stack = copyup.stack
        self.dialect = copyup.stack.dialect
        self.tree = copyup.tree
        self._clones: dict[int, bool] = {}

    def to_change(self, inode: Inode, cut: bool = False) -> bool:
        """Whether changing the object may wait; `cut`: changing its size, too."""
        if not isinstance(inode, FileInode) or self.stack.upper is None or inode.kind != stat.S_IFREG:
            return False
        if inode.data is not None:
            return True
        if inode.in_upper:
            return cut and self._lacks_data(inode)
        return cut or not self._is_quick(inode)

    def to_open(self, inode: Inode, flags: int) -> bool:
        """Whether opening it may wait. What copies no data is quickest done at once."""
        if self.stack.upper is None or (flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC):
            return False
        if flags & (os.O_SYNC | os.O_DSYNC):
            return True
        if flags & os.O_TRUNC or not isinstance(inode, FileInode) or not self._is_quick(inode):
            return self.to_change(inode, cut=True)
        return False

    @staticmethod
    def to_write(handle: FileHandle, offset: int, size: int) -> bool:
        """Whether writing to an open file may wait; what is opened to be synced waits for that."""
        data = handle.inode.data
        return handle.is_synchronous or (data is not None and data.may_wait(offset, size))

    def _lacks_data(self, inode: FileInode) -> bool:
        """Whether a file of the upper has to be completed before it is written to (metacopy)."""
        if not isinstance(self.dialect, Overlay):
            return False
        with self.tree:
            return self.copyup.sources.is_partial(inode.location)

    def _is_quick(self, inode: FileInode) -> bool:
        """Whether a change of a regular file that does not cut it copies no data, and waits for nobody who does."""
        if isinstance(self.dialect, Overlay) or self.copyup.amount.how == "whole":
            return False
        if inode.in_upper:
            return True
        with self.tree:
            lock, source = inode.lock, inode.location
            if not self.stack.xattrs or not lock.acquire(blocking=False):
                return False
            lock.release()
            if self.copyup.amount.how == "block":
                return True
            return source.stat().st_size >= self.copyup.amount.threshold and not self._can_clone(source)

    def _can_clone(self, source: Location) -> bool:
        """Whether the upper can share the data of files of this filesystem: tried once."""
        device = source.directory.layer.device
        if device not in self._clones:
            area, aside = self.copyup.work.area, self.copyup.work.temporary_name()
            target, lower = area.create(aside, os.O_RDWR, 0o600), source.open(os.O_RDONLY)
            try:
                self._clones[device] = files.can_clone(target, lower)
            finally:
                os.close(lower)
                os.close(target)
                area.unlink(aside)
        return self._clones[device]
