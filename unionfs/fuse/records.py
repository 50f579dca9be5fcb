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

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence

from unionfs.fuse import wire
from unionfs.fuse.wire import Buffer
from unionfs.union.attributes import Attributes, Entry
from unionfs.union.scan import Scanned

SHIFT = 32
"""Nodeids of records lie above 1 << SHIFT."""
FIRST = 3
"""The position of a directory's first name, after those of "." and "..", as the kernel is told it."""
_USUAL_SIZE = wire.dirent_plus_size(b"a name of 16 byt")
_RANGES = 64
"""So many ranges are kept of a directory before they are added up."""

Look = Callable[[Sequence[Scanned]], list[Attributes | None]]
"""Finds attributes out; None for a name that is no matter of records: it gets one without a node."""
Node = bytes | tuple[int, Attributes] | None
LookUp = Callable[[bytes], Node]
"""Gives the node of a name whose record has none, with a reference."""


class Counts:
    """How many references the kernel got to each of `size` consecutive nodes, less those that it gave back."""

    __slots__ = ("_ranges", "_single", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._single: array[int] | None = None
        self._ranges: list[tuple[int, int]] = []

    def _add(self, position: int, count: int) -> None:
        if self._single is None:
            self._single = array("i", bytes(4 * self._size))
        self._single[position] += count

    def add_range(self, start: int, end: int) -> None:
        self._ranges.append((start, end))
        if len(self._ranges) > _RANGES:
            ranges, self._ranges = self._ranges, []
            for first, last in ranges:
                for position in range(first, last):
                    self._add(position, 1)

    def count(self, position: int, change: int = 0) -> int:
        """How many there are of one, after `change` more."""
        if change:
            self._add(position, change)
        single = 0 if self._single is None else self._single[position]
        return single + sum(start <= position < end for start, end in self._ranges)


class Records(ABC):
    """One directory's. A name is known by its position. Not safe to call from several threads: `nodes.py` is."""

    nodeid: int
    """The directory's own node."""
    told = False
    """Whether the kernel was ever told names in this order."""
    _counts: Counts
    """The references of the kernel's to the nodes of its records."""

    @abstractmethod
    def take(self, start: int, size: int, look_up: LookUp) -> Sequence[Buffer]:
        """The records from position `start` that fit into `size` bytes, counted as given."""

    @abstractmethod
    def dirents(self, start: int, size: int) -> bytes:
        """The same without nodes, as READDIR has them."""

    @abstractmethod
    def find(self, name: bytes) -> int | None:
        """The position of a name, if it is in the directory."""

    @abstractmethod
    def node(self, position: int) -> bytes | None:
        """The node of a record, as LOOKUP answers it; None where it has none."""

    @abstractmethod
    def items(self) -> list[tuple[bytes, int, int]]:
        """Name, type and inode number (0: not known) of all, in order."""

    @abstractmethod
    def nodeid_at(self, position: int) -> int:
        """The nodeid of a record."""

    def count(self, position: int, change: int = 0) -> int:
        """How many references of the kernel's there are to a record's node, after `change` more."""
        return self._counts.count(position, change)


class ScannedRecords(Records):
    """Those of a directory that was read by the union. A record is made when it is first asked for."""

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
            self._made[position] = wire.dirent_plus((item[0], item[2], item[1], position + FIRST), node)
            self._to_make[position] = None

    def _record(self, position: int) -> bytes:
        record = self._made[position]
        if record is None:
            self._make(position, position + 1)
            record = self._made[position]
            assert record is not None
        return record

    def take(self, start: int, size: int, look_up: LookUp) -> list[Buffer]:
        made, found = self._made, []
        for position in range(start, len(made)):
            record = made[position]
            if record is None:
                self._make(position, position + max(1, size // _USUAL_SIZE))
                record = self._record(position)
            size -= len(record)
            if size < 0:
                break
            found.append(wire.with_node(record, look_up) if position in self._without_node else record)
        self._counts.add_range(start, start + len(found))
        return found

    def dirents(self, start: int, size: int) -> bytes:
        return wire.dirents(map(self._entry, range(start, len(self._made))), size)

    def _entry(self, position: int) -> Entry:
        name, kind, number = self.item(position)
        return Entry(name, number, kind, position + FIRST)

    def find(self, name: bytes) -> int | None:
        if self._positions is None:
            self._positions = {self.item(position)[0]: position for position in range(len(self._made))}
        return self._positions.get(name)

    def node(self, position: int) -> bytes | None:
        return wire.node_of(self._record(position))

    node_at = node

    def item(self, position: int) -> tuple[bytes, int, int]:
        """As of `items`."""
        scanned = self._to_make[position]
        if scanned is None:
            return wire.item_of(self._record(position))
        return scanned[:3]

    def items(self) -> list[tuple[bytes, int, int]]:
        return [self.item(position) for position in range(len(self._made))]

    def nodeid_at(self, position: int) -> int:
        return self.number << SHIFT | position + 1

    def nodeid_of_parent(self, position: int) -> int:
        return self.nodeid
