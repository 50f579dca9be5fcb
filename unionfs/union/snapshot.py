"""Snapshots: open files that stay with the lower file, whatever becomes of the object.

Called by an engine that has the kernel read a lower file by itself: the kernel goes on with that one file until it is
closed, so the handle must do the same. A handle becomes a snapshot when it is pinned; `copyup.py` leaves it alone then.
It promises: what is pinned is open for reading only, is a whole file of a lower layer with one name, and lies on a
mount that is read-only, so that the kernel too would refuse to write to it.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from itertools import islice

from unionfs.layer.layer import Layer
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.attributes import Attributes, of
from unionfs.union.handle import FileHandle
from unionfs.union.inode import FileInode, Inode

_LOOKED_AT = 100
"""Names of a layer's root among which a regular file is looked for."""


class Snapshots:
    def __init__(self, stack: Stack, tree: threading.RLock) -> None:
        self.stack = stack
        self.tree = tree
        self._guarded: dict[Layer, bool] = {}
        """Whether a layer is on a read-only mount; it is one mount throughout."""

    def examples(self) -> list[tuple[int, Layer]]:
        """Of each filesystem that layers lie on an open regular file, where one is at hand; the caller closes it."""
        found: dict[int, tuple[int, Layer]] = {}
        with self.tree:
            for layer in self.stack.layers:
                if layer.device not in found and (descriptor := self._example(layer)) is not None:
                    found[layer.device] = descriptor, layer
        return list(found.values())

    def _example(self, layer: Layer) -> int | None:
        with suppress(OSError):
            if layer.writable and self.stack.work is not None:
                return self.stack.work.area.temporary_file(os.O_RDWR, 0o600)
            for entry in islice(layer.root.scan(), _LOOKED_AT):
                if entry.is_file(follow_symlinks=False):
                    return Location(layer.root, os.fsencode(entry.name)).open(os.O_RDONLY)
        return None

    def pin(self, handle: FileHandle, before: Location | None = None) -> Location | None:
        """Make an open file a snapshot: the lower file it stays with. None: it may not be one. `before`: the lower file
        that one of the same object stayed with."""
        inode = handle.inode
        with self.tree:
            if inode.in_upper or inode.data is not None or inode.is_changing or not _only_reads(handle):
                return None
            if inode.location is not before and not self._is_fit(handle, inode.location.directory.layer):
                return None
            handle.below = inode.location
            return inode.location

    def _is_fit(self, handle: FileHandle, layer: Layer) -> bool:
        """One name only: others lead to the same node, and would keep leading there."""
        if layer not in self._guarded:
            self._guarded[layer] = bool(os.fstatvfs(handle.fd).f_flag & os.ST_RDONLY)
        return self._guarded[layer] and os.fstat(handle.fd).st_nlink == 1

    def join(self, handle: FileHandle, below: Location) -> bool:
        """Make it a snapshot like others that are open, though attributes were changed, and so copied up, since."""
        with self.tree:
            if not _only_reads(handle):
                return False
            if handle.inode.in_upper:
                handle.switch(below)
            handle.below = below
            return True

    def is_over(self, inode: Inode) -> bool:
        """Whether the object can have no more snapshots, but those that join others."""
        return isinstance(inode, FileInode) and (inode.in_upper or inode.is_changing)

    def end(self, inode: Inode) -> None:
        """The object's data is about to be changed: no more snapshots of it."""
        with self.tree:
            if isinstance(inode, FileInode):
                inode.is_changing = True

    def attributes(self, inode: Inode, below: Location) -> Attributes:
        """What a snapshot shows: size and times of its own data, owner, mode and links of the object as it is."""
        with self.tree:
            data, now = below.stat(), of(inode, inode.location.stat())
        return now._replace(
            size=data.st_size, blocks=data.st_blocks, atime_ns=data.st_atime_ns, mtime_ns=data.st_mtime_ns
        )


def _only_reads(handle: FileHandle) -> bool:
    return handle.flags & os.O_ACCMODE == os.O_RDONLY and stat.S_ISREG(handle.inode.kind)
