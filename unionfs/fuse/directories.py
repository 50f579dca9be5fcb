"""Directories as the kernel reads them: the names in them.

Called through the table in `dispatch.py`, as `calls.py`. Positions: "." is 1, ".." 2, the first name 3, as `readdir` of
the union numbers them.

The kernel does not open directories: it is told once that there is no OPENDIR, and keeps listings from then on. Nothing
that it keeps is stale: each change of a directory's names is its own work, and it forgets the listing by itself. One
that asks all the same gets a handle that means nothing.

A directory that only lower layers have is told from its records, any other from its listing (`listings.py`). One that
gets a part in the upper changes from the one to the other: the names that were told keep their positions.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from unionfs.errors import failed
from unionfs.fuse import protocol, wire
from unionfs.fuse.records import FIRST, Node, Records
from unionfs.union.operations import Entry

if TYPE_CHECKING:
    from unionfs.fuse.calls import Connection
    from unionfs.fuse.wire import Request

_NOT_NAMES = (b".", b"..")


def lookup(c: Connection, request: Request, name: bytes) -> Node:
    return find(c, request.nodeid, name)


def find(c: Connection, parent: int, name: bytes) -> Node:
    """A name's node, with a reference that is the kernel's; None: there is no such name."""
    try:
        records = None if name in _NOT_NAMES else c.nodes.records_for_lookup(parent)
        if records is not None:
            node = c.nodes.give(records, name)
            if node is not None:
                return node
        inode, attributes = c.operations.lookup(c.inodes[parent], name)
        nodeid = c.nodes.remember(inode)
        if records is not None:
            c.nodes.attach(records, name, inode, nodeid)
        return nodeid, attributes
    except FileNotFoundError:
        return None


def opendir(c: Connection, request: Request, flags: int) -> tuple[int, int, int]:
    if c.flags & protocol.INIT_FLAGS["NO_OPENDIR_SUPPORT"]:
        raise failed(errno.ENOSYS)
    return 0, protocol.FOPEN_CACHE_DIR | protocol.FOPEN_KEEP_CACHE, 0


def fsyncdir(c: Connection, request: Request, fh: int, flags: int) -> None:
    handle = c.operations.opendir(c.inodes[request.nodeid])
    try:
        c.operations.fsyncdir(handle, bool(flags & protocol.FSYNC_FDATASYNC))
    finally:
        c.operations.releasedir(handle)


def readdir(c: Connection, request: Request, fh: int, position: int, size: int) -> bytes:
    nodeid = request.nodeid
    dots = wire.dirents(_dots(c, nodeid, position), size)
    size -= len(dots)
    records = _current(c, nodeid)
    if records is not None:
        return dots + records.dirents(max(0, position + 1 - FIRST), size)
    with c.listings.lock:
        listing = c.listings.of(nodeid, position)
        return dots + wire.dirents(listing.after(position, numbers=True), size) or c.listings.end(nodeid)


def readdirplus(c: Connection, request: Request, fh: int, position: int, size: int) -> bytes:
    """Entries with their nodes, looked up only when they fit: each one counts as a reference."""
    nodeid = request.nodeid
    parts: list[wire.Buffer] = [wire.dirent_plus(item, None) for item in _dots(c, nodeid, position)]
    size -= sum(map(len, parts))
    look_up = partial(_node_of, c, nodeid)
    records = _current(c, nodeid)
    if records is not None:
        return b"".join([*parts, *c.nodes.give_range(records, max(0, position + 1 - FIRST), size, look_up)])
    with c.listings.lock:
        listing = c.listings.of(nodeid, position)
        for item in listing.after(position, numbers=False):
            size -= wire.dirent_plus_size(item.name)
            if size < 0:
                break
            parts.append(wire.dirent_plus(item, look_up(item.name)))
        return b"".join(parts) or c.listings.end(nodeid)


def _current(c: Connection, nodeid: int) -> Records | None:
    """The records of a directory to be told from, if the upper has no part of it."""
    records = c.nodes.scan(nodeid)
    if records is None or not c.nodes.is_current(records):
        return None
    records.told = True
    return records


def _dots(c: Connection, nodeid: int, position: int) -> Iterator[Entry]:
    """What of "." and ".." follows a position."""
    if position < FIRST - 1:
        own, above = c.nodes.numbers(nodeid)
        kind = stat.S_IFDIR >> 12
        yield from (Entry(b".", own, kind, 1), Entry(b"..", above, kind, 2))[position:]


def _node_of(c: Connection, directory: int, name: bytes) -> Node:
    """None where there is none any more: the kernel would ask by LOOKUP."""
    try:
        return find(c, directory, name)
    except OSError:
        return None
