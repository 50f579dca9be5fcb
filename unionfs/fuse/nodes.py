"""What the kernel holds of ours: nodes, by nodeid, and open files, by handle number.

Called by `calls.py` and `directories.py`. Each answer that carries a node (LOOKUP, CREATE, a READDIRPLUS entry, ...)
gives the kernel one reference to it; FORGET gives references back, and with the last one the nodeid dies. A nodeid is
never used again in a connection, so that no late message can mean another object. Safe to call from several threads.

Two kinds of nodes. One that `remember` numbered stands for an inode, to which the union counts the same references. One
of a *record* (see `records.py`) has no inode until a request needs it: `Inodes` makes it then, by looking up its name,
and holds one reference until the last one of the kernel's is gone. Before a name changes, `bind` sees to it that the
record's node has its inode, which then goes wherever the object goes.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any

from unionfs.errors import failed
from unionfs.fuse import protocol
from unionfs.fuse.index import NUMBER, Index, IndexedRecords
from unionfs.fuse.records import SHIFT, LookUp, Records, ScannedRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unionfs.fuse.wire import Buffer
    from unionfs.union.operations import Inode, Operations

_LOOKUPS_BEFORE_SCAN = 16
_POSITION = (1 << SHIFT) - 1


class Inodes(dict[int, "Inode"]):
    """Inodes by nodeid. One that is not there is made of its record; without one it is stale: OSError ESTALE."""

    def __init__(self, root: Inode, make: Callable[[int], Inode]) -> None:
        super().__init__({protocol.ROOT_ID: root})
        self._make = make

    def __missing__(self, nodeid: int) -> Inode:
        if nodeid >> SHIFT:
            return self._make(nodeid)
        raise failed(errno.ESTALE)


class Handles(dict[int, Any]):
    """Open files by the number that the kernel got. An unknown one: OSError EBADF."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __missing__(self, number: int) -> Any:
        raise failed(errno.EBADF)

    def add(self, handle: Any) -> int:
        number = next(self._numbers)
        self[number] = handle
        return number


class Nodes:
    """The nodeids that the kernel knows, and how many references it has to each.

    Lock order: this one's, then the union's.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._lock = RLock()
        self._counts: dict[int, int] = {}
        self._ids: dict[Inode, int] = {operations.root: protocol.ROOT_ID}
        self._numbers = count(protocol.ROOT_ID + 1)
        self._index: Index | None = None
        self._scanned: dict[int, ScannedRecords] = {}
        self._of_directory: dict[int, Records] = {}
        self._record_numbers = count(1)
        self._asked: dict[int, int] = {}
        """How many names were looked up in a directory that has no records."""
        self.inodes = Inodes(operations.root, self._make)
        self.died: Callable[[int], None] = lambda nodeid: None
        """Told of nodeids that the kernel forgot."""

    # Nodes with an inode

    def remember(self, inode: Inode) -> int:
        """The nodeid of `inode`, one of whose references is now the kernel's."""
        with self._lock:
            nodeid = self._ids.get(inode)
            if nodeid is None:
                nodeid = next(self._numbers)
                self._ids[inode] = nodeid
                self.inodes[nodeid] = inode
            elif nodeid >> SHIFT:
                self._count(nodeid, 1)
                self._operations.forget(inode, 1)  # `_make` holds one already
                return nodeid
            self._counts[nodeid] = self._counts.get(nodeid, 0) + 1
            return nodeid

    def forget(self, nodeid: int, references: int) -> None:
        """Take back `references` of the kernel's. Unknown nodes and more than it has are ignored."""
        with self._lock:
            if nodeid >> SHIFT:
                inode, references = self._forget_record(nodeid, references), 1
            else:
                inode, references = self._forget_inode(nodeid, references)
            is_dead = nodeid not in self.inodes
        if inode is not None:
            if is_dead:
                self.died(nodeid)  # without the lock: who is told has one of its own, and calls `part` under that
            self._operations.forget(inode, references)

    def _forget_inode(self, nodeid: int, references: int) -> tuple[Inode | None, int]:
        """The inode, and what it loses."""
        held = self._counts.get(nodeid, 0)
        references = min(references, held)
        if references == 0:
            return None, 0
        inode = self.inodes[nodeid]
        if references < held:
            self._counts[nodeid] = held - references
        else:
            del self._counts[nodeid]
            self._drop(nodeid, inode)
        return inode, references

    def _drop(self, nodeid: int, inode: Inode) -> None:
        if nodeid == protocol.ROOT_ID:
            return
        del self.inodes[nodeid]
        if self._ids.get(inode) == nodeid:
            del self._ids[inode]
        self._asked.pop(nodeid, None)
        records = self._of_directory.pop(nodeid, None)
        if isinstance(records, ScannedRecords):
            del self._scanned[records.number]
        elif isinstance(records, IndexedRecords):
            records.forgotten()

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

    def path(self, nodeid: int) -> bytes:
        """The path of a node from the root of the union, b"" being that; of several names one. Makes no inode.

        Raises ESTALE for a node that is not known, or has no name any more."""
        with self._lock:
            names: list[bytes] = []
            while nodeid not in self.inodes:
                holder, position = self._holder(nodeid), _position(nodeid)
                names.append(holder.item(position)[0])
                nodeid = holder.nodeid_of_parent(position)
            inode = self.inodes[nodeid]
            if inode.dentry is not None:
                names.append(inode.dentry.path())
            elif nodeid != protocol.ROOT_ID:
                raise failed(errno.ESTALE)
            return b"/".join(reversed(names))

    def __len__(self) -> int:
        return len(self.inodes)

    # Nodes of records

    def use(self, index: Index) -> None:
        """Take the records of all directories from there. Before the first request."""
        self._index = index
        self._of_directory[protocol.ROOT_ID] = IndexedRecords(index, 0, protocol.ROOT_ID)

    @property
    def has_index(self) -> bool:
        return self._index is not None

    def has_no_xattrs(self, nodeid: int) -> bool:
        """Whether an object surely has no extended attributes, and no inode to ask."""
        return self._index is not None and nodeid not in self.inodes and self._index.has_no_xattrs(nodeid)

    def unused(self, nodeid: int) -> bytes | None:
        """What the record of a node says, as long as no request needed the inode."""
        if nodeid < 1 << SHIFT or nodeid in self.inodes:
            return None
        with self._lock:
            return self._holder(nodeid).node_at(_position(nodeid))

    def records_for_lookup(self, nodeid: int) -> Records | None:
        """The records of a directory, if it has any, or so many names were looked up in it that it is worth while."""
        records = self._known(nodeid)
        if records is None:
            asked = self._asked[nodeid] = self._asked.get(nodeid, 0) + 1
            if asked == _LOOKUPS_BEFORE_SCAN:
                with suppress(PermissionError):  # a user's own mount: they may enter it, and not list it
                    records = self.scan(nodeid)
        return records

    def _known(self, nodeid: int) -> Records | None:
        """Those that were made before, or are in the index."""
        records = self._of_directory.get(nodeid)
        if records is not None or self._index is None or nodeid >> SHIFT != NUMBER:
            return records
        with self._lock:
            records = IndexedRecords(self._index, nodeid & _POSITION, nodeid)
            return self._of_directory.setdefault(nodeid, records)

    def scan(self, nodeid: int) -> Records | None:
        """The same; they are made for a directory that only lower layers have."""
        records = self._known(nodeid)
        if records is not None:
            return records
        inode = self.inodes[nodeid]
        scanned = self._operations.scan.names(inode)
        if scanned is None:
            return None
        with self._lock:
            number = next(self._record_numbers)
            look = partial(self._operations.scan.plain, inode)
            self._scanned[number] = made = self._of_directory[nodeid] = ScannedRecords(number, nodeid, scanned, look)
            return made

    def is_current(self, records: Records) -> bool:
        """Whether the upper still has no part of that directory."""
        inode = self.inodes.get(records.nodeid)
        return inode is None or self._operations.scan.is_lower(inode)

    def attach(self, records: Records, name: bytes, inode: Inode, nodeid: int) -> None:
        """A directory was looked up in one that has records: what the index says of its lower part is known too."""
        if not isinstance(records, IndexedRecords) or not inode.is_dir or nodeid in self._of_directory:
            return
        position = records.find(name)
        if position is None or records.node(position) is None:
            return
        if self._operations.scan.goes_on(self.inodes[records.nodeid], name, inode):
            self._of_directory[nodeid] = records.below(position, nodeid)

    def give(self, records: Records, name: bytes) -> bytes | None:
        """The node of a record, for an answer that adds a reference; None where the union has to be asked.

        Raises FileNotFoundError for a name that is not there.
        """
        inode = self.inodes.get(records.nodeid)
        if inode is not None and self._operations.scan.hides(inode, name):
            return None
        with self._lock:
            position = records.find(name)
            if position is None:
                raise failed(errno.ENOENT)
            node = records.node(position)
            if node is not None:
                records.count(position, 1)
            return node

    def give_range(self, records: Records, start: int, size: int, look_up: LookUp) -> Sequence[Buffer]:
        """Records from position `start`, which fit into `size` bytes and whose nodes the kernel then has."""
        with self._lock:
            return records.take(start, size, look_up)

    def bind(self, parent: int, name: bytes) -> None:
        """`name` is about to be changed: give the node of its record, if the kernel knows that, its inode."""
        records = self._known(parent)
        if records is None or self._operations.scan.hides(self.inodes[parent], name):
            return
        with self._lock:
            position = records.find(name)
            if position is not None and records.node(position) is not None and records.count(position) > 0:
                _ = self.inodes[records.nodeid_at(position)]

    def _make(self, nodeid: int) -> Inode:
        """Look up the inode of a record's node. Raises ESTALE when it is not that any more: a lower layer changed."""
        with self._lock:
            way = [nodeid]
            while way[-1] not in self.inodes:
                way.append(self._holder(way[-1]).nodeid_of_parent(_position(way[-1])))
            inode = self.inodes[way.pop()]
            for nodeid in reversed(way):
                inode = self._step(inode, nodeid)
            return inode

    def _step(self, parent: Inode, nodeid: int) -> Inode:
        name, _, number = self._holder(nodeid).item(_position(nodeid))
        try:
            inode, _ = self._operations.lookup(parent, name)
        except OSError:
            raise failed(errno.ESTALE) from None
        if inode.number != number:
            self._operations.forget(inode, 1)
            raise failed(errno.ESTALE)
        self._ids.setdefault(inode, nodeid)
        self.inodes[nodeid] = inode
        return inode

    def _holder(self, nodeid: int) -> Index | ScannedRecords:
        """Who has the record of a node. Raises ESTALE."""
        holder = self._find_holder(nodeid)
        if holder is None:
            raise failed(errno.ESTALE)
        return holder

    def _find_holder(self, nodeid: int) -> Index | ScannedRecords | None:
        number = nodeid >> SHIFT
        return self._index if number == NUMBER else self._scanned.get(number)

    def numbers(self, nodeid: int) -> tuple[int, int]:
        """The inode numbers of a directory and of the one above."""
        inode = self.inodes.get(nodeid)
        if inode is not None:
            return inode.number, (inode.dentry.parent if inode.dentry is not None else inode).number
        holder = self._holder(nodeid)
        above = holder.nodeid_of_parent(_position(nodeid))
        return holder.item(_position(nodeid))[2], self.numbers(above)[0]

    def _count(self, nodeid: int, change: int) -> int:
        holder = self._find_holder(nodeid)
        return holder.count(_position(nodeid), change) if holder is not None else 0

    def _forget_record(self, nodeid: int, references: int) -> Inode | None:
        """The inode that loses its one reference, if there is one and the kernel has none of its own any more."""
        if self._count(nodeid, -references) > 0:
            return None
        self._of_directory.pop(nodeid, None)
        inode = self.inodes.get(nodeid)
        if inode is not None:
            self._drop(nodeid, inode)
        return inode


def _position(nodeid: int) -> int:
    return (nodeid & _POSITION) - 1
