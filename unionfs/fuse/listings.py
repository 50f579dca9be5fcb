"""Listings: at which positions the kernel is told the names of a directory that the upper has a part of.

Called by `directories.py`. No directory is opened, so positions are the directory's own and not an open handle's, and
the kernel and its readers keep them as long as they like. A name keeps its position as long as it is there; new names
come after all others. So whoever reads on, from whatever position, gets each name that was there throughout exactly
once. The union is asked anew each time that somebody reads from the start.

Memory. Names that are gone leave no trace, and names that came and went between two listings were never in one. A
listing lasts until the kernel forgets its directory: some 100 bytes a name.

What the kernel keeps. It keeps the entries that its readers were told as one chain, in which each of them goes on, once
one of them was told the end. It looks whether the directory has changed only for who begins, and not while the chain
grows: a chain that was begun before a change and ended after it may be read on by who began after the change. That is
right as long as names are only added, for they are at the end. Where a name was removed or replaced it would show what
is gone. So from then on the end is told as `NO_END`: a reader takes it for the end, and the kernel keeps nothing. No
listing is read while a name of its directory changes (the kernel's lock of the directory).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from threading import RLock
from typing import TYPE_CHECKING

from unionfs.fuse.records import FIRST, Records
from unionfs.union.operations import Entry

if TYPE_CHECKING:
    from unionfs.fuse.nodes import Nodes
    from unionfs.union.operations import Inode, Operations

NO_END = bytes(8)
"""Less than any entry: the kernel finds none in it."""


class Listing:
    """One directory's; `told`: the records that readers were told of before."""

    def __init__(self, operations: Operations, inode: Inode, told: Records | None) -> None:
        items = told.items() if told is not None else []
        self._operations = operations
        self._handle = operations.opendir(inode)
        self._handle.resume(items)
        self._positions = array("q", range(FIRST, FIRST + len(items)))
        self._next = FIRST + len(items)
        self.refresh()

    def refresh(self) -> None:
        before = [item.name for item in self._handle.items or ()]
        entries = self._operations.readdir(self._handle, 0, numbers=False)
        now = {name: (name, kind, number) for name, number, kind, offset in entries if offset >= FIRST}
        stay = [(position, name) for position, name in zip(self._positions, before, strict=True) if name in now]
        items = [now.pop(name) for _, name in stay]
        self._positions = array("q", [position for position, _ in stay])
        self._positions.extend(range(self._next, self._next + len(now)))
        self._next += len(now)
        self._handle.resume([*items, *now.values()])

    def after(self, position: int, numbers: bool) -> Iterator[Entry]:
        """The names after a position, as `Operations.readdir` gives them."""
        positions = self._positions
        start = bisect_right(positions, position)
        for at, entry in enumerate(self._operations.readdir(self._handle, FIRST - 1 + start, numbers), start):
            yield Entry(entry.name, entry.ino, entry.type, positions[at])

    def close(self) -> None:
        self._operations.releasedir(self._handle)


class Listings:
    """Those of a mount, by nodeid. `lock` is held by who uses one of them; it comes before that of `nodes.py`."""

    def __init__(self, operations: Operations, nodes: Nodes) -> None:
        self._operations = operations
        self._nodes = nodes
        self._by_node: dict[int, Listing] = {}
        self._lost: set[int] = set()
        self.lock = RLock()

    def of(self, nodeid: int, position: int) -> Listing:
        """That of a directory, to be read after `position`."""
        listing = self._by_node.get(nodeid)
        if listing is None:
            records = self._nodes.scan(nodeid)
            told = records if records is not None and records.told else None
            listing = self._by_node[nodeid] = Listing(self._operations, self._nodes.inodes[nodeid], told)
        elif position == 0:
            listing.refresh()
        return listing

    def loses(self, nodeid: int) -> None:
        """A name of the directory is about to be removed or replaced."""
        with self.lock:
            self._lost.add(nodeid)

    def end(self, nodeid: int) -> bytes:
        """The answer to who has read all."""
        return NO_END if nodeid in self._lost else b""

    def forgotten(self, nodeid: int) -> None:
        """The kernel has let the directory go, and with it the positions."""
        with self.lock:
            self._lost.discard(nodeid)
            listing = self._by_node.pop(nodeid, None)
            if listing is not None:
                listing.close()
