"""Files without OPEN and RELEASE (`open=cached`): the calls that then stand in place of those in `filecalls.py`.

Called through the table in `dispatch.py`. The kernel is told once that there is no OPEN (FUSE_NO_OPEN_SUPPORT): from
then on opening and closing a file costs no request, and data comes and goes with the node alone. The real file is
opened when its data is first asked for, and copied up when it is first written to (`openfiles.py`).

CREATE and TMPFILE still make and open at once. Their answers carry the handle 0, since no RELEASE would ever come.
"""

from __future__ import annotations

import errno
import os

from unionfs.errors import failed
from unionfs.fuse import calls, filecalls, protocol, wire
from unionfs.fuse.calls import Connection
from unionfs.fuse.wire import Request
from unionfs.union.operations import Attributes, FileHandle, Inode

_SYNCED = os.O_SYNC | os.O_DSYNC


# --- making files


def create(
    c: Connection, request: Request, flags: int, mode: int, umask: int, open_flags: int, name: bytes
) -> tuple[int, Attributes, int, int, int]:
    return _created(c, *filecalls.make(c, request, flags, mode, umask, open_flags, name))


def tmpfile(
    c: Connection, request: Request, flags: int, mode: int, umask: int
) -> tuple[int, Attributes, int, int, int]:
    return _created(c, *filecalls.make_temporary(c, request, flags, mode, umask))


def _created(
    c: Connection, inode: Inode, attributes: Attributes, handle: FileHandle
) -> tuple[int, Attributes, int, int, int]:
    nodeid, attributes = c.enter((inode, attributes))
    c.files.keep(nodeid, handle)
    return nodeid, attributes, 0, protocol.FOPEN_KEEP_CACHE, 0


# --- data


def read(c: Connection, request: Request, fh: int, position: int, size: int) -> wire.Buffer:
    with c.files.using(request.nodeid, c.inodes[request.nodeid]) as handle:
        return c.operations.read(handle, position, size)


def write(c: Connection, request: Request, opened: int, position: int, flags: int, content: memoryview) -> int:
    """`opened`: the flags of open(2), of which there was no word before. O_SYNC is to be honoured here."""
    with c.files.using(request.nodeid, c.inodes[request.nodeid], writable=True) as handle:
        count = c.operations.write(handle, position, content, bool(flags & protocol.WRITE_KILL_SUIDGID))
        if opened & _SYNCED:
            c.operations.fsync(handle, datasync=not opened & os.O_SYNC & ~os.O_DSYNC)
        return count


def fsync(c: Connection, request: Request, fh: int, flags: int) -> None:
    inode = c.inodes[request.nodeid]
    with c.files.using(request.nodeid, inode, writable=c.files.has(request.nodeid, True)) as handle:
        c.operations.fsync(handle, bool(flags & protocol.FSYNC_FDATASYNC))


def fallocate(c: Connection, request: Request, fh: int, position: int, length: int, mode: int) -> None:
    with c.files.using(request.nodeid, c.inodes[request.nodeid], writable=True) as handle:
        c.operations.fallocate(handle, mode, position, length)


def lseek(c: Connection, request: Request, fh: int, position: int, whence: int) -> int:
    with c.files.using(request.nodeid, c.inodes[request.nodeid]) as handle:
        return c.operations.lseek(handle, position, whence)


def copy_file_range(
    c: Connection, request: Request, fh: int, position: int, nodeid: int, fh_out: int, position_out: int, length: int,
    flags: int,
) -> int:  # fmt: skip
    if flags:
        raise failed(errno.EINVAL)
    with c.files.using(nodeid, c.inodes[nodeid], writable=True) as target:
        with c.files.using(request.nodeid, c.inodes[request.nodeid]) as source:
            return c.operations.copy_file_range(source, position, target, position_out, length)


# --- attributes: a handle is none


def getattr_(c: Connection, request: Request, flags: int, fh: int) -> bytes | Attributes:
    return calls.getattr_(c, request, flags & ~protocol.GETATTR_FH, 0)


def statx(c: Connection, request: Request, flags: int, fh: int) -> tuple[Attributes, int | None]:
    return calls.statx(c, request, flags & ~protocol.GETATTR_FH, 0)


def setattr_(c: Connection, request: Request, valid: int, *arguments: int) -> Attributes:
    return calls.setattr_(c, request, valid & ~protocol.FATTR_FH, *arguments)
