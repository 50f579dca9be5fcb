"""Directories as the kernel reads them: open ones, and the names in them.

Called through the table in `dispatch.py`, as `calls.py`. Positions: "." is 1, ".." 2, the first name 3, as `readdir` of
the union numbers them.

A directory that only lower layers have is told from its records, and the kernel keeps the listing (FOPEN_CACHE_DIR): it
cannot change but by getting a part in the upper, and then it is the kernel who changes it, and forgets it by itself.
Whoever reads on in a listing that was begun before that gets the same names in the same order. Any other directory is
listed anew each time that it is read from the start.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from unionfs.fuse import protocol, wire
from unionfs.fuse.records import Node, Records
from unionfs.union.operations import DirHandle, Entry

if TYPE_CHECKING:
    from unionfs.fuse.calls import Connection
    from unionfs.fuse.wire import Request

_DOTS = 2
"""Entries before the first name."""
_NOT_NAMES = (b".", b"..")


class OpenDirectory:
    """`records` tell the names, or `handle`, the union's own, does."""

    __slots__ = ("handle", "records")

    def __init__(self, records: Records | None, handle: DirHandle | None) -> None:
        self.records = records
        self.handle = handle


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
    records = c.nodes.scan(request.nodeid)
    if records is not None and c.nodes.is_current(records):
        kept = protocol.FOPEN_CACHE_DIR | protocol.FOPEN_KEEP_CACHE
        return c.handles.add(OpenDirectory(records, None)), kept, 0
    handle = c.operations.opendir(c.inodes[request.nodeid])
    return c.handles.add(OpenDirectory(None, handle)), 0, 0


def releasedir(c: Connection, request: Request, fh: int) -> None:
    handle = c.handles.pop(fh).handle
    if handle is not None:
        c.operations.releasedir(handle)


def fsyncdir(c: Connection, request: Request, fh: int, flags: int) -> None:
    handle = _handle(c, request.nodeid, c.handles[fh])
    c.operations.fsyncdir(handle, bool(flags & protocol.FSYNC_FDATASYNC))


def _handle(c: Connection, nodeid: int, opened: OpenDirectory) -> DirHandle:
    """The union's own handle, which goes on in the order of the records if it was begun with them."""
    if opened.handle is None:
        opened.handle = c.operations.opendir(c.inodes[nodeid])
        if opened.records is not None:
            opened.handle.resume(opened.records.items())
            opened.records = None
    return opened.handle


def readdir(c: Connection, request: Request, fh: int, cookie: int, size: int) -> bytes:
    opened: OpenDirectory = c.handles[fh]
    records = opened.records
    if records is None or not c.nodes.is_current(records):
        return wire.dirents(c.operations.readdir(_handle(c, request.nodeid, opened), cookie), size)
    head = wire.dirents(_dots(c, request.nodeid, cookie), size)
    return head + records.dirents(max(0, cookie - _DOTS), size - len(head))


def readdirplus(c: Connection, request: Request, fh: int, cookie: int, size: int) -> bytes:
    """Entries with their nodes, looked up only when they fit: each one counts as a reference."""
    opened: OpenDirectory = c.handles[fh]
    nodeid = request.nodeid
    records = opened.records
    if records is not None and c.nodes.is_current(records):
        dots = b"".join(wire.dirent_plus(item, None) for item in _dots(c, nodeid, cookie))
        start = max(0, cookie - _DOTS)
        return b"".join([dots, *c.nodes.give_range(records, start, size - len(dots), partial(_node_of, c, nodeid))])
    parts = []
    for item in c.operations.readdir(_handle(c, nodeid, opened), cookie, numbers=False):
        size -= wire.dirent_plus_size(item.name)
        if size < 0:
            break
        parts.append(wire.dirent_plus(item, _node_of(c, nodeid, item.name)))
    return b"".join(parts)


def _dots(c: Connection, nodeid: int, cookie: int) -> Iterator[Entry]:
    """What of "." and ".." follows a position."""
    if cookie < _DOTS:
        own, above = c.nodes.numbers(nodeid)
        kind = stat.S_IFDIR >> 12
        yield from (Entry(b".", own, kind, 1), Entry(b"..", above, kind, 2))[cookie:]


def _node_of(c: Connection, directory: int, name: bytes) -> Node:
    """None where the kernel needs no node ("." and "..") or there is none any more: it would ask by LOOKUP."""
    if name in _NOT_NAMES:
        return None
    try:
        return find(c, directory, name)
    except OSError:
        return None
