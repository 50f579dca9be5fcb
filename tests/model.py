"""A POSIX filesystem in memory, as small as it can be: what a union must look like, without a layer in sight.

The contract tests run it beside the real ones, the random ones compare it with them step by step. It answers for root
and knows no permissions. Its errors are those of Linux (fs/namei.c) over ext4. Times are those that were set; a time
that the clock would give is NOW, one that nobody promises is ANY.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from typing import NoReturn

NAME_MAX, PATH_MAX, LINKS_FOLLOWED, PAGE = 255, 4096, 40, 4096
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32
XATTR_CREATE, XATTR_REPLACE = 1, 2
UTIME_NOW = (1 << 30) - 1
NOW, ANY = -1, -2
"""Instead of a time in nanoseconds."""

Path = str | bytes


def fail(number: int, name: object = None) -> NoReturn:
    raise OSError(number, os.strerror(number), name)


class Node:
    """An object. `data` is a file's, `target` a symbolic link's, `entries` and `parent` a directory's."""

    numbers = itertools.count(2)

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, rdev: int = 0) -> None:
        self.ino = next(Node.numbers)
        self.mode, self.uid, self.gid, self.rdev = mode, uid, gid, rdev
        self.nlink = 0
        self.atime = self.mtime = NOW
        self.xattrs: dict[bytes, bytes] = {}
        self.data = bytearray()
        self.pages: set[int] = set()
        """Which pages of a file hold data; the others are holes."""
        self.target = b""
        self.entries: dict[bytes, Node] = {}
        self.parent = self
        self.without_name = False
        """Made without a name (O_TMPFILE), so that it may be given one."""

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        return len(self.target) if stat.S_ISLNK(self.mode) else len(self.data)

    def write(self, data: bytes, offset: int) -> int:
        if data:
            self.resize(max(len(self.data), offset + len(data)))
            self.data[offset : offset + len(data)] = data
            self.pages.update(range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1))
            self.mtime = NOW
        return len(data)

    def resize(self, size: int) -> None:
        if size < len(self.data):
            del self.data[size:]
            self.pages = {page for page in self.pages if page * PAGE < size}
        else:
            self.data.extend(bytes(size - len(self.data)))

    def drop_privileges(self, set_group_too: bool = False) -> None:
        """chown(2) takes the setuid bit from files, and the setgid bit where it means a group to run as."""
        if not self.is_dir:
            self.mode &= ~stat.S_ISUID
            if self.mode & stat.S_IXGRP:
                self.mode &= ~stat.S_ISGID


class File:
    """An open file; it works on after its name is gone."""

    def __init__(self, node: Node, flags: int) -> None:
        self.node, self.flags = node, flags

    def __enter__(self) -> File:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def fsync(self) -> None:
        pass

    def stat(self) -> Node:
        return self.node

    def fchmod(self, mode: int) -> None:
        self.node.mode = self.node.kind | mode

    def _readable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    def _writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    def pread(self, size: int, offset: int) -> bytes:
        if not self._readable():
            fail(errno.EBADF)
        self.node.atime = ANY
        return bytes(self.node.data[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> int:
        if not self._writable():
            fail(errno.EBADF)
        return self.node.write(data, self.node.size if self.flags & os.O_APPEND else offset)

    def truncate(self, size: int) -> None:
        if not self._writable() or size < 0:
            fail(errno.EINVAL)
        self.node.resize(size)
        self.node.mtime = NOW

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        if offset < 0 or length <= 0:
            fail(errno.EINVAL)
        if mode not in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, COLLAPSE, INSERT):
            fail(errno.EOPNOTSUPP)
        if not self._writable():
            fail(errno.EBADF)
        node, end = self.node, offset + length
        if mode in (COLLAPSE, INSERT):
            self._shift(mode, offset, length)
        elif mode & (PUNCH_HOLE | ZERO_RANGE):
            node.data[offset:end] = bytes(max(0, min(end, node.size) - offset))
            node.pages -= set(range(-(-offset // PAGE), end // PAGE))
        if not mode & ~ZERO_RANGE:
            node.resize(max(node.size, end))
        node.mtime = ANY

    def _shift(self, mode: int, offset: int, length: int) -> None:
        data = self.node.data
        if offset % PAGE or length % PAGE or offset + (length if mode == COLLAPSE else 0) >= len(data):
            fail(errno.EINVAL)
        if mode == COLLAPSE:
            del data[offset : offset + length]
        else:
            data[offset:offset] = bytes(length)
        self.node.pages = {page for page in range(len(data) // PAGE + 1) if any(data[page * PAGE : (page + 1) * PAGE])}

    def lseek(self, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE; a hole is at the end of every file."""
        size = self.node.size
        if offset < 0 or offset >= size:
            fail(errno.ENXIO)
        page = offset // PAGE
        while (page in self.node.pages) != (whence == os.SEEK_DATA):
            page += 1
            if page * PAGE >= size:
                if whence == os.SEEK_DATA:
                    fail(errno.ENXIO)
                return size
        return max(offset, page * PAGE)

    def copy_range(self, offset: int, other: File, other_offset: int, length: int) -> int:
        """copy_file_range(2) to another open file."""
        if not self._readable() or not other._writable() or other.flags & os.O_APPEND:
            fail(errno.EBADF)
        length = max(0, min(length, self.node.size - offset))
        if self.node is other.node and offset < other_offset + length and other_offset < offset + length:
            fail(errno.EINVAL)
        self.node.atime = ANY
        return other.node.write(bytes(self.node.data[offset : offset + length]), other_offset)


def _parts(path: Path) -> list[bytes]:
    return [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]


class Model:
    """The filesystem, by path from its root. The last name's symbolic link is followed by open and truncate only."""

    def __init__(self) -> None:
        self.root = Node(stat.S_IFDIR | 0o755)
        self.root.nlink = 1

    # Walking

    def resolve(self, path: Path, follow: bool = False) -> tuple[Node, bytes, Node | None]:
        """(directory, last name, object or None); the root and what ends in ".." have no last name."""
        directory, rest, followed = self.root, _parts(path)[::-1], 0
        while rest:
            name = rest.pop()
            if not directory.is_dir:
                fail(errno.ENOTDIR, path)
            if name == b"..":
                directory = directory.parent
                continue
            if len(name) > NAME_MAX:
                fail(errno.ENAMETOOLONG, path)
            node = directory.entries.get(name)
            if node is not None and stat.S_ISLNK(node.mode) and (rest or follow):
                followed += 1
                if followed > LINKS_FOLLOWED:
                    fail(errno.ELOOP, path)
                directory = self.root if node.target.startswith(b"/") else directory
                rest += _parts(node.target)[::-1]
            elif not rest:
                return directory, name, node
            elif node is None:
                fail(errno.ENOENT, path)
            else:
                directory = node
        return directory.parent, b"", directory

    def node(self, path: Path, follow: bool = False) -> Node:
        node = self.resolve(path, follow)[2]
        if node is None:
            fail(errno.ENOENT, path)
        return node

    def paths(self) -> Iterator[tuple[str, Node]]:
        """Every object but the root, parents first."""

        def below(directory: Node, prefix: str) -> Iterator[tuple[str, Node]]:
            for name, node in sorted(directory.entries.items()):
                path = prefix + os.fsdecode(name)
                yield path, node
                yield from below(node, path + "/")

        return below(self.root, "")

    # Reading

    def stat(self, path: Path) -> Node:
        return self.node(path)

    def listdir(self, path: Path) -> list[str] | list[bytes]:
        node = self.node(path, follow=True)
        if not node.is_dir:
            fail(errno.ENOTDIR, path)
        node.atime = ANY
        return list(node.entries) if isinstance(path, bytes) else [os.fsdecode(name) for name in node.entries]

    def readlink(self, path: Path) -> bytes:
        node = self.node(path)
        if not stat.S_ISLNK(node.mode):
            fail(errno.EINVAL, path)
        node.atime = ANY
        return node.target

    # Making

    def _vacant(self, path: Path) -> tuple[Node, bytes]:
        directory, name, node = self.resolve(path)
        if node is not None:
            fail(errno.EEXIST, path)
        return directory, name

    def _enter(self, directory: Node, name: bytes, node: Node) -> Node:
        if not directory.nlink:
            fail(errno.ENOENT, name)
        node.nlink += 1
        if node.is_dir:
            node.parent = directory
        directory.entries[name] = node
        directory.mtime = NOW
        return node

    def _new(self, directory: Node, mode: int, rdev: int = 0) -> Node:
        """A new object in a directory whose group is inherited belongs to that group."""
        node = Node(mode, 0, directory.gid if directory.mode & stat.S_ISGID else 0, rdev)
        if node.is_dir and directory.mode & stat.S_ISGID:
            node.mode |= stat.S_ISGID
        return node

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        directory, name = self._vacant(path)
        self._enter(directory, name, self._new(directory, stat.S_IFDIR | mode & 0o1777))

    def mknod(self, path: Path, mode: int, rdev: int = 0) -> None:
        if stat.S_IFMT(mode) == stat.S_IFDIR:
            fail(errno.EPERM, path)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            fail(errno.EINVAL, path)
        directory, name = self._vacant(path)
        device = rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        self._enter(directory, name, self._new(directory, mode if stat.S_IFMT(mode) else mode | stat.S_IFREG, device))

    def symlink(self, target: Path, path: Path) -> None:
        if not target:
            fail(errno.ENOENT, path)
        if len(target) >= PATH_MAX:
            fail(errno.ENAMETOOLONG, path)
        directory, name = self._vacant(path)
        self._enter(directory, name, self._new(directory, stat.S_IFLNK | 0o777)).target = os.fsencode(target)

    def link(self, source: Path, path: Path) -> None:
        node = self.node(source)
        directory, name = self._vacant(path)
        if node.is_dir:
            fail(errno.EPERM, source)
        self._enter(directory, name, node)

    # Open files

    def open(self, path: Path, flags: int, mode: int = 0o644) -> File:
        if flags & os.O_CREAT and flags & os.O_DIRECTORY:
            fail(errno.EINVAL, path)
        exclusive = flags & os.O_CREAT and flags & os.O_EXCL
        directory, name, node = self.resolve(path, follow=not (exclusive or flags & os.O_NOFOLLOW))
        if node is None:
            if not flags & os.O_CREAT:
                fail(errno.ENOENT, path)
            return File(self._enter(directory, name, self._new(directory, stat.S_IFREG | mode & 0o7777)), flags)
        self._may_open(node, flags, path)
        if flags & os.O_TRUNC:
            node.resize(0)
            node.mtime = NOW
        return File(node, flags)

    @staticmethod
    def _may_open(node: Node, flags: int, path: Path) -> None:
        if flags & os.O_CREAT and flags & os.O_EXCL:
            fail(errno.EEXIST, path)
        if stat.S_ISLNK(node.mode):
            fail(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP, path)
        if flags & os.O_DIRECTORY and not node.is_dir:
            fail(errno.ENOTDIR, path)
        if node.is_dir and flags & (os.O_CREAT | os.O_TRUNC | os.O_ACCMODE):
            fail(errno.EISDIR, path)
        if stat.S_ISSOCK(node.mode):
            fail(errno.ENXIO, path)

    def read_bytes(self, path: Path) -> bytes:
        node = self.open(path, os.O_RDONLY).node
        if node.is_dir:
            fail(errno.EISDIR, path)
        node.atime = ANY
        return bytes(node.data)

    def write_bytes(self, path: Path, data: bytes) -> None:
        self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC).pwrite(data, 0)

    def tmpfile(self, path: Path, flags: int = os.O_RDWR, mode: int = 0o600) -> File:
        directory = self.node(path, follow=True)
        if not directory.is_dir:
            fail(errno.ENOTDIR, path)
        made = self._new(directory, stat.S_IFREG | mode & 0o7777)
        made.without_name = True
        return File(made, flags)

    def link_file(self, file: File, path: Path) -> None:
        """linkat(2) of an open file: of one that was made by tmpfile, or of one that still has a name."""
        directory, name = self._vacant(path)
        self._enter(directory, name, file.node)
        file.node.without_name = False  # the second time, after an unlink, it would be refused (ENOENT)

    # Removing and renaming

    def _leave(self, directory: Node, name: bytes) -> None:
        node = directory.entries.pop(name)
        node.nlink = 0 if node.is_dir else node.nlink - 1
        directory.mtime = NOW

    def unlink(self, path: Path) -> None:
        directory, name, node = self.resolve(path)
        if node is None:
            fail(errno.ENOENT, path)
        if node.is_dir:
            fail(errno.EISDIR, path)
        self._leave(directory, name)

    def rmdir(self, path: Path) -> None:
        directory, name, node = self.resolve(path)
        if node is None:
            fail(errno.ENOENT, path)
        if not name:
            fail(errno.EBUSY, path)
        if not node.is_dir:
            fail(errno.ENOTDIR, path)
        if node.entries:
            fail(errno.ENOTEMPTY, path)
        self._leave(directory, name)

    def rename(self, source: Path, path: Path, flags: int = 0) -> None:
        if flags & ~(NOREPLACE | EXCHANGE | WHITEOUT) or (flags & EXCHANGE and flags & (NOREPLACE | WHITEOUT)):
            fail(errno.EINVAL, path)
        if flags & WHITEOUT:
            fail(errno.EINVAL, path)
        old, old_name, node = self.resolve(source)
        new, new_name, other = self.resolve(path)
        if not old_name or not new_name:
            fail(errno.EBUSY, path)
        if node is None:
            fail(errno.ENOENT, source)
        if flags & NOREPLACE and other is not None:
            fail(errno.EEXIST, path)
        if flags & EXCHANGE and other is None:
            fail(errno.ENOENT, path)
        if node in self._lineage(new):
            fail(errno.EINVAL, path)
        if other is not None and other in self._lineage(old):
            fail(errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY, path)
        if node is other:
            return
        if flags & EXCHANGE:
            assert other is not None
            self._put(old, old_name, other)
        else:
            if other is not None:
                self._may_replace(node, other, path)
                self._leave(new, new_name)
            del old.entries[old_name]
        self._put(new, new_name, node)
        old.mtime = NOW

    @staticmethod
    def _lineage(node: Node) -> list[Node]:
        found = [node]
        while found[-1].parent is not found[-1]:
            found.append(found[-1].parent)
        return found

    @staticmethod
    def _may_replace(node: Node, other: Node, path: Path) -> None:
        if node.is_dir and not other.is_dir:
            fail(errno.ENOTDIR, path)
        if other.is_dir and not node.is_dir:
            fail(errno.EISDIR, path)
        if other.entries:
            fail(errno.ENOTEMPTY, path)

    @staticmethod
    def _put(directory: Node, name: bytes, node: Node) -> None:
        directory.entries[name] = node
        directory.mtime = NOW
        if node.is_dir:
            node.parent = directory

    # Attributes

    def chmod(self, path: Path, mode: int) -> None:
        node = self.node(path)
        if stat.S_ISLNK(node.mode):
            fail(errno.EOPNOTSUPP, path)
        node.mode = node.kind | mode & 0o7777

    def chown(self, path: Path, uid: int, gid: int) -> None:
        node = self.node(path)
        node.uid = node.uid if uid == -1 else uid
        node.gid = node.gid if gid == -1 else gid
        node.drop_privileges()

    def utime(self, path: Path, atime_ns: int | None, mtime_ns: int | None) -> None:
        node = self.node(path)
        if atime_ns is not None:
            node.atime = NOW if atime_ns == UTIME_NOW else atime_ns
        if mtime_ns is not None:
            node.mtime = NOW if mtime_ns == UTIME_NOW else mtime_ns

    def truncate(self, path: Path, size: int) -> None:
        if size < 0:
            fail(errno.EINVAL, path)
        node = self.node(path, follow=True)
        if not stat.S_ISREG(node.mode):
            fail(errno.EISDIR if node.is_dir else errno.EINVAL, path)
        node.mtime = NOW if size != node.size else ANY
        node.resize(size)

    # Extended attributes

    @staticmethod
    def _check_xattr(node: Node, name: bytes, path: Path, refusal: int) -> None:
        if not name or len(name) > NAME_MAX:
            fail(errno.ERANGE, path)
        if not name.startswith((b"user.", b"trusted.", b"security.")):
            fail(errno.EOPNOTSUPP, path)
        if name.startswith(b"user.") and not (stat.S_ISREG(node.mode) or node.is_dir):
            fail(refusal, path)

    def getxattr(self, path: Path, name: bytes) -> bytes:
        node = self.node(path)
        self._check_xattr(node, name, path, errno.ENODATA)
        if name not in node.xattrs:
            fail(errno.ENODATA, path)
        return node.xattrs[name]

    def listxattr(self, path: Path) -> list[bytes]:
        return list(self.node(path).xattrs)

    def setxattr(self, path: Path, name: bytes, value: bytes, flags: int = 0) -> None:
        node = self.node(path)
        self._check_xattr(node, name, path, errno.EPERM)
        if flags & XATTR_CREATE and name in node.xattrs:
            fail(errno.EEXIST, path)
        if flags & XATTR_REPLACE and name not in node.xattrs:
            fail(errno.ENODATA, path)
        node.xattrs[name] = value

    def removexattr(self, path: Path, name: bytes) -> None:
        node = self.node(path)
        self._check_xattr(node, name, path, errno.EPERM)
        if node.xattrs.pop(name, None) is None:
            fail(errno.ENODATA, path)
