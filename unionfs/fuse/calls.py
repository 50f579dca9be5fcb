"""Each request as a call of the union: a few lines between the protocol's arguments and one method of operations. Those
of open files are in `filecalls.py`.

Called through the table in `dispatch.py`. A call takes the connection, the request (for its node and its caller) and
the decoded arguments. It returns what the row's encoder takes, or raises OSError. It may run in any thread.

What the kernel is told to keep, it keeps for a day, and nothing that is seen through the mount is stale: the kernel
forgets by itself what it changes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import NamedTuple

from unionfs.errors import UnionfsError, failed
from unionfs.fuse import protocol, stats, watch, wire
from unionfs.fuse.datapath import DataPath
from unionfs.fuse.listings import Listings
from unionfs.fuse.nodes import Handles, Nodes
from unionfs.fuse.openfiles import OpenFiles
from unionfs.fuse.passthrough import Passthrough
from unionfs.fuse.wire import Request
from unionfs.linux import files
from unionfs.union.operations import Attributes, Caller, FileHandle, Inode, Node, Operations

WANTED = (
    "ASYNC_READ", "ATOMIC_O_TRUNC", "EXPORT_SUPPORT", "BIG_WRITES", "DONT_MASK", "DO_READDIRPLUS", "READDIRPLUS_AUTO",
    "PARALLEL_DIROPS", "POSIX_ACL", "MAX_PAGES", "CACHE_SYMLINKS", "NO_OPENDIR_SUPPORT", "EXPLICIT_INVAL_DATA",
    "HANDLE_KILLPRIV_V2", "SETXATTR_EXT", "INIT_EXT", "PASSTHROUGH",
)  # fmt: skip
"""The abilities of the kernel that are used where it has them. Locks stay the kernel's own."""

VIRTUAL = b"user.unionfs."
PID_XATTR = b"user.unionfs.pid"
"""Virtual, on the root: the process that serves the mount, for whoever unmounts it and waits for its end."""

STATS_XATTR = b"user.unionfs.stats"
"""Virtual, on the root: what the daemon did and holds, as JSON (`stats.py`)."""

_WANTED = sum(protocol.INIT_FLAGS[name] for name in WANTED)


class Unopened(NamedTuple):
    """A handle whose data the kernel carries: the real file is opened when it is needed for something else."""

    nodeid: int
    inode: Inode
    flags: int


class Connection:
    """What is known of one mount: the union, the nodes and handles the kernel holds, what INIT agreed on."""

    def __init__(self, operations: Operations, opening: str = "passthrough", coherent: bool = False) -> None:
        self.operations = operations
        self.nodes = Nodes(operations)
        self.inodes = self.nodes.inodes
        self.handles = Handles()
        self.passthrough = Passthrough(operations, self.nodes.part, coherent)
        self.files = OpenFiles(operations)
        self.listings = Listings(operations, self.nodes)
        self.nodes.died = self._died
        self.data_path = DataPath(opening, coherent)
        self.counts = [0] * protocol.OPCODES
        """Requests, by opcode."""
        self.request_names: Sequence[str] = ()
        """Set by the server: what they are called."""
        self.scheduling = ""
        """Set by the server: how the thread that answers is scheduled, in words."""
        self._opening = Lock()
        self.minor = 0
        self.flags = 0
        self.interrupt: Callable[[int], None] = lambda unique: None
        """Set by the server: cancel the request of that `unique`."""
        self.notify: Callable[[bytes], None] = lambda message: None
        """Set by the server: send the kernel a notice."""

    def enter(self, node: Node) -> tuple[int, Attributes]:
        """Nodeid and attributes of what a method of the union gave us a reference to: it is the kernel's from here."""
        inode, attributes = node
        return self.nodes.remember(inode), attributes

    def file(self, number: int) -> FileHandle:
        """The open file of that handle."""
        handle = self.handles[number]
        if not isinstance(handle, Unopened):
            return handle  # type: ignore[no-any-return]
        with self._opening:
            handle = self.handles[number]
            if isinstance(handle, Unopened):
                handle = self.handles[number] = self._open(handle)
            return handle  # type: ignore[no-any-return]

    def _open(self, handle: Unopened) -> FileHandle:
        opened, below = self.operations.open(handle.inode, handle.flags), self.passthrough.below(handle.nodeid)
        if below is not None:
            self.operations.snapshots.join(opened, below)
        return opened

    def before_change(self, nodeid: int, inode: Inode) -> None:
        """The data of a node is about to be changed: raises ESTALE where descriptors that are passed through need it.

        The object is copied up first. Otherwise somebody could open the lower file by the new node, before the caller
        comes again with that; and the kernel asks again only once."""
        if self.passthrough.parted(nodeid, inode):
            self.operations.setattr(inode)
            raise failed(errno.ESTALE)

    def _died(self, nodeid: int) -> None:
        self.passthrough.forgotten(nodeid)
        self.files.forgotten(nodeid)
        self.listings.forgotten(nodeid)


# --- the connection itself


def init(c: Connection, request: Request, major: int, minor: int, read_ahead: int, flags: int) -> tuple[int, int]:
    """Agree on the lower of both minor versions, and on what both can do. Raises UnionfsError for an old kernel."""
    if major != protocol.MAJOR or minor < protocol.MINOR_OLDEST:
        raise UnionfsError(
            f"the kernel speaks FUSE {major}.{minor}",
            f"the native engine needs {protocol.MAJOR}.{protocol.MINOR_OLDEST}, which is Linux 5.4",
            "use --engine fusepy, or a newer kernel",
        )
    wanted = _WANTED & ~protocol.INIT_FLAGS["READDIRPLUS_AUTO"] if c.nodes.has_index else _WANTED
    c.minor, c.flags = min(minor, protocol.MINOR_NEWEST), c.data_path.wanted(wanted, flags)
    return c.minor, c.flags


def interrupt(c: Connection, request: Request, unique: int) -> None:
    c.interrupt(unique)


def forget(c: Connection, request: Request, references: int) -> None:
    c.nodes.forget(request.nodeid, references)


def batch_forget(c: Connection, request: Request, pairs: list[tuple[int, int]]) -> None:
    for nodeid, references in pairs:
        c.nodes.forget(nodeid, references)


def statfs(c: Connection, request: Request) -> os.statvfs_result:
    return c.operations.statfs()


def syncfs(c: Connection, request: Request) -> None:
    c.operations.syncfs()


def nothing(c: Connection, request: Request, *arguments: object) -> None:
    """DESTROY; NOTIFY_REPLY, which answers a question that is never asked."""


def refuse(number: int) -> Callable[..., None]:
    """A call that is always refused. ENOSYS: the kernel does it itself, or never asks again."""

    def call(c: Connection, request: Request, *arguments: object) -> None:
        raise failed(number)

    return call


# --- names


def mknod(c: Connection, request: Request, mode: int, rdev: int, umask: int, name: bytes) -> tuple[int, Attributes]:
    caller = Caller(request.uid, request.gid, umask, request.pid)
    return c.enter(c.operations.mknod(c.inodes[request.nodeid], name, mode, rdev, caller))


def mkdir(c: Connection, request: Request, mode: int, umask: int, name: bytes) -> tuple[int, Attributes]:
    caller = Caller(request.uid, request.gid, umask, request.pid)
    return c.enter(c.operations.mkdir(c.inodes[request.nodeid], name, mode, caller))


def symlink(c: Connection, request: Request, name: bytes, target: bytes) -> tuple[int, Attributes]:
    caller = Caller(request.uid, request.gid, 0, request.pid)
    return c.enter(c.operations.symlink(c.inodes[request.nodeid], name, target, caller))


def link(c: Connection, request: Request, nodeid: int, name: bytes) -> tuple[int, Attributes]:
    """All names of a file must lead to one node. A former one's descriptor may be given a name: the new node's."""
    inode = c.inodes[nodeid]
    if nodeid not in c.passthrough.former:
        c.before_change(nodeid, inode)
    return c.enter(c.operations.link(inode, c.inodes[request.nodeid], name))


def unlink(c: Connection, request: Request, name: bytes) -> None:
    _loses(c, request.nodeid, name)
    c.operations.unlink(c.inodes[request.nodeid], name)


def rmdir(c: Connection, request: Request, name: bytes) -> None:
    _loses(c, request.nodeid, name)
    c.operations.rmdir(c.inodes[request.nodeid], name)


def rename(c: Connection, request: Request, new_nodeid: int, old: bytes, new: bytes) -> None:
    rename2(c, request, new_nodeid, 0, old, new)


def rename2(c: Connection, request: Request, new_nodeid: int, flags: int, old: bytes, new: bytes) -> None:
    _loses(c, request.nodeid, old)
    _loses(c, new_nodeid, new)
    c.operations.rename(c.inodes[request.nodeid], old, c.inodes[new_nodeid], new, flags)
    if request.nodeid != new_nodeid:
        _moved(c, new_nodeid, new)
        if flags & files.RENAME_EXCHANGE:
            _moved(c, request.nodeid, old)


def _loses(c: Connection, nodeid: int, name: bytes) -> None:
    """A name of that directory is about to be removed or replaced."""
    c.nodes.bind(nodeid, name)
    c.listings.loses(nodeid)


def _moved(c: Connection, parent: int, name: bytes) -> None:
    """A directory that was moved has another "..", which the kernel does not know of: it may keep the old one."""
    with suppress(OSError):
        inode, _ = c.operations.lookup(c.inodes[parent], name)
        nodeid = c.nodes.nodeid_of(inode) if inode.is_dir else None
        c.operations.forget(inode)
        if nodeid is not None:
            c.notify(wire.invalidate_data(nodeid))


def readlink(c: Connection, request: Request) -> bytes:
    return c.operations.readlink(c.inodes[request.nodeid])


# --- attributes


def getattr_(c: Connection, request: Request, flags: int, fh: int) -> bytes | Attributes:
    node = c.nodes.unused(request.nodeid)
    if node is not None:
        return node
    return _getattr(c, request, flags, fh)


def _getattr(c: Connection, request: Request, flags: int, fh: int) -> Attributes:
    handle, inode = c.file(fh) if flags & protocol.GETATTR_FH else None, c.inodes[request.nodeid]
    return _shown(c, request.nodeid, c.operations.getattr(inode, handle))


def _shown(c: Connection, nodeid: int, attributes: Attributes) -> Attributes:
    """A former node's are those of the data that its descriptors read."""
    below = c.passthrough.former.get(nodeid)
    return attributes if below is None else c.operations.snapshots.attributes(c.inodes[nodeid], below)


def statx(c: Connection, request: Request, flags: int, fh: int) -> tuple[Attributes, int | None]:
    inode = c.inodes[request.nodeid]
    return _getattr(c, request, flags, fh), c.operations.birth_time(inode)


def setattr_(
    c: Connection, request: Request, valid: int, fh: int, size: int, atime: int, mtime: int,
    atime_ns: int, mtime_ns: int, mode: int, uid: int, gid: int,
) -> Attributes:  # fmt: skip
    """FATTR_CTIME comes with the writeback cache only, FATTR_LOCKOWNER with remote locks: neither is asked for."""
    inode = c.inodes[request.nodeid]
    if valid & protocol.FATTR_SIZE:
        c.before_change(request.nodeid, inode)
    attributes = c.operations.setattr(
        inode,
        mode=stat.S_IMODE(mode) if valid & protocol.FATTR_MODE else None,
        uid=uid if valid & protocol.FATTR_UID else None,
        gid=gid if valid & protocol.FATTR_GID else None,
        size=size if valid & protocol.FATTR_SIZE else None,
        atime_ns=_time(valid, protocol.FATTR_ATIME, protocol.FATTR_ATIME_NOW, atime, atime_ns),
        mtime_ns=_time(valid, protocol.FATTR_MTIME, protocol.FATTR_MTIME_NOW, mtime, mtime_ns),
        handle=c.file(fh) if valid & protocol.FATTR_FH else None,
        kill_priv=bool(valid & protocol.FATTR_KILL_SUIDGID),
    )
    if valid & protocol.FATTR_MODE and mode & (stat.S_ISUID | stat.S_ISGID):
        c.passthrough.not_kept(c.nodes.nodeid_of(inode) or request.nodeid)
    return _shown(c, request.nodeid, attributes)


def _time(valid: int, given: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    if valid & now:
        return files.UTIME_NOW
    return seconds * 1_000_000_000 + nanoseconds if valid & given else None


def getxattr(c: Connection, request: Request, size: int, name: bytes) -> int | bytes:
    if request.nodeid == protocol.ROOT_ID:
        if name == PID_XATTR:
            return _fitting(b"%d" % os.getpid(), size)
        if name == STATS_XATTR:
            return _fitting(stats.as_json(c), size)
        if size and name.startswith(watch.PREFIX):
            return _fitting(watch.start(c, request, name.removeprefix(watch.PREFIX)), size)
    if not name.startswith(VIRTUAL) and c.nodes.has_no_xattrs(request.nodeid):
        raise failed(errno.ENODATA)
    return _fitting(c.operations.getxattr(c.inodes[request.nodeid], name), size)


def listxattr(c: Connection, request: Request, size: int) -> int | bytes:
    names = xattrs_for(request.uid, c.operations.listxattr(c.inodes[request.nodeid]))
    return _fitting(b"".join([name + b"\0" for name in names]), size)


def xattrs_for(uid: int, names: list[bytes]) -> list[bytes]:
    """xattr(7): trusted attributes are invisible without CAP_SYS_ADMIN. The kernel leaves hiding them to the server."""
    return [name for name in names if not name.startswith(b"trusted.")] if uid else names


def _fitting(value: bytes, size: int) -> int | bytes:
    """A size of 0 asks how long the value is."""
    if not size:
        return len(value)
    if len(value) > size:
        raise failed(errno.ERANGE)
    return value


def setxattr(c: Connection, request: Request, name: bytes, value: bytes, flags: int, more: int) -> None:
    inode = c.inodes[request.nodeid]
    c.operations.setxattr(inode, name, value, flags)
    if more & protocol.SETXATTR_ACL_KILL_SGID:
        mode = c.operations.getattr(inode).mode
        if mode & stat.S_ISGID:
            c.operations.setattr(inode, mode=stat.S_IMODE(mode) & ~stat.S_ISGID)


def removexattr(c: Connection, request: Request, name: bytes) -> None:
    c.operations.removexattr(c.inodes[request.nodeid], name)


