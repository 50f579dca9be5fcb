"""Records: what the kernel is told of a directory of the lower layers, made once, without an inode for each name.

Called by `nodes.py` and `directories.py`. A record is an entry of READDIRPLUS as it goes to the kernel: a node with its
attributes, then the name. Lower objects do not change, so a record stays true until the upper layer has something to
say of its name; asking that is the caller's part. A walk over 20,000 files takes the daemon a third of the CPU time
that it took with an inode, a dentry and their tables for each.

Nodeids. Those of records are `number << 32 | position + 1`, `number` being the set of records; other nodes have
nodeids below 1 << 32. An inode is made of a record when a request needs one (`nodes.py`).

Counting. Each record that is given adds a reference of the kernel's, as each LOOKUP does. Whole ranges are given at a
time, so ranges are noted, and single additions and subtractions in an array: the count is the sum.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from unionfs.fuse import wire
from unionfs.union.attributes import Attributes, Entry
from unionfs.union.scan import Scanned

SHIFT = 32
"""Nodeids of records lie above 1 << SHIFT."""
_USUAL_SIZE = wire.dirent_plus_size(b"a name of 16 byt")
_RANGES = 64
"""So many ranges are kept of a directory before they are added up."""

Look = Callable[[Sequence[Scanned]], list[Attributes | None]]
"""Finds attributes out; None for a name that the kernel has to look up: it gets a record without a node."""


class Counts:
    """How many references the kernel got to each of `size` consecutive nodes, less those that it gave back."""

    __slots__ = ("_ranges", "_single", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._single: array[int] | None = None
        self._ranges: list[tuple[int, int]] = []

    def add(self, position: int, count: int) -> None:
        if self._single is None:
            self._single = array("i", bytes(4 * self._size))
        self._single[position] += count

    def add_range(self, start: int, end: int) -> None:
        self._ranges.append((start, end))
        if len(self._ranges) > _RANGES:
            ranges, self._ranges = self._ranges, []
            for first, last in ranges:
                for position in range(first, last):
                    self.add(position, 1)

    def of(self, position: int) -> int:
        single = 0 if self._single is None else self._single[position]
        return single + sum(start <= position < end for start, end in self._ranges)


class Records:
    """One directory's. `nodeid` is the directory's own node. A record is made when it is first asked for."""

    def __init__(self, number: int, nodeid: int, scanned: list[Scanned], look: Look) -> None:
        self.nodeid = nodeid
        self.number = number
        self._look = look
        self._counts = Counts(len(scanned))
        self._made: list[bytes | None] = [None] * len(scanned)
        self._to_make: list[Scanned | None] = list(scanned)
        self._without_node: set[int] = set()
        self._positions: dict[bytes, int] | None = None

    def _make(self, start: int, end: int) -> None:
        """Those of a range that are not there yet."""
        missing = [position for position in range(start, min(end, len(self._made))) if self._made[position] is None]
        scanned = [item for position in missing if (item := self._to_make[position]) is not None]
        for position, item, attributes in zip(missing, scanned, self._look(scanned), strict=True):
            if attributes is None:
                self._without_node.add(position)
                node = None
            else:
                node = self.nodeid_at(position), attributes
            self._made[position] = wire.dirent_plus(Entry(item.name, item.number, item.kind, position + 3), node)
            self._to_make[position] = None

    def _record(self, position: int) -> bytes:
        record = self._made[position]
        if record is None:
            self._make(position, position + 1)
            record = self._made[position]
            assert record is not None
        return record

    def take(self, start: int, size: int) -> list[bytes]:
        """The records from position `start` that fit into `size` bytes."""
        made, found = self._made, []
        for position in range(start, len(made)):
            record = made[position]
            if record is None:
                self._make(position, position + max(1, size // _USUAL_SIZE))
                record = self._record(position)
            size -= len(record)
            if size < 0:
                break
            found.append(record)
        return found

    def without_node(self, start: int, end: int) -> list[int]:
        """The positions in a range whose records have no node."""
        return sorted(self._without_node.intersection(range(start, end)))

    def find(self, name: bytes) -> int | None:
        """The position of a name, if it is in the directory."""
        if self._positions is None:
            self._positions = {self.item(position)[0]: position for position in range(len(self._made))}
        return self._positions.get(name)

    def node(self, position: int) -> bytes | None:
        """The node of a record, as LOOKUP answers it; None where the kernel gets none."""
        return wire.node_of(self._record(position))

    def item(self, position: int) -> tuple[bytes, int, int]:
        """Name, type and inode number, which may be 0."""
        scanned = self._to_make[position]
        if scanned is None:
            return wire.item_of(self._record(position))
        return scanned[:3]

    def items(self) -> list[tuple[bytes, int, int]]:
        """The same of all, in order."""
        return [self.item(position) for position in range(len(self._made))]

    # References

    def nodeid_at(self, position: int) -> int:
        return self.number << SHIFT | position + 1

    def given(self, start: int, end: int) -> None:
        self._counts.add_range(start, end)

    def count(self, position: int, change: int = 0) -> int:
        """How many references of the kernel's there are to a record's node, after `change` more."""
        if change:
            self._counts.add(position, change)
        return self._counts.of(position)
