"""Open files and directories.

Made by `operations.py`. A `FileHandle` owns one descriptor of the real file and needs no lock to read and write through
it: the descriptor is replaced in place when the file is copied up. A `DirHandle` is one listing, taken when it is first
read and again when it is read from the start: whoever resumes it at an offset finds each name that was there throughout
exactly once, whatever came and went meanwhile (readdir(3)).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from unionfs.errors import failed
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.whiteout import Dialect
from unionfs.linux import files
from unionfs.union.content import Content
from unionfs.union.listing import merge, shown_number

if TYPE_CHECKING:
    from unionfs.union.inode import DirInode, FileInode
    from unionfs.union.partial import PartialFile

KEPT_FLAGS = os.O_ACCMODE | os.O_SYNC | os.O_DSYNC | os.O_NOATIME
"""What of open(2)'s flags the real descriptor is opened with. O_APPEND: each write comes with its offset. O_DIRECT is
about the page cache above us. The others were dealt with when the file was opened."""


class Handle:
    """What `open`, `create`, `tmpfile` and `opendir` give."""

    __slots__ = ("inode",)
    inode: FileInode | DirInode


class FileHandle(Handle):
    """While the inode has `data`, the file's bytes are read and written through that; but for a snapshot."""

    __slots__ = ("_may_ask_cache", "below", "fd", "flags", "inode")

    def __init__(self, inode: FileInode, fd: int, flags: int) -> None:
        self.inode: FileInode = inode
        self.fd = fd
        self.flags = flags & KEPT_FLAGS
        self.below: Location | None = None
        """The lower file that a snapshot stays with (`snapshot.py`)."""
        self._may_ask_cache = True

    def switch(self, location: Location) -> None:
        """The file was copied up: from here on the descriptor is the copy's (dup2(2), in one step)."""
        fresh = location.open(self.flags)
        try:
            os.dup2(fresh, self.fd, inheritable=False)
        finally:
            os.close(fresh)

    @property
    def data(self) -> PartialFile | None:
        """Where its bytes are, if not all behind its own descriptor."""
        return self.inode.data if self.below is None else None

    @property
    def is_synchronous(self) -> bool:
        return bool(self.flags & (os.O_SYNC | os.O_DSYNC))

    def read(self, offset: int, size: int) -> bytes | bytearray:
        """Read again when the file was copied up in between: the descriptor was replaced by one with holes."""
        while True:
            data = self.data
            if data is None:
                found: bytes | bytearray = os.pread(self.fd, size, offset)
            else:
                self._refuse(os.O_WRONLY)
                found = bytearray(size)
                with memoryview(found) as view:
                    count = data.read(view, offset)
                del found[count:]
            if self.data is data:
                return found

    def read_cached(self, offset: int, size: int) -> bytearray | None:
        """The bytes, if the page cache has them all (preadv2(2), RWF_NOWAIT); None: reading may wait for a disk."""
        if not self._may_ask_cache:
            return None
        buffer, data = bytearray(size), self.data
        try:
            with memoryview(buffer) as view:
                if data is None:
                    count = os.preadv(self.fd, [view], offset, os.RWF_NOWAIT)
                else:
                    count = data.read(view, offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._may_ask_cache = False
            elif error.errno != errno.EAGAIN:
                raise
            return None
        if count < size and offset + count < os.fstat(self.fd).st_size:
            return None
        del buffer[count:]
        return buffer if self.data is data else None

    def write(self, offset: int, content: bytes | bytearray | memoryview) -> int:
        data = self.inode.data
        if data is None:
            return os.pwrite(self.fd, content, offset)
        self._refuse(os.O_RDONLY)
        count = data.write(content, offset, self.is_synchronous)
        if data.is_finished:
            self.inode.forget_data(data)
        return count

    def sync(self, datasync: bool = False) -> None:
        """fsync(2), or fdatasync(2): not of a copy, whose name may be newer than its data, and is not among that."""
        if self.below is not None:  # nothing of it was ever written
            return
        data = self.inode.data
        if data is not None and data.is_writable:
            data.sync()
            if data.is_finished:
                self.inode.forget_data(data)
        else:
            (os.fdatasync if datasync and not self.inode.is_copied else os.fsync)(self.fd)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        data = self.inode.data
        if data is None:
            files.fallocate(self.fd, mode, offset, length)
        else:
            self._refuse(os.O_RDONLY)
            data.fallocate(mode, offset, length)

    def copy_in(self, source: Content, start: int, to: int, length: int) -> int:
        data = self.inode.data
        if data is None:
            return source.copy_range(start, self.fd, to, length)
        self._refuse(os.O_RDONLY)
        return data.copy_in(source, start, to, length)

    @property
    def is_whole(self) -> bool:
        """Whether its descriptor is that of a file of the upper that has all bytes, and no bits that others' writing
        takes."""
        if not self.inode.in_upper or self.inode.data is not None:
            return False
        return not os.fstat(self.fd).st_mode & (stat.S_ISUID | stat.S_ISGID)

    def content(self) -> Content:
        """Where its bytes are, while it is open."""
        return self.data or Content(os.dup(self.fd))

    def readable(self) -> Content:
        """The same, to be copied from. Raises EBADF, as reading would."""
        self._refuse(os.O_WRONLY)
        return self.content()

    def _refuse(self, access: int) -> None:
        """EBADF for a file opened with `access`: its own descriptor would refuse, a partly copied file's does not."""
        if self.flags & os.O_ACCMODE == access:
            raise failed(errno.EBADF)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Item(NamedTuple):
    """One name of a listing; `number` is 0 where only a lookup can tell."""

    name: bytes
    kind: int
    number: int


class DirHandle(Handle):
    __slots__ = ("inode", "items")

    def __init__(self, inode: DirInode) -> None:
        self.inode: DirInode = inode
        self.items: list[Item] | None = None

    def take(self, dialect: Dialect) -> list[Item]:
        """List the directory anew. Under the tree lock."""
        directories: list[Directory] = [] if self.inode.removed else self.inode.directories
        self.items = [
            Item(name, kind, shown_number(directory, name))
            for name, (directory, kind) in merge(dialect, directories).items()
        ]
        return self.items

    def resume(self, items: Sequence[tuple[bytes, int, int]]) -> None:
        """Go on in a listing that was begun elsewhere: name, type and number of each, in its order."""
        self.items = [Item(*item) for item in items]
