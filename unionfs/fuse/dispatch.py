"""One table of all requests: name, decoder, call, encoder, and what the main thread does where a call may wait long.

Used by `server.py`: it looks the row up, decodes, calls, encodes and sends.

The main thread answers what is quick. What may wait long (for a disk, for the copy-up of a big file) it answers
HAND_OVER, and a helper thread makes the call: fsync and the like always, changes of an inode when the union says that
it may block, reads that the page cache cannot answer, big writes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from unionfs.fuse import calls, directories, filecalls, noopen, protocol, wire
from unionfs.fuse.calls import Connection
from unionfs.fuse.wire import Request
from unionfs.linux import files
from unionfs.union.operations import Attributes, Inode

BIG_WRITE = 256 * 1024
"""Bytes from which a WRITE goes to a helper: writing them may wait for the disk."""

Call = Callable[..., Any]


class HandOver:
    """The type of HAND_OVER."""


HAND_OVER = HandOver()
"""The answer of the main thread that a helper must make the call."""


class Row(NamedTuple):
    """How one opcode is served. `fields` names the arguments, for people who watch."""

    name: str
    fields: str
    decode: wire.Decoder
    call: Call
    encode: wire.Encoder
    on_main: Call


def row(
    name: str, fields: str, decode: wire.Decoder, call: Call, encode: wire.Encoder, on_main: Call | None = None
) -> Row:
    return Row(name, fields, decode, call, encode, on_main or call)


# --- what the main thread does instead, where the operation may wait long


def always(c: Connection, request: Request, *arguments: object) -> HandOver:
    return HAND_OVER


def unless_node_blocks(call: Call) -> Call:
    """A change of the node itself, which may have to be copied up first."""

    def on_main(c: Connection, request: Request, *arguments: Any) -> Any:
        if c.operations.may_block(c.inodes[request.nodeid]):
            return HAND_OVER
        return call(c, request, *arguments)

    return on_main


def setattr_on_main(c: Connection, request: Request, valid: int, *arguments: Any) -> Any:
    if c.operations.may_block(c.inodes[request.nodeid], cut=bool(valid & protocol.FATTR_SIZE)):
        return HAND_OVER
    return calls.setattr_(c, request, valid, *arguments)


def open_on_main(c: Connection, request: Request, flags: int, open_flags: int) -> tuple[int, int, int] | HandOver:
    """What is opened for reading is not copied up. What is to be cut is not either, but may be in the midst of it."""
    if c.operations.may_open_wait(c.inodes[request.nodeid], flags):
        return HAND_OVER
    return filecalls.open_(c, request, flags, open_flags)


def unless_there(create: Call) -> Call:
    """CREATE: a name that is there after all is opened, which may mean to copy it up."""

    def on_main(c: Connection, request: Request, flags: int, *arguments: Any) -> Any:
        try:
            return create(c, request, flags | os.O_EXCL, *arguments)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            return HAND_OVER

    return on_main


def link_on_main(c: Connection, request: Request, nodeid: int, name: bytes) -> tuple[int, Attributes] | HandOver:
    if c.operations.may_block(c.inodes[nodeid]):
        return HAND_OVER
    return calls.link(c, request, nodeid, name)


def rename_on_main(c: Connection, request: Request, new_nodeid: int, *arguments: Any) -> HandOver | None:
    """Each name that is moved may have to be copied up: the old one, and in an exchange the new one."""
    *flags, old, new = arguments
    moved = [(request.nodeid, old)] + ([(new_nodeid, new)] if flags and flags[0] & files.RENAME_EXCHANGE else [])
    if any(_name_blocks(c, c.inodes[nodeid], name) for nodeid, name in moved):
        return HAND_OVER
    return (calls.rename2 if flags else calls.rename)(c, request, new_nodeid, *arguments)


def _name_blocks(c: Connection, parent: Inode, name: bytes) -> bool:
    inode, _ = c.operations.lookup(parent, name)
    try:
        return c.operations.may_block(inode)
    finally:
        c.operations.forget(inode)


def read_on_main(c: Connection, request: Request, fh: int, position: int, size: int) -> wire.Buffer | HandOver:
    found = c.operations.read_cached(c.file(fh), position, size)
    return HAND_OVER if found is None else found


def write_on_main(
    c: Connection, request: Request, fh: int, position: int, flags: int, content: memoryview
) -> int | HandOver:
    if len(content) >= BIG_WRITE or c.operations.may_write_wait(c.file(fh), position, len(content)):
        return HAND_OVER
    return filecalls.write(c, request, fh, position, flags, content)


# --- the same, where files are not opened (open=cached)


def setattr_without_open(c: Connection, request: Request, valid: int, *arguments: int) -> Any:
    return setattr_on_main(c, request, valid & ~protocol.FATTR_FH, *arguments)


def read_without_open(c: Connection, request: Request, fh: int, position: int, size: int) -> wire.Buffer | HandOver:
    one = c.files.take(request.nodeid, c.inodes[request.nodeid])
    try:
        found = c.operations.read_cached(one.handle, position, size)
    finally:
        c.files.give_back(one)
    return HAND_OVER if found is None else found


def write_without_open(
    c: Connection, request: Request, opened: int, position: int, flags: int, content: memoryview
) -> int | HandOver:
    nodeid = request.nodeid
    inode = c.inodes[nodeid]
    if opened & (os.O_SYNC | os.O_DSYNC) or len(content) >= BIG_WRITE:
        return HAND_OVER
    if not c.files.has(nodeid, True) and c.operations.may_open_wait(inode, os.O_RDWR):
        return HAND_OVER
    with c.files.using(nodeid, inode, writable=True) as handle:
        if c.operations.may_write_wait(handle, position, len(content)):
            return HAND_OVER
        return noopen.write(c, request, opened, position, flags, content)


# --- the table

_handle = wire.fixed("Q16x")  # RELEASE, FLUSH: fh, flags, release flags, lock owner
_page = wire.fixed("QQI4x8x4x4x")  # READ, READDIR: fh, offset, size, read flags, lock owner, flags
_sync = wire.fixed("QI4x")
_ENOSYS, _ENOTTY = calls.refuse(errno.ENOSYS), calls.refuse(errno.ENOTTY)
UNKNOWN = row("UNKNOWN", "", wire.nothing, _ENOSYS, wire.done)

_ROWS = {
    protocol.LOOKUP: row("LOOKUP", "name", wire.lookup, directories.lookup, wire.entry),
    protocol.FORGET: row("FORGET", "nlookup", wire.fixed("Q"), calls.forget, wire.no_reply),
    protocol.GETATTR: row("GETATTR", "flags fh", wire.fixed("I4xQ"), calls.getattr_, wire.attributes),
    protocol.SETATTR: row(
        "SETATTR", "valid fh size atime mtime atime_ns mtime_ns mode uid gid",
        wire.fixed("I4xQQ8xqq8xII4xI4xII4x"), calls.setattr_, wire.attributes, setattr_on_main,
    ),
    protocol.READLINK: row("READLINK", "", wire.nothing, calls.readlink, wire.data),
    protocol.SYMLINK: row("SYMLINK", "name target", wire.symlink, calls.symlink, wire.entry),
    protocol.MKNOD: row("MKNOD", "mode rdev umask name", wire.named("III4x"), calls.mknod, wire.entry),
    protocol.MKDIR: row("MKDIR", "mode umask name", wire.named("II"), calls.mkdir, wire.entry),
    protocol.UNLINK: row("UNLINK", "name", wire.named(""), calls.unlink, wire.done),
    protocol.RMDIR: row("RMDIR", "name", wire.named(""), calls.rmdir, wire.done),
    protocol.RENAME: row("RENAME", "newdir old new", wire.named("Q", 2), calls.rename, wire.done, rename_on_main),
    protocol.LINK: row("LINK", "oldnode name", wire.named("Q"), calls.link, wire.entry, link_on_main),
    protocol.OPEN: row("OPEN", "flags open_flags", wire.fixed("II"), filecalls.open_, wire.opened, open_on_main),
    protocol.READ: row("READ", "fh offset size", _page, filecalls.read, wire.data, read_on_main),
    protocol.WRITE: row("WRITE", "fh offset write_flags data", wire.write, filecalls.write, wire.count, write_on_main),
    protocol.STATFS: row("STATFS", "", wire.nothing, calls.statfs, wire.statfs),
    protocol.RELEASE: row("RELEASE", "fh", _handle, filecalls.release, wire.done),
    protocol.FSYNC: row("FSYNC", "fh datasync", _sync, filecalls.fsync, wire.done, always),
    protocol.SETXATTR: row(
        "SETXATTR", "name value xattr_flags setxattr_flags", wire.setxattr, calls.setxattr, wire.done,
        unless_node_blocks(calls.setxattr),
    ),
    protocol.GETXATTR: row("GETXATTR", "size name", wire.xattr_name("I4x"), calls.getxattr, wire.xattr),
    protocol.LISTXATTR: row("LISTXATTR", "size", wire.fixed("I4x"), calls.listxattr, wire.xattr),
    protocol.REMOVEXATTR: row(
        "REMOVEXATTR", "name", wire.xattr_name(""), calls.removexattr, wire.done, unless_node_blocks(calls.removexattr)
    ),
    protocol.FLUSH: row("FLUSH", "fh", _handle, filecalls.flush, wire.done),
    protocol.INIT: row("INIT", "major minor max_readahead init_flags", wire.init, calls.init, wire.initialised),
    protocol.OPENDIR: row("OPENDIR", "flags", wire.fixed("I4x"), directories.opendir, wire.opened),
    protocol.READDIR: row("READDIR", "fh offset size", _page, directories.readdir, wire.data),
    protocol.RELEASEDIR: row("RELEASEDIR", "fh", _handle, calls.nothing, wire.done),
    protocol.FSYNCDIR: row("FSYNCDIR", "fh datasync", _sync, directories.fsyncdir, wire.done, always),
    protocol.GETLK: row("GETLK", "fh owner start end type", wire.fixed("QQQQI12x"), _ENOSYS, wire.done),
    protocol.SETLK: row("SETLK", "fh owner start end type", wire.fixed("QQQQI12x"), _ENOSYS, wire.done),
    protocol.SETLKW: row("SETLKW", "fh owner start end type", wire.fixed("QQQQI12x"), _ENOSYS, wire.done),
    protocol.ACCESS: row("ACCESS", "mask", wire.fixed("I4x"), _ENOSYS, wire.done),
    protocol.CREATE: row(
        "CREATE", "flags mode umask open_flags name", wire.named("IIII"), filecalls.create, wire.created,
        unless_there(filecalls.create),
    ),
    protocol.INTERRUPT: row("INTERRUPT", "unique", wire.fixed("Q"), calls.interrupt, wire.no_reply),
    protocol.BMAP: row("BMAP", "block blocksize", wire.fixed("QI4x"), _ENOSYS, wire.done),
    protocol.DESTROY: row("DESTROY", "", wire.nothing, calls.nothing, wire.done),
    protocol.IOCTL: row("IOCTL", "fh ioctl_flags cmd", wire.fixed("QII16x"), _ENOTTY, wire.done),
    protocol.POLL: row("POLL", "fh kh poll_flags events", wire.fixed("QQII"), _ENOSYS, wire.done),
    protocol.NOTIFY_REPLY: row("NOTIFY_REPLY", "", wire.fixed("40x"), calls.nothing, wire.no_reply),
    protocol.BATCH_FORGET: row("BATCH_FORGET", "nodes", wire.batch_forget, calls.batch_forget, wire.no_reply),
    protocol.FALLOCATE: row(
        "FALLOCATE", "fh offset length fallocate_mode", wire.fixed("QQQI4x"), filecalls.fallocate, wire.done, always
    ),
    protocol.READDIRPLUS: row("READDIRPLUS", "fh offset size", _page, directories.readdirplus, wire.data),
    protocol.RENAME2: row(
        "RENAME2", "newdir rename_flags old new", wire.named("QI4x", 2), calls.rename2, wire.done, rename_on_main
    ),
    protocol.LSEEK: row("LSEEK", "fh offset whence", wire.fixed("QQI4x"), filecalls.lseek, wire.offset),
    protocol.COPY_FILE_RANGE: row(
        "COPY_FILE_RANGE", "fh offset node_out fh_out offset_out length flags", wire.fixed("QQQQQQQ"),
        filecalls.copy_file_range, wire.count, always,
    ),
    protocol.SETUPMAPPING: row("SETUPMAPPING", "", wire.fixed("40x"), _ENOSYS, wire.done),
    protocol.REMOVEMAPPING: row("REMOVEMAPPING", "", wire.fixed("4x"), _ENOSYS, wire.done),
    protocol.SYNCFS: row("SYNCFS", "", wire.fixed("8x"), calls.syncfs, wire.done, always),
    protocol.TMPFILE: row("TMPFILE", "flags mode umask", wire.fixed("III4x"), filecalls.tmpfile, wire.created),
    protocol.STATX: row("STATX", "flags fh", wire.fixed("I4xQ8x"), calls.statx, wire.statx),
    protocol.COPY_FILE_RANGE_64: row(
        "COPY_FILE_RANGE_64", "fh offset node_out fh_out offset_out length flags", wire.fixed("QQQQQQQ"),
        filecalls.copy_file_range, wire.offset, always,
    ),
}  # fmt: skip

TABLE: tuple[Row, ...] = tuple(_ROWS.get(opcode, UNKNOWN) for opcode in range(protocol.OPCODES))
"""By opcode. Opcodes that are not in it, or beyond it, are answered ENOSYS by UNKNOWN."""


_WITHOUT_OPEN: dict[int, dict[str, Any]] = {
    protocol.OPEN: {"call": _ENOSYS, "on_main": _ENOSYS},
    protocol.RELEASE: {"call": calls.nothing, "on_main": calls.nothing},
    protocol.FLUSH: {"call": _ENOSYS, "on_main": _ENOSYS},
    protocol.GETATTR: {"call": noopen.getattr_, "on_main": noopen.getattr_},
    protocol.STATX: {"call": noopen.statx, "on_main": noopen.statx},
    protocol.SETATTR: {"call": noopen.setattr_, "on_main": setattr_without_open},
    protocol.CREATE: {"call": noopen.create, "on_main": unless_there(noopen.create)},
    protocol.TMPFILE: {"call": noopen.tmpfile, "on_main": noopen.tmpfile},
    protocol.READ: {"call": noopen.read, "on_main": read_without_open},
    protocol.WRITE: {
        "fields": "flags offset write_flags data", "decode": wire.write_without_open, "call": noopen.write,
        "on_main": write_without_open,
    },
    protocol.FSYNC: {"call": noopen.fsync},
    protocol.FALLOCATE: {"call": noopen.fallocate},
    protocol.LSEEK: {"call": noopen.lseek, "on_main": noopen.lseek},
    protocol.COPY_FILE_RANGE: {"call": noopen.copy_file_range},
    protocol.COPY_FILE_RANGE_64: {"call": noopen.copy_file_range},
}  # fmt: skip
"""What differs where the kernel was told that there is no OPEN."""


def rows_for(flags: int) -> list[Row]:
    """The table as it serves a connection on which INIT agreed on `flags`."""
    rows = list(TABLE)
    if flags & protocol.INIT_FLAGS["NO_OPEN_SUPPORT"]:
        for opcode, differences in _WITHOUT_OPEN.items():
            rows[opcode] = rows[opcode]._replace(**differences)
    if not flags & protocol.INIT_FLAGS["SETXATTR_EXT"]:
        rows[protocol.SETXATTR] = rows[protocol.SETXATTR]._replace(decode=wire.setxattr_short)
    return rows
