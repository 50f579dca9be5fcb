"""A small file system in memory with the methods of `union/operations.py`: what the engine's own tests serve.

It knows no layers and no copy-up. `blocking` holds the inodes whose changes "may block", `gate` is what a blocking call
waits for, so that a test decides how long it lasts.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from unionfs.linux import files
from unionfs.union.copyup import Copied
from unionfs.union.handle import DirHandle, Item
from unionfs.union.operations import Attributes, Caller, Entry

_checks = threading.local()


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Node:
    """An inode, and at the same time an open handle of it: nothing here depends on how it was opened."""

    def __init__(self, number: int, mode: int, uid: int = 0, gid: int = 0) -> None:
        self.number, self.mode, self.uid, self.gid = number, mode, uid, gid
        self.references = self.nlink = self.rdev = 0
        self.data = bytearray()
        self.target = b""
        self.children: dict[bytes, Node] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.times = [time.time_ns()] * 2

        self.dentry = None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def inode(self) -> Node:
        return self

    is_whole = False


class FakeSnapshots:
    """There are no layers, so no handle stays with a lower file."""

    def examples(self) -> list[Any]:
        return []

    def pin(self, handle: Node, before: Any = None) -> None: ...

    def end(self, node: Node) -> None: ...


class FakeOperations:
    read_only = False
    snapshots = FakeSnapshots()
    copied = Copied()

    def __init__(self) -> None:
        self._numbers = count(1)
        self.root = Node(next(self._numbers), stat.S_IFDIR | 0o755, os.getuid(), os.getgid())
        self.root.nlink = 2
        self.blocking: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[str] = []
        self.closed = False

    # names

    def child(self, parent: Node, name: bytes) -> Node:
        if len(name) > 255:
            raise failure(errno.ENAMETOOLONG)
        if not parent.is_dir:
            raise failure(errno.ENOTDIR)
        if name == b"." or name == b"..":
            return parent
        if name not in parent.children:
            raise failure(errno.ENOENT)
        return parent.children[name]

    def lookup(self, parent: Node, name: bytes) -> tuple[Node, Attributes]:
        node = self.child(parent, name)
        node.references += 1
        return self._node(node)

    def _node(self, node: Node) -> tuple[Node, Attributes]:
        return node, self.getattr(node)

    def forget(self, node: Node, count: int = 1) -> None:
        node.references -= count
        assert node.references >= 0, "more references given back than taken"

    def _add(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
        if name in parent.children:
            raise failure(errno.EEXIST)
        if not parent.is_dir:
            raise failure(errno.ENOTDIR)
        if len(name) > 255:
            raise failure(errno.ENAMETOOLONG)
        node = Node(next(self._numbers), mode & ~caller.umask | stat.S_IFMT(mode), caller.uid, caller.gid)
        node.nlink = 2 if node.is_dir else 1
        node.references = 1
        parent.children[name] = node
        return node

    def mknod(
        self, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller
    ) -> tuple[Node, Attributes]:
        node = self._add(parent, name, mode, caller)
        node.rdev = rdev
        return self._node(node)

    def mkdir(self, parent: Node, name: bytes, mode: int, caller: Caller) -> tuple[Node, Attributes]:
        return self._node(self._add(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller))

    def symlink(self, parent: Node, name: bytes, target: bytes, caller: Caller) -> tuple[Node, Attributes]:
        node = self._add(parent, name, stat.S_IFLNK | 0o777, caller)
        node.target = target
        return self._node(node)

    def link(self, node: Node, parent: Node, name: bytes) -> tuple[Node, Attributes]:
        if name in parent.children:
            raise failure(errno.EEXIST)
        parent.children[name] = node
        node.nlink += 1
        node.references += 1
        return self._node(node)

    def unlink(self, parent: Node, name: bytes) -> None:
        node = self.child(parent, name)
        if node.is_dir:
            raise failure(errno.EISDIR)
        del parent.children[name]
        node.nlink -= 1

    def rmdir(self, parent: Node, name: bytes) -> None:
        node = self.child(parent, name)
        if not node.is_dir:
            raise failure(errno.ENOTDIR)
        if node.children:
            raise failure(errno.ENOTEMPTY)
        del parent.children[name]
        node.nlink = 0

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> None:
        node = self.child(parent, name)
        if flags & files.RENAME_EXCHANGE:
            parent.children[name] = self.child(new_parent, new_name)
        elif flags & files.RENAME_NOREPLACE and new_name in new_parent.children:
            raise failure(errno.EEXIST)
        else:
            old = new_parent.children.get(new_name)
            if old is node:
                return
            if old is not None:
                (self.rmdir if old.is_dir else self.unlink)(new_parent, new_name)
            del parent.children[name]
        new_parent.children[new_name] = node

    def readlink(self, node: Node) -> bytes:
        return node.target

    # attributes

    def getattr(self, node: Node, handle: Node | None = None) -> Attributes:
        atime, mtime = node.times
        size = len(node.target or node.data)
        return Attributes(
            node.number, size, -(-size // 512), atime, mtime, mtime, node.mode, node.nlink, node.uid, node.gid,
            node.rdev, 4096,
        )  # fmt: skip

    def birth_time(self, node: Node) -> int | None:
        return 5_000_000_007

    def setattr(
        self, node: Node, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        size: int | None = None, atime_ns: int | None = None, mtime_ns: int | None = None, handle: Any = None,
        kill_priv: bool = False,
    ) -> Attributes:  # fmt: skip
        self._block("setattr", node)
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode
        node.uid = node.uid if uid is None else uid
        node.gid = node.gid if gid is None else gid
        if size is not None:
            if size > 1 << 30:
                raise failure(errno.EFBIG)
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
        if kill_priv:
            node.mode &= ~(stat.S_ISUID | stat.S_ISGID)
        for position, value in enumerate((atime_ns, mtime_ns)):
            if value is not None:
                node.times[position] = time.time_ns() if value == files.UTIME_NOW else value
        return self.getattr(node)

    def getxattr(self, node: Node, name: bytes) -> bytes:
        if name not in node.xattrs:
            raise failure(errno.ENODATA)
        return node.xattrs[name]

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int) -> None:
        if flags & os.XATTR_CREATE and name in node.xattrs:
            raise failure(errno.EEXIST)
        if flags & os.XATTR_REPLACE and name not in node.xattrs:
            raise failure(errno.ENODATA)
        node.xattrs[name] = value

    def listxattr(self, node: Node) -> list[bytes]:
        return list(node.xattrs)

    def removexattr(self, node: Node, name: bytes) -> None:
        self.getxattr(node, name)
        del node.xattrs[name]

    # files

    def may_block(self, node: Node, cut: bool = False) -> bool:
        return node.number in self.blocking

    def may_open_wait(self, node: Node, flags: int) -> bool:
        return flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY and node.number in self.blocking

    def may_write_wait(self, handle: Node, offset: int, size: int) -> bool:
        return handle.number in self.blocking

    def _block(self, call: str, node: Node) -> None:
        """Wait for the gate, if this is one of the calls that block; an interrupt ends the wait."""
        self.calls.append(f"{call} in {threading.current_thread().name}")
        while not self.gate.wait(0.005):
            if _checks.interrupted():
                raise failure(errno.EINTR)

    def set_interrupt_check(self, check: Callable[[], bool]) -> None:
        _checks.interrupted = check

    def create(
        self, parent: Node, name: bytes, flags: int, mode: int, caller: Caller, kill_priv: bool = False
    ) -> tuple[Node, Attributes, Node]:
        if name in parent.children and not flags & os.O_EXCL:
            node, _ = self.lookup(parent, name)
            self.open(node, flags, kill_priv)
        else:
            node = self._add(parent, name, stat.S_IFREG | stat.S_IMODE(mode), caller)
        return *self._node(node), node

    def tmpfile(self, parent: Node, flags: int, mode: int, caller: Caller) -> tuple[Node, Attributes, Node]:
        node = Node(next(self._numbers), stat.S_IFREG | stat.S_IMODE(mode) & ~caller.umask, caller.uid, caller.gid)
        node.references = 1
        return *self._node(node), node

    def open(self, node: Node, flags: int, kill_priv: bool = False) -> Node:
        if node.number in self.blocking:
            self._block("open", node)
        if flags & os.O_TRUNC:
            node.data.clear()
        if kill_priv:
            node.mode &= ~(stat.S_ISUID | stat.S_ISGID)
        return node

    def read(self, handle: Node, offset: int, size: int) -> bytes:
        self._block("read", handle)
        return bytes(handle.data[offset : offset + size])

    def read_cached(self, handle: Node, offset: int, size: int) -> bytes | None:
        return None if handle.number in self.blocking else bytes(handle.data[offset : offset + size])

    def write(self, handle: Node, offset: int, data: memoryview, kill_priv: bool = False) -> int:
        if offset > 1 << 30:
            raise failure(errno.EFBIG)
        handle.data.extend(bytes(max(0, offset - len(handle.data))))
        handle.data[offset : offset + len(data)] = data
        handle.times[1] = time.time_ns()
        if kill_priv:
            handle.mode &= ~(stat.S_ISUID | stat.S_ISGID)
        return len(data)

    def flush(self, handle: Node) -> None: ...

    def fsync(self, handle: Node, datasync: bool) -> None:
        self._block("fsync", handle)

    def release(self, handle: Node) -> None: ...

    def fallocate(self, handle: Node, mode: int, offset: int, length: int) -> None:
        if mode or offset + length > 1 << 30:
            raise failure(errno.EOPNOTSUPP)
        handle.data.extend(bytes(max(0, offset + length - len(handle.data))))

    def lseek(self, handle: Node, offset: int, whence: int) -> int:
        if offset >= len(handle.data):
            raise failure(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else len(handle.data)

    def copy_file_range(self, source: Node, start: int, target: Node, to: int, length: int) -> int:
        return self.write(target, to, memoryview(bytes(source.data[start : start + length])))

    # directories

    class scan:
        """No directory is one of lower layers alone."""

        @staticmethod
        def names(node: Node) -> None: ...

    def opendir(self, node: Node) -> DirHandle:
        return DirHandle(node)  # type: ignore[arg-type]

    def readdir(self, handle: DirHandle, offset: int, numbers: bool = True) -> Iterator[Entry]:
        node: Node = handle.inode  # type: ignore[assignment]
        if offset == 0:
            handle.resume([(name, stat.S_IFMT(n.mode) >> 12, n.number) for name, n in node.children.items()])
        dots = [Item(name, stat.S_IFDIR >> 12, node.number) for name in (b".", b"..")]
        for position, item in enumerate([*dots, *(handle.items or ())], 1):
            if position > offset:
                yield Entry(item.name, item.number, item.kind, position)

    def fsyncdir(self, handle: DirHandle, datasync: bool) -> None: ...

    def releasedir(self, handle: DirHandle) -> None: ...

    # the whole

    def statfs(self) -> os.statvfs_result:
        return os.statvfs("/")

    def syncfs(self) -> None: ...

    def tell_of_changes(self, listener: Callable[[Node], None]) -> None: ...

    def close(self) -> None:
        self.closed = True
