"""The requests that open files, and those of open files, as calls of the union.

Called through the table in `dispatch.py`, as those in `calls.py` are.
"""

from __future__ import annotations

import errno
import os

from unionfs.errors import failed
from unionfs.fuse import passthrough, protocol, wire
from unionfs.fuse.calls import Connection, Unopened
from unionfs.fuse.wire import Request
from unionfs.union.operations import Attributes, Caller, FileHandle, Inode

_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_NOT_AGAIN = os.O_TRUNC | os.O_SYNC | os.O_DSYNC


def open_(c: Connection, request: Request, flags: int, open_flags: int) -> tuple[int, int, int]:
    """The page cache stays right, since only the kernel changes a file; O_TRUNC lets it go."""
    nodeid = request.nodeid
    inode = c.inodes[nodeid]
    if not open_flags and not flags & _NOT_AGAIN:
        backing = c.passthrough.opened_again(nodeid, inode, flags)
        if backing:
            return c.handles.add(Unopened(nodeid, inode, flags)), passthrough.flags(backing, 0), backing
    if flags & _CHANGES:
        c.before_change(nodeid, inode)
    handle = c.operations.open(inode, flags, bool(open_flags & protocol.OPEN_KILL_SUIDGID))
    backing = _backing(c, nodeid, handle)
    kept = 0 if flags & os.O_TRUNC else protocol.FOPEN_KEEP_CACHE
    return c.handles.add(handle), passthrough.flags(backing, kept), backing


def _backing(c: Connection, nodeid: int, handle: FileHandle) -> int:
    try:
        return c.passthrough.opened(nodeid, handle)
    except BaseException:
        c.operations.release(handle)
        raise


def make(
    c: Connection, request: Request, flags: int, mode: int, umask: int, open_flags: int, name: bytes
) -> tuple[Inode, Attributes, FileHandle]:
    """Make a file, or open one that is there after all; what the kernel is told of it is the caller's part."""
    caller = Caller(request.uid, request.gid, umask, request.pid)
    kill = bool(open_flags & protocol.OPEN_KILL_SUIDGID)
    c.nodes.bind(request.nodeid, name)
    return c.operations.create(c.inodes[request.nodeid], name, flags, mode, caller, kill)


def make_temporary(
    c: Connection, request: Request, flags: int, mode: int, umask: int
) -> tuple[Inode, Attributes, FileHandle]:
    caller = Caller(request.uid, request.gid, umask, request.pid)
    return c.operations.tmpfile(c.inodes[request.nodeid], flags, mode, caller)


def create(
    c: Connection, request: Request, flags: int, mode: int, umask: int, open_flags: int, name: bytes
) -> tuple[int, Attributes, int, int, int]:
    inode, attributes, handle = make(c, request, flags, mode, umask, open_flags, name)
    known = c.nodes.nodeid_of(inode)
    if known is not None and flags & _CHANGES:  # it was there; the answer gives its name the new node
        c.passthrough.parted(known, inode)
    return _created(c, inode, attributes, handle)


def tmpfile(
    c: Connection, request: Request, flags: int, mode: int, umask: int
) -> tuple[int, Attributes, int, int, int]:
    return _created(c, *make_temporary(c, request, flags, mode, umask))


def _created(
    c: Connection, inode: Inode, attributes: Attributes, handle: FileHandle
) -> tuple[int, Attributes, int, int, int]:
    nodeid, attributes = c.enter((inode, attributes))
    try:
        backing = _backing(c, nodeid, handle)
    except BaseException:
        c.nodes.forget(nodeid, 1)
        raise
    return nodeid, attributes, c.handles.add(handle), passthrough.flags(backing, 0), backing


def read(c: Connection, request: Request, fh: int, position: int, size: int) -> wire.Buffer:
    return c.operations.read(c.file(fh), position, size)


def write(c: Connection, request: Request, fh: int, position: int, flags: int, content: memoryview) -> int:
    return c.operations.write(c.file(fh), position, content, bool(flags & protocol.WRITE_KILL_SUIDGID))


def flush(c: Connection, request: Request, fh: int) -> None:
    c.operations.flush(c.file(fh))


def fsync(c: Connection, request: Request, fh: int, flags: int) -> None:
    c.operations.fsync(c.file(fh), bool(flags & protocol.FSYNC_FDATASYNC))


def release(c: Connection, request: Request, fh: int) -> None:
    handle = c.handles[fh]
    del c.handles[fh]
    c.passthrough.closed(request.nodeid)
    if not isinstance(handle, Unopened):
        c.operations.release(handle)


def fallocate(c: Connection, request: Request, fh: int, position: int, length: int, mode: int) -> None:
    c.operations.fallocate(c.file(fh), mode, position, length)


def lseek(c: Connection, request: Request, fh: int, position: int, whence: int) -> int:
    return c.operations.lseek(c.file(fh), position, whence)


def copy_file_range(
    c: Connection, request: Request, fh: int, position: int, nodeid: int, fh_out: int, position_out: int, length: int,
    flags: int,
) -> int:  # fmt: skip
    """copy_file_range(2) has no flags; one that came would mean something we do not know."""
    if flags:
        raise failed(errno.EINVAL)
    return c.operations.copy_file_range(c.file(fh), position, c.file(fh_out), position_out, length)
