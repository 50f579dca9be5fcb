"""The layer index: the records of all directories of a stack of lower layers, in one file that is mapped into memory.

Opened by `indexing.py`, which builds it, and used by `nodes.py` in the place of records that are made at need. A
listing is a slice of the file. All mounts of the same stack share it, and what the page cache has of it.

On disk. A line `unionfs index 1`, a line of JSON, filled up to the byte `data`, then the sections that the JSON names
with their start (from the file's) and size in bytes; numbers are the machine's own. *Nodes* are the objects of the
merged lower layers: 0 is the root, then the children of the root, sorted by name, then those of its first directory...

    records    one for each node but the root, the children of a directory side by side, as READDIRPLUS has them
    offsets    u64 for each record, and one more: where it starts in `records`
    parents    u32 for each node
    firsts     u32 for each node: its first child, if it is a directory
    counts     u32 for each node: how many children it has
    flags      u8 for each node: 1: the object has extended attributes; 2: a directory all of whose records have nodes
    names      u32, a table of 2^n nodes, 0 for none: node i is at hash(parent, name) or at the next free place after it

A record without a node (64 zero bits) is of an object that has to be looked up: one with several names, or a directory
that goes on elsewhere (redirect).
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from bisect import bisect_right
from typing import Any, Literal

from unionfs.fuse import wire
from unionfs.fuse.protocol import ROOT_ID
from unionfs.fuse.records import SHIFT, Counts, LookUp, Records
from unionfs.fuse.wire import Buffer

MAGIC = b"unionfs index 1\n"
NUMBER = 1 << 28
"""Nodeids of the index are NUMBER << SHIFT | node, above those of all other records."""
HAS_XATTRS, COMPLETE = 1, 2


def place(parent: int, name: bytes) -> int:
    """Where a name's search in the table begins, before it is cut to the table's size."""
    return zlib.crc32(name, parent)


class DamagedIndex(Exception):
    """The file is not an index, or a damaged one."""


class Index:
    """A mapped file. Raises DamagedIndex for one that cannot be used, OSError when it cannot be opened."""

    def __init__(self, path: bytes) -> None:
        with open(path, "rb") as file:
            if file.readline(len(MAGIC)) != MAGIC:
                raise DamagedIndex("it does not begin as an index does")
            try:
                self.header: dict[str, Any] = json.loads(file.readline(1 << 16))
                start, size = int(self.header["data"]), os.fstat(file.fileno()).st_size
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (ValueError, KeyError, TypeError) as fault:
                raise DamagedIndex("its head cannot be read") from fault
        self._whole = memoryview(self._map)
        if size != self.header.get("size") or zlib.crc32(self._whole[start:]) != self.header.get("crc"):
            raise DamagedIndex("it is damaged")
        self.records = self._section("records", "B")
        self.offsets = self._section("offsets", "Q")
        self.parents = self._section("parents", "I")
        self.firsts = self._section("firsts", "I")
        self.sizes = self._section("counts", "I")
        self.flags = self._section("flags", "B")
        self._names = self._section("names", "I")
        self._counts: dict[int, Counts] = {}
        self.known_as: dict[int, int] = {0: ROOT_ID}
        """Nodes of directories that the kernel knows by another nodeid, since the upper had them from the beginning."""

    def _section(self, name: str, kind: Literal["B", "I", "Q"]) -> memoryview:
        start, size = self.header["sections"][name]
        return self._whole[start : start + size].cast(kind)

    def __len__(self) -> int:
        return len(self.parents)

    def record(self, node: int) -> memoryview:
        return self.records[self.offsets[node - 1] : self.offsets[node]]

    def find(self, parent: int, name: bytes) -> int | None:
        """The node of a name in the directory `parent`."""
        names, parents = self._names, self.parents
        mask = len(names) - 1
        at = place(parent, name) & mask
        while node := names[at]:
            if parents[node] == parent and wire.item_of(self.record(node))[0] == name:
                return int(node)
            at = at + 1 & mask
        return None

    # What `nodes.py` asks by nodeid: a position is a node's number less 1

    def item(self, position: int) -> tuple[bytes, int, int]:
        """Name, type and inode number."""
        return wire.item_of(self.record(position + 1))

    def node_at(self, position: int) -> bytes | None:
        return wire.node_of(self.record(position + 1))

    def nodeid_of_parent(self, position: int) -> int:
        parent = self.parents[position + 1]
        return self.known_as.get(parent) or self.nodeid(parent)

    def count(self, position: int, change: int = 0) -> int:
        parent = self.parents[position + 1]
        return self.counts(parent).count(position + 1 - self.firsts[parent], change)

    def counts(self, parent: int) -> Counts:
        """The references to the children of a directory."""
        counts = self._counts.get(parent)
        if counts is None:
            counts = self._counts[parent] = Counts(self.sizes[parent])
        return counts

    @staticmethod
    def nodeid(node: int) -> int:
        return NUMBER << SHIFT | node

    def has_no_xattrs(self, nodeid: int) -> bool:
        return nodeid >> SHIFT == NUMBER and not self.flags[nodeid & (1 << SHIFT) - 1] & HAS_XATTRS


class IndexedRecords(Records):
    """One directory's: `node` in the index, `nodeid` to the kernel."""

    def __init__(self, index: Index, node: int, nodeid: int) -> None:
        self.index = index
        self.node_number = node
        self.nodeid = nodeid
        self._first = index.firsts[node]
        self._size = index.sizes[node]
        self._counts = index.counts(node)
        self._complete = bool(index.flags[node] & COMPLETE)

    def take(self, start: int, size: int, look_up: LookUp) -> list[Buffer]:
        """One slice of the file, where all its records have nodes."""
        offsets, first = self.index.offsets, self._first - 1
        if start >= self._size:
            return []
        begin = offsets[first + start]
        end = bisect_right(offsets, begin + size, first + start, first + self._size + 1) - 1
        self._counts.add_range(start, end - first)
        if self._complete:
            return [self.index.records[begin : offsets[end]]]
        found = (self.index.record(node) for node in range(self._first + start, end + 1))
        return [wire.with_node(record, look_up) for record in found]

    def dirents(self, start: int, size: int) -> bytes:
        found = []
        for node in range(self._first + start, self._first + self._size):
            entry = wire.dirent_of(self.index.record(node))
            size -= len(entry)
            if size < 0:
                break
            found.append(entry)
        return b"".join(found)

    def find(self, name: bytes) -> int | None:
        node = self.index.find(self.node_number, name)
        return None if node is None else node - self._first

    def node(self, position: int) -> bytes | None:
        return wire.node_of(self.index.record(self._first + position))

    def items(self) -> list[tuple[bytes, int, int]]:
        return [wire.item_of(self.index.record(self._first + position)) for position in range(self._size)]

    def below(self, position: int, nodeid: int) -> IndexedRecords:
        """The records of a directory in this one, which the kernel knows by another nodeid than the index's."""
        self.index.known_as[self._first + position] = nodeid
        return IndexedRecords(self.index, self._first + position, nodeid)

    def forgotten(self) -> None:
        """The kernel has let the directory go."""
        if self.index.known_as.get(self.node_number) == self.nodeid != ROOT_ID:
            del self.index.known_as[self.node_number]

    def nodeid_at(self, position: int) -> int:
        return self.index.nodeid(self._first + position)
