"""What the kernel holds of ours: nodes, by nodeid, and open files, by handle number.

Called by `dispatch.py`. Each answer that carries a node (LOOKUP, CREATE, a READDIRPLUS entry, ...) gives the kernel one
reference to it; FORGET gives references back, and with the last one the nodeid dies. A nodeid is never used again in a
connection, so that no late message can mean another object. The union counts the same references to the inode itself.
Safe to call from several threads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any

from unionfs.fuse import protocol

if TYPE_CHECKING:
    from unionfs.union.operations import Inode, Operations


class Inodes(dict[int, "Inode"]):
    """Inodes by nodeid. An unknown one is stale: OSError ESTALE, on which the kernel looks the name up again."""

    def __missing__(self, nodeid: int) -> Inode:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class Handles(dict[int, Any]):
    """Open files and directories by the number that the kernel got. An unknown one: OSError EBADF."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __missing__(self, number: int) -> Any:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def add(self, handle: Any) -> int:
        number = next(self._numbers)
        self[number] = handle
        return number


class Nodes:
    """The nodeids that the kernel knows, and how many references it has to each."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._lock = Lock()
        self._counts: dict[int, int] = {}
        self._ids: dict[Inode, int] = {operations.root: protocol.ROOT_ID}
        self._numbers = count(protocol.ROOT_ID + 1)
        self.inodes = Inodes({protocol.ROOT_ID: operations.root})
        self.died: Callable[[int], None] = lambda nodeid: None
        """Told of nodeids that the kernel forgot."""

    def remember(self, inode: Inode) -> int:
        """The nodeid of `inode`, one of whose references is now the kernel's."""
        with self._lock:
            nodeid = self._ids.get(inode)
            if nodeid is None:
                nodeid = next(self._numbers)
                self._ids[inode] = nodeid
                self.inodes[nodeid] = inode
            self._counts[nodeid] = self._counts.get(nodeid, 0) + 1
            return nodeid

    def forget(self, nodeid: int, references: int) -> None:
        """Take back `references` of the kernel's. Unknown nodes and more than it has are ignored."""
        with self._lock:
            held = self._counts.get(nodeid, 0)
            references = min(references, held)
            if references == 0:
                return
            inode = self.inodes[nodeid]
            if references < held:
                self._counts[nodeid] = held - references
            else:
                del self._counts[nodeid]
                if nodeid != protocol.ROOT_ID:
                    del self.inodes[nodeid]
                    if self._ids.get(inode) == nodeid:
                        del self._ids[inode]
        if references == held:
            self.died(nodeid)
        self._operations.forget(inode, references)

    def part(self, nodeid: int) -> None:
        """Give the node's object another nodeid with its next answer. This one keeps its references, and leads to the
        object until it is forgotten."""
        with self._lock:
            inode = self.inodes[nodeid]
            if self._ids.get(inode) == nodeid:
                del self._ids[inode]

    def nodeid_of(self, inode: Inode) -> int | None:
        """The nodeid under which the kernel knows `inode`."""
        return self._ids.get(inode)

    def __len__(self) -> int:
        return len(self.inodes)
