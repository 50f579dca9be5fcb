"""The union by path, in this process: nothing is mounted, no privileges are needed.

The public face of the union for Python programs, labs and tests; `operations` is the same by inode, as the engines use
it. Paths are str, bytes or path-like, and start at the union's root, with a leading slash or without. Symbolic links on
the way are followed inside the union; the last name's only where open(2) would. Access rights are not checked: that is
the kernel's part in a mount. Every method raises OSError as the system call of its name does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import overload

from unionfs.errors import failed
from unionfs.union import path as paths
from unionfs.union.completion import COMPLETE
from unionfs.union.copyup import THRESHOLD
from unionfs.union.operations import Attributes, Caller, Entry, FileHandle, Inode, Name, Operations

_CHUNK = 1 << 20
_REGULAR = stat.S_IFREG | 0o644


class Union:
    """Layers seen as one tree.

    `lower` names directories, the topmost first; `upper` takes all changes, with `work` on the same filesystem for what
    is being built; without them the union is read-only. `dialect` is "aufs" or "overlay"; `userxattr` keeps the
    bookkeeping in user.* attributes, `volatile` leaves syncs out. `copyup` is "auto", "whole" or "block", with the
    threshold of the first in bytes; `copyup_complete`, "background", "close" or "never", says when a partly copied file
    is completed. Raises Faults with everything that is wrong.
    """

    def __init__(
        self, lower: Sequence[Name], upper: Name | None = None, work: Name | None = None, *, dialect: str = "aufs",
        userxattr: bool = False, volatile: bool = False, copyup: str | None = None, copyup_threshold: int = THRESHOLD,
        copyup_complete: str = COMPLETE, caller: Caller | None = None,
    ) -> None:  # fmt: skip
        if isinstance(lower, str | bytes | os.PathLike):
            raise TypeError("lower is a sequence of names, the topmost first: lower=[...]")
        self.operations = Operations(
            lower, upper, work, dialect=dialect, userxattr=userxattr, volatile=volatile, copyup=copyup,
            copyup_threshold=copyup_threshold, copyup_complete=copyup_complete,
        )  # fmt: skip
        self.caller = caller or Caller(os.geteuid(), os.getegid())
        """To whom new objects belong. Its umask is 0: modes are taken as they are given."""

    def __enter__(self) -> Union:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.operations.close()

    # Paths

    @contextmanager
    def _at(self, path: Name, follow: bool = False) -> Iterator[Inode]:
        with paths.at(self.operations, paths.resolve(self.operations, os.fsencode(path), follow)) as inode:
            yield inode

    @contextmanager
    def _parent_of(self, path: Name, follow: bool = False) -> Iterator[tuple[Inode, bytes]]:
        with paths.parent_of(self.operations, paths.resolve(self.operations, os.fsencode(path), follow)) as found:
            yield found

    # Looking

    def stat(self, path: Name) -> Attributes:
        """lstat(2)."""
        with self._at(path) as inode:
            return self.operations.getattr(inode)

    def exists(self, path: Name) -> bool:
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def scandir(self, path: Name = "") -> list[Entry]:
        """All entries but `.` and `..`, names as bytes."""
        with self._at(path, follow=True) as inode:
            handle = self.operations.opendir(inode)
            try:
                return list(self.operations.readdir(handle))[2:]
            finally:
                self.operations.releasedir(handle)

    @overload
    def listdir(self, path: str | os.PathLike[str] = "") -> list[str]: ...
    @overload
    def listdir(self, path: bytes | os.PathLike[bytes]) -> list[bytes]: ...
    def listdir(self, path: Name = "") -> list[str] | list[bytes]:
        """The names, of the type of `path`."""
        names = [entry.name for entry in self.scandir(path)]
        return names if isinstance(os.fspath(path), bytes) else list(map(os.fsdecode, names))

    def readlink(self, path: Name) -> bytes:
        with self._at(path) as inode:
            return self.operations.readlink(inode)

    def statfs(self) -> os.statvfs_result:
        return self.operations.statfs()

    # Names

    def mkdir(self, path: Name, mode: int = 0o755) -> None:
        with self._parent_of(path) as (parent, name):
            self._done(self.operations.mkdir(parent, name, mode, self.caller)[0])

    def mknod(self, path: Name, mode: int = _REGULAR, rdev: int = 0) -> None:
        with self._parent_of(path) as (parent, name):
            self._done(self.operations.mknod(parent, name, mode, rdev, self.caller)[0])

    def symlink(self, target: Name, path: Name) -> None:
        with self._parent_of(path) as (parent, name):
            self._done(self.operations.symlink(parent, name, os.fsencode(target), self.caller)[0])

    def link(self, source: Name, path: Name) -> None:
        with self._at(source) as inode, self._parent_of(path) as (parent, name):
            self._done(self.operations.link(inode, parent, name)[0])

    def unlink(self, path: Name) -> None:
        with self._parent_of(path) as (parent, name):
            self.operations.unlink(parent, name)

    def rmdir(self, path: Name) -> None:
        with self._parent_of(path) as (parent, name):
            self.operations.rmdir(parent, name)

    def rename(self, source: Name, target: Name, flags: int = 0) -> None:
        """renameat2(2); flags: RENAME_NOREPLACE, RENAME_EXCHANGE of unionfs.linux.files."""
        with self._parent_of(source) as (parent, name), self._parent_of(target) as (new_parent, new_name):
            self.operations.rename(parent, name, new_parent, new_name, flags)

    def _done(self, inode: Inode) -> None:
        self.operations.forget(inode)

    # Attributes

    def chmod(self, path: Name, mode: int) -> None:
        with self._at(path) as inode:
            self.operations.setattr(inode, mode=mode)

    def chown(self, path: Name, uid: int, gid: int) -> None:
        """lchown(2); -1 leaves an id as it is. Setuid bits go, even when both stay."""
        owner, group = (None if number == -1 else number for number in (uid, gid))
        with self._at(path) as inode:
            self.operations.setattr(inode, uid=owner, gid=group, kill_priv=owner is None is group)

    def utime(self, path: Name, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Times in nanoseconds; None leaves one as it is, unionfs.linux.files.UTIME_NOW takes the clock's."""
        with self._at(path) as inode:
            self.operations.setattr(inode, atime_ns=atime_ns, mtime_ns=mtime_ns)

    def truncate(self, path: Name, size: int) -> None:
        with self._at(path, follow=True) as inode:
            self.operations.setattr(inode, size=size)

    def getxattr(self, path: Name, name: bytes) -> bytes:
        with self._at(path) as inode:
            return self.operations.getxattr(inode, name)

    def setxattr(self, path: Name, name: bytes, value: bytes, flags: int = 0) -> None:
        with self._at(path) as inode:
            self.operations.setxattr(inode, name, value, flags)

    def listxattr(self, path: Name) -> list[bytes]:
        with self._at(path) as inode:
            return self.operations.listxattr(inode)

    def removexattr(self, path: Name, name: bytes) -> None:
        with self._at(path) as inode:
            self.operations.removexattr(inode, name)

    # Files

    def open(self, path: Name, flags: int = os.O_RDONLY, mode: int = 0o644) -> File:
        """open(2), O_CREAT, O_EXCL, O_TRUNC, O_NOFOLLOW included. Close the file, or use it as a context."""
        follow = not flags & os.O_NOFOLLOW and not (flags & os.O_CREAT and flags & os.O_EXCL)
        append = bool(flags & os.O_APPEND)
        if flags & os.O_CREAT:
            with self._parent_of(path, follow) as (parent, name):
                inode, _, handle = self.operations.create(parent, name, flags, mode, self.caller)
                self._done(inode)
                return File(self.operations, handle, append)
        with self._at(path, follow) as inode:
            if flags & os.O_DIRECTORY and not inode.is_dir:
                raise failed(errno.ENOTDIR, os.fsencode(path))
            return File(self.operations, self.operations.open(inode, flags), append)

    def tmpfile(self, directory: Name = "", flags: int = os.O_RDWR, mode: int = 0o600) -> File:
        """A file without a name (O_TMPFILE); `link_file` may give it one."""
        with self._at(directory, follow=True) as inode:
            made, _, handle = self.operations.tmpfile(inode, flags, mode, self.caller)
            self._done(made)
            return File(self.operations, handle)

    def link_file(self, file: File, path: Name) -> None:
        with self._parent_of(path) as (parent, name):
            self._done(self.operations.link(file.handle.inode, parent, name)[0])

    def read_bytes(self, path: Name) -> bytes:
        with self.open(path) as file:
            return b"".join(iter(file.chunks()))

    def write_bytes(self, path: Name, data: bytes) -> None:
        """The file's new content, whatever it had before; the file is made if need be."""
        with self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.pwrite_all(data)

    def sync(self) -> None:
        """syncfs(2) of the upper."""
        self.operations.syncfs()


class File:
    """An open file. Offsets and sizes are bytes. `append` (O_APPEND): what is written goes to the end, always."""

    def __init__(self, operations: Operations, handle: FileHandle, append: bool = False) -> None:
        self.operations = operations
        self.handle = handle
        self._append = append

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self.operations.read(self.handle, offset, size))

    def chunks(self) -> Iterator[bytes]:
        """The whole content, piece by piece."""
        offset = 0
        while piece := self.pread(_CHUNK, offset):
            yield piece
            offset += len(piece)

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        """How many bytes were written. A file that is appended to takes no notice of `offset` (pwrite(2), "BUGS")."""
        if not self._append:
            return self.operations.write(self.handle, offset, data)
        with self.handle.inode.lock:
            return self.operations.write(self.handle, self.stat().size, data)

    def pwrite_all(self, data: bytes, offset: int = 0) -> None:
        view = memoryview(data)
        while view:
            count = self.pwrite(view, offset)
            view, offset = view[count:], offset + count

    def truncate(self, size: int) -> None:
        self.operations.setattr(self.handle.inode, size=size, handle=self.handle)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        self.operations.fallocate(self.handle, mode, offset, length)

    def lseek(self, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE."""
        return self.operations.lseek(self.handle, offset, whence)

    def copy_range(self, offset: int, target: File, target_offset: int, length: int) -> int:
        if target._append:
            raise failed(errno.EBADF)
        return self.operations.copy_file_range(self.handle, offset, target.handle, target_offset, length)

    def fsync(self, datasync: bool = False) -> None:
        self.operations.fsync(self.handle, datasync)

    def stat(self) -> Attributes:
        return self.operations.getattr(self.handle.inode, self.handle)

    def chmod(self, mode: int) -> None:
        """fchmod(2), which works for a file without a name too."""
        self.operations.setattr(self.handle.inode, mode=mode, handle=self.handle)

    def close(self) -> None:
        self.operations.release(self.handle)
