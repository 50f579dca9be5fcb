"""Bytes to a request, and a reply to bytes: the layouts of the FUSE protocol, no I/O.

Called by `dispatch.py`, whose table names one decoder and one encoder for each opcode, and by `server.py`.
A decoder takes a `Request` and returns the operation's arguments as a tuple, or raises WireError: for a message that
is short, unterminated, or not what its header says. An encoder takes the request's `unique` and the operation's result
and returns the whole reply, header included: one bytes object, or several buffers where data should not be copied.

All numbers are little or big endian as the machine is. Layouts: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any

from unionfs.fuse import protocol
from unionfs.union.operations import Attributes, Entry

Buffer = bytes | bytearray | memoryview
Reply = bytes | tuple[bytes, Buffer] | None
Decoder = Callable[["Request"], tuple[Any, ...]]
Encoder = Callable[[int, Any], Reply]

VALID = 86_400
"""Seconds for which the kernel may keep a name, its absence, and attributes. Long, because the union owns its layers:
nothing changes but through the kernel, which forgets by itself what it changes."""

MAX_WRITE = 1 << 20
MAX_PAGES = 256
READ_AHEAD = 1 << 20
REQUEST_SIZE = MAX_WRITE + 4096
"""Bytes of a buffer that holds any request: the largest WRITE, its headers, and some room."""

_IN = Struct("=IIQQIIIHxx")
_BODY = _IN.size
_NO_NAMES = (b"", b".", b"..")
_NANO = 1_000_000_000


class WireError(Exception):
    """A message that is not what the protocol says. `errno` is what its sender is told."""

    def __init__(self, reason: str, number: int = errno.EIO) -> None:
        super().__init__(reason)
        self.errno = number


class Request:
    """One message of the kernel in a buffer of its own, which is used again for another when this one is answered."""

    __slots__ = ("buffer", "end", "gid", "interrupted", "nodeid", "opcode", "pid", "uid", "unique", "vector", "view")

    def __init__(self, size: int = REQUEST_SIZE) -> None:
        self.buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        """Pages that no request has reached yet take no memory: most requests stay in the first one."""
        self.view = memoryview(self.buffer)
        self.vector = [self.buffer]
        self.interrupted = False
        self.end = self.opcode = self.unique = self.nodeid = self.uid = self.gid = self.pid = 0

    def parse(self, received: int) -> None:
        """Take the header apart, of a message of `received` bytes. Raises WireError; `unique` is right or 0 then."""
        self.unique = 0
        if received < _BODY:
            raise WireError(f"a message of {received} bytes, less than a header")
        length, self.opcode, self.unique, self.nodeid, self.uid, self.gid, self.pid, extensions = _IN.unpack_from(
            self.buffer
        )
        if length != received:
            raise WireError(f"a message of {received} bytes says it has {length}")
        self.end = received - 8 * extensions
        if self.end < _BODY:
            raise WireError(f"{extensions} words of extensions in a message of {received} bytes")

    def __repr__(self) -> str:
        return f"request {self.unique}: opcode {self.opcode}, node {self.nodeid}, process {self.pid}"


# --- decoders: a request to the arguments of an operation


def nothing(request: Request) -> tuple[()]:
    """No arguments, whatever the message holds."""
    return ()


def fixed(layout: str) -> Decoder:
    """Numbers only. `layout` is a struct format without its byte order; fields nobody needs are `x`."""
    struct = Struct("=" + layout)
    minimum, unpack = _BODY + struct.size, struct.unpack_from

    def decode(request: Request) -> tuple[Any, ...]:
        if request.end < minimum:
            raise WireError(f"{request} is short: {request.end} bytes of {minimum}")
        return unpack(request.buffer, _BODY)

    return decode


def named(layout: str, count: int = 1) -> Decoder:
    """Numbers, then `count` names (one or two), each ended by a zero byte. "." and ".." are not names here."""
    numbers = fixed(layout)
    start = _BODY + Struct("=" + layout).size

    def decode(request: Request) -> tuple[Any, ...]:
        head = numbers(request)
        names = _rest(request, start).split(b"\0")
        if len(names) != count:
            raise WireError(f"{request} should end in {count} names")
        for name in names:
            if b"/" in name or name in _NO_NAMES:
                raise WireError(f"{request} holds the name {name!r}")
        return (*head, *names)

    return decode


def _rest(request: Request, start: int) -> bytes:
    """What follows at `start`, without the zero byte that must end it."""
    last = request.end - 1
    if last < start or request.buffer[last]:
        raise WireError(f"{request} is not terminated")
    return request.buffer[start:last]


def lookup(request: Request) -> tuple[bytes]:
    """One name; "." and ".." too, which a server of NFS asks for."""
    name = _rest(request, _BODY)
    if not name or b"/" in name or b"\0" in name:
        raise WireError(f"{request} holds the name {name!r}")
    return (name,)


def symlink(request: Request) -> tuple[bytes, bytes]:
    """A name, and any target but the empty one."""
    name, _, target = _rest(request, _BODY).partition(b"\0")
    if b"/" in name or name in _NO_NAMES or not target or b"\0" in target:
        raise WireError(f"{request} should hold a name and a target")
    return name, target


def xattr_name(layout: str) -> Decoder:
    """Numbers, then the name of an extended attribute."""
    numbers = fixed(layout)
    start = _BODY + Struct("=" + layout).size

    def decode(request: Request) -> tuple[Any, ...]:
        head, name = numbers(request), _rest(request, start)
        if not name or b"\0" in name:
            raise WireError(f"{request} should end in the name of an attribute")
        return (*head, name)

    return decode


def _setxattr(layout: str) -> Decoder:
    numbers = fixed(layout)
    start = _BODY + Struct("=" + layout).size

    def decode(request: Request) -> tuple[bytes, bytes, int, int]:
        size, flags, more = (*numbers(request), 0)[:3]
        name, zero, value = bytes(request.view[start : request.end]).partition(b"\0")
        if not name or not zero or len(value) != size:
            raise WireError(f"{request} should end in an attribute's name and {size} bytes")
        return name, value, flags, more

    return decode


setxattr = _setxattr("III4x")
setxattr_short = _setxattr("II")
"""SETXATTR where SETXATTR_EXT was not agreed on (before 7.33)."""

_write_head = fixed("QQII8x4x4x")


def write(request: Request) -> tuple[int, int, int, memoryview]:
    """Handle, offset, flags and the data itself, still in the request's buffer."""
    handle, offset, size, flags = _write_head(request)
    start = _BODY + 40
    if request.end < start + size:
        raise WireError(f"{request} announces {size} bytes and brings {request.end - start}")
    return handle, offset, flags, request.view[start : start + size]


_write_flags = fixed("32xI")


def write_without_open(request: Request) -> tuple[int, int, int, memoryview]:
    """The same where files are not opened: their flags of open(2) in place of the handle."""
    _, offset, flags, content = write(request)
    return *_write_flags(request), offset, flags, content


_init_head, _init_more, _count_head = fixed("IIII"), fixed("16xI"), fixed("I4x")
_FORGET_ONE = Struct("=QQ")


def init(request: Request) -> tuple[int, int, int, int]:
    """Major and minor version, read-ahead in bytes, and the flags, 64 bits of them where the kernel has so many."""
    major, minor, read_ahead, flags = _init_head(request)
    if flags & protocol.INIT_FLAGS["INIT_EXT"] and request.end >= _BODY + 20:
        flags |= _init_more(request)[0] << 32
    return major, minor, read_ahead, flags


def batch_forget(request: Request) -> tuple[list[tuple[int, int]]]:
    """Pairs of a nodeid and how many references to it are given back."""
    (count,) = _count_head(request)
    start, end = _BODY + 8, _BODY + 8 + count * _FORGET_ONE.size
    if request.end < end:
        raise WireError(f"{request} announces {count} nodes and brings {(request.end - start) // _FORGET_ONE.size}")
    return (list(_FORGET_ONE.iter_unpack(request.view[start:end])),)


# --- encoders: a result to a reply

_OUT = Struct("=IiQ")
_ATTRIBUTES = Struct("=QQQqqqIIIIIIIIII")
_ATTR_HEAD = Struct("=IiQQII")
_ENTRY_HEAD = Struct("=IiQQQQQII")
_OPEN = Struct("=QIi")
_OPEN_REPLY = Struct("=IiQQIi")
_COUNT_REPLY = Struct("=IiQI4x")
_OFFSET_REPLY = Struct("=IiQQ")
_STATFS_REPLY = Struct("=IiQQQQQQIII28x")
_INIT_REPLY = Struct("=IiQIIIIHHIIHHII24x")
_STATX_REPLY = Struct("=IiQQII16xIIQIIIHxxQQQQqI4xqI4xqI4xqI4xII8x112x")
_INVAL_INODE = Struct("=IiQQqq")
_DIRENT = Struct("=QQII")
_DIRENT_HEAD = Struct("=QQQQII")
_ATTR_SIZE = _ATTR_HEAD.size + _ATTRIBUTES.size
_ENTRY_SIZE = _ENTRY_HEAD.size + _ATTRIBUTES.size
_NODE_SIZE = _DIRENT_HEAD.size + _ATTRIBUTES.size
_INO = Struct("=Q")
_NO_NODE = bytes(_NODE_SIZE)
_NAME = _NODE_SIZE + _DIRENT.size
RECORD_LAYOUT = f"{_DIRENT_HEAD.format} {_ATTRIBUTES.format} {_DIRENT.format} {VALID}"
"""All that kept records depend on; other ones cannot be read."""
_STATX_BASIC, _STATX_BTIME = 0x7FF, 0x800


def no_reply(unique: int, result: object) -> None:
    """FORGET and its like are not answered."""


def done(unique: int, result: object) -> bytes:
    """Success, and nothing to tell."""
    return _OUT.pack(16, 0, unique)


def error(unique: int, number: int) -> bytes:
    """Failure with an errno. The kernel takes 1 to 511; anything else becomes EIO."""
    return _OUT.pack(16, -number if 0 < number < 512 else -errno.EIO, unique)


def _attributes(a: Attributes) -> bytes:
    ino, size, blocks, atime, mtime, ctime, mode, nlink, uid, gid, rdev, blksize = a
    return _ATTRIBUTES.pack(
        ino, size, blocks, atime // _NANO, mtime // _NANO, ctime // _NANO, atime % _NANO, mtime % _NANO, ctime % _NANO,
        mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0,
    )  # fmt: skip


def attributes(unique: int, result: bytes | Attributes) -> bytes:
    """Attributes, perhaps those of the node of a record."""
    if isinstance(result, bytes):
        return _ATTR_HEAD.pack(_ATTR_SIZE, 0, unique, VALID, 0, 0) + result[_DIRENT_HEAD.size :]
    return _ATTR_HEAD.pack(_ATTR_SIZE, 0, unique, VALID, 0, 0) + _attributes(result)


def entry(unique: int, result: bytes | tuple[int, Attributes] | None) -> bytes:
    """A node under a name, perhaps that of a record. None: there is no such name, and the kernel may remember that."""
    if result is None:
        return _ENTRY_HEAD.pack(_ENTRY_SIZE, 0, unique, 0, 0, VALID, 0, 0, 0) + bytes(_ATTRIBUTES.size)
    if isinstance(result, bytes):
        return _OUT.pack(_ENTRY_SIZE, 0, unique) + result
    nodeid, found = result
    return _ENTRY_HEAD.pack(_ENTRY_SIZE, 0, unique, nodeid, 0, VALID, VALID, 0, 0) + _attributes(found)


def created(unique: int, result: tuple[int, Attributes, int, int, int]) -> bytes:
    nodeid, new, handle, flags, backing = result
    size = _ENTRY_SIZE + _OPEN.size
    head = _ENTRY_HEAD.pack(size, 0, unique, nodeid, 0, VALID, VALID, 0, 0)
    return head + _attributes(new) + _OPEN.pack(handle, flags, backing)


def opened(unique: int, result: tuple[int, int, int]) -> bytes:
    """Handle, flags, and the id of the backing file, 0 for none."""
    return _OPEN_REPLY.pack(_OPEN_REPLY.size, 0, unique, *result)


def data(unique: int, result: Buffer) -> tuple[bytes, Buffer]:
    return _OUT.pack(16 + len(result), 0, unique), result


def count(unique: int, result: int) -> bytes:
    return _COUNT_REPLY.pack(_COUNT_REPLY.size, 0, unique, result)


def offset(unique: int, result: int) -> bytes:
    return _OFFSET_REPLY.pack(_OFFSET_REPLY.size, 0, unique, result)


def xattr(unique: int, result: int | bytes) -> Reply:
    """A size, where that was asked for, or the value."""
    return count(unique, result) if isinstance(result, int) else data(unique, result)


def statfs(unique: int, result: Any) -> bytes:
    """From an os.statvfs_result."""
    s = result
    return _STATFS_REPLY.pack(
        _STATFS_REPLY.size, 0, unique, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax,
        s.f_frsize,
    )  # fmt: skip


def statx(unique: int, result: tuple[Attributes, int | None]) -> bytes:
    """Attributes and, where the layer's file system keeps it, the time of birth in nanoseconds."""
    a, birth = result
    times = [divmod(time, _NANO) for time in (a.atime_ns, birth or 0, a.ctime_ns, a.mtime_ns)]
    mask = _STATX_BASIC if birth is None else _STATX_BASIC | _STATX_BTIME
    # what lies between mode and atime: ino, size, blocks, attributes_mask
    return _STATX_REPLY.pack(
        _STATX_REPLY.size, 0, unique, VALID, 0, 0,
        mask, a.blksize, 0, a.nlink, a.uid, a.gid, a.mode, a.ino, a.size, a.blocks, 0,
        *(part for time in times for part in time),
        a.rdev >> 8 & 0xFFF, a.rdev & 0xFF | a.rdev >> 12 & 0xFFF00,
    )  # fmt: skip


def initialised(unique: int, result: tuple[int, int]) -> bytes:
    """The minor version and the flags agreed on. Passthrough: backing files lie on no stacked filesystem."""
    minor, flags = result
    return _INIT_REPLY.pack(
        _INIT_REPLY.size, 0, unique, protocol.MAJOR, minor, READ_AHEAD, flags & 0xFFFFFFFF, 64, 48, MAX_WRITE, 1,
        MAX_PAGES, 0, flags >> 32, 1 if flags & protocol.INIT_FLAGS["PASSTHROUGH"] else 0,
    )  # fmt: skip


def dirents(entries: Iterable[Entry], size: int) -> bytes:
    """As many entries as fit into `size` bytes, in READDIR's layout."""
    parts: list[bytes] = []
    for name, number, kind, after in entries:
        length = len(name)
        padding = -length & 7
        size -= _DIRENT.size + length + padding
        if size < 0:
            break
        parts += (_DIRENT.pack(number, after, length, kind), name, bytes(padding))
    return b"".join(parts)


def dirent_plus_size(name: bytes) -> int:
    return _NODE_SIZE + _DIRENT.size + (len(name) + 7 & ~7)


def dirent_plus(item: tuple[bytes, int, int, int], found: bytes | tuple[int, Attributes] | None) -> bytes:
    """One entry of READDIRPLUS, of an Entry and its node, whose reference is counted; None: the kernel looks it up."""
    name, number, kind, after = item
    if found is None:
        node = _NO_NODE
    elif isinstance(found, bytes):
        node, number = found, _INO.unpack_from(found, _DIRENT_HEAD.size)[0]
    else:
        node, number = _DIRENT_HEAD.pack(found[0], 0, VALID, VALID, 0, 0) + _attributes(found[1]), found[1].ino
    length = len(name)
    return node + _DIRENT.pack(number, after, length, kind) + name + bytes(-length & 7)


# --- records: entries of READDIRPLUS that were kept


def with_node(record: Buffer, look_up: Callable[[bytes], bytes | tuple[int, Attributes] | None]) -> Buffer:
    """The record; one without a node with that which `look_up` gives for its name."""
    if record[:_NODE_SIZE] != _NO_NODE:
        return record
    number, after, length, kind = _DIRENT.unpack_from(record, _NODE_SIZE)
    name = bytes(record[_NAME : _NAME + length])
    return dirent_plus(Entry(name, number, kind, after), look_up(name))


def node_of(record: Buffer) -> bytes | None:
    """Its node, as LOOKUP answers it; None where it has none."""
    node = bytes(record[:_NODE_SIZE])
    return None if node == _NO_NODE else node


def item_of(record: Buffer) -> tuple[bytes, int, int]:
    """Name, type (DT_*) and inode number."""
    number, _, length, kind = _DIRENT.unpack_from(record, _NODE_SIZE)
    return bytes(record[_NAME : _NAME + length]), kind, number


def dirent_of(record: Buffer) -> bytes:
    """The same entry as READDIR has it."""
    return bytes(record[_NODE_SIZE:])


def invalidate_attributes(nodeid: int) -> bytes:
    """The notice that attributes the kernel keeps are no longer right; its cached data stay."""
    return _INVAL_INODE.pack(_INVAL_INODE.size, protocol.NOTIFY_INVAL_INODE, 0, nodeid, -1, 0)


def invalidate_data(nodeid: int) -> bytes:
    """The notice that nothing the kernel keeps of a node, its pages too, is right any more."""
    return _INVAL_INODE.pack(_INVAL_INODE.size, protocol.NOTIFY_INVAL_INODE, 0, nodeid, 0, 0)
