"""The operations of a filesystem, one method each, named as the kernel names them.

Called by the engines and by `union.py`, from any thread. A method returns a value or raises OSError; it never replies.
What gives a node returns the inode with one more reference to it, and its attributes: `forget` gives references back.
Access rights are not checked here: a mount has the kernel do it (`default_permissions`).

Locks, in the order in which they are taken:

    1. inode.lock    one object: held while it is copied up, data and all
    2. the tree      names, the table of inodes, the descriptors of directories: held for single system calls, never
                     while file data is copied or synced

An open file's data is read with neither. One that was copied up in part has a lock of its own between the two, held
while it is written to, cut, or copied in the background (see `partial.py`).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence

from unionfs.errors import failed
from unionfs.layer.stack import Stack
from unionfs.union import completion
from unionfs.union.attributes import Attributes, Caller, Entry, of
from unionfs.union.completion import COMPLETE
from unionfs.union.content import set_interrupt_check
from unionfs.union.copyup import THRESHOLD, Amount, CopyUp
from unionfs.union.create import Creation, Made
from unionfs.union.data import Data
from unionfs.union.handle import KEPT_FLAGS, DirHandle, FileHandle
from unionfs.union.inode import FileInode, Inode, Inodes
from unionfs.union.names import Names, directory_of
from unionfs.union.remove import Removal
from unionfs.union.rename import Renaming
from unionfs.union.scan import Scan
from unionfs.union.setattr import Change, change_attributes
from unionfs.union.snapshot import Snapshots
from unionfs.union.waiting import Waiting
from unionfs.union.xattr import Xattrs

__all__ = ["Attributes", "Caller", "DirHandle", "Entry", "FileHandle", "Inode", "Name", "Node", "Operations"]

Name = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Node = tuple[Inode, Attributes]
_COPIED_AT_ONCE = 1 << 30


class Operations:
    """One union. Parameters as those of Stack.open, and how files are copied up: `copyup` and `copyup_threshold`, in
    bytes, as in copyup.Amount, `copyup_complete` as in completion.py. Raises Faults with all that is wrong."""

    def __init__(
        self, lower: Sequence[Name], upper: Name | None = None, work: Name | None = None, *, dialect: str = "aufs",
        userxattr: bool = False, volatile: bool = False, copyup: str | None = None, copyup_threshold: int = THRESHOLD,
        copyup_complete: str = COMPLETE, overlaps: bool = False,
    ) -> None:  # fmt: skip
        amount, complete = Amount.of(dialect, copyup, copyup_threshold), completion.check(copyup_complete)
        top, area = (None if path is None else os.fsencode(path) for path in (upper, work))
        layers = [os.fsencode(path) for path in lower]
        self.stack = Stack.open(layers, top, area, dialect, userxattr, volatile, overlaps)
        self.stack.prepare()
        self._tree = threading.RLock()
        self._inodes = Inodes(self.stack)
        self._names = Names(self._inodes)
        self._copyup = CopyUp(self._inodes, self._tree, amount)
        self._data = Data(self._inodes, self._tree, self._copyup.sources, complete)
        self._waiting = Waiting(self._copyup)
        self.copied, self.snapshots = self._copyup.copied, Snapshots(self.stack, self._tree)
        self._creation = Creation(self._inodes, self._copyup)
        self._removal = Removal(self._inodes, self._copyup)
        self._renaming = Renaming(self._names, self._copyup, self._removal)
        self._xattrs = Xattrs(self._copyup.sources, self._tree, self._copy_up, self._data.untouched)
        self.scan = Scan(self._inodes, self._tree)
        self.root = self._inodes.root

    @property
    def read_only(self) -> bool:
        return self.stack.upper is None

    # References and names

    def lookup(self, parent: Inode, name: bytes) -> Node:
        with self._tree:
            directory = directory_of(parent)
            if name in (b".", b".."):
                up = directory.dentry.parent if name == b".." and directory.dentry is not None else directory
                return self._node(up)
            dentry, st = self._inodes.find(directory, name)
            if dentry is None:
                self._names.refuse_long(name)
                raise failed(errno.ENOENT, name)
            return self._node(dentry.inode, st)

    def forget(self, inode: Inode, count: int = 1) -> None:
        with self._tree:
            self._inodes.forget(inode, count)

    def _node(self, inode: Inode, st: os.stat_result | None = None) -> Node:
        """One more reference. `st`: the attributes of the real object, if they are known."""
        attributes = of(inode, st or inode.stat())
        inode.references += 1
        return inode, attributes

    # Making and removing names

    def mknod(self, parent: Inode, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        with self._tree:
            return self._node(*self._creation.node(self._names.vacant(parent, name), name, mode, rdev, caller))

    def mkdir(self, parent: Inode, name: bytes, mode: int, caller: Caller) -> Node:
        with self._tree:
            directory = self._names.vacant(parent, name)
            return self._node(*self._creation.directory(directory, name, stat.S_IMODE(mode), caller))

    def symlink(self, parent: Inode, name: bytes, target: bytes, caller: Caller) -> Node:
        with self._tree:
            return self._node(*self._creation.symlink(self._names.vacant(parent, name), name, target, caller))

    def link(self, inode: Inode, parent: Inode, name: bytes) -> Node:
        with self._tree:
            self._names.vacant(parent, name)  # before anything is copied up in vain
        if not isinstance(inode, FileInode):
            raise failed(errno.EPERM, name)
        self._copy_up(inode)
        with self._tree:
            directory = self._names.vacant(parent, name)
            if inode.dentry is None and inode.link_count() == 0 and not inode.temporary:
                raise failed(errno.ENOENT, name)
            self._creation.link(inode, directory, name)
            return self._node(inode)

    def unlink(self, parent: Inode, name: bytes) -> None:
        with self._tree:
            self._removal.file(self._names.existing(parent, name))

    def rmdir(self, parent: Inode, name: bytes) -> None:
        with self._tree:
            self._removal.directory(self._names.existing(parent, name))

    def rename(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int = 0) -> None:
        """renameat2(2). RENAME_WHITEOUT is refused (EINVAL), as overlayfs refuses it."""
        target = directory_of(new_parent)
        while True:
            with self._tree:
                waiting = self._renaming.renameat2(parent, name, target, new_name, flags)
            if waiting is None:
                return
            try:
                self._copy_up(waiting)
            finally:
                self.forget(waiting)

    def readlink(self, inode: Inode) -> bytes:
        if inode.kind != stat.S_IFLNK:
            raise failed(errno.EINVAL)
        with self._tree:
            return inode.location.readlink()

    # Attributes

    def getattr(self, inode: Inode, handle: FileHandle | DirHandle | None = None) -> Attributes:
        if isinstance(handle, FileHandle) and handle.below is None:
            return of(inode, os.fstat(handle.fd))
        with self._tree:
            return of(inode, inode.stat())

    def birth_time(self, inode: Inode) -> int | None:
        """When the object was made, in nanoseconds; None where the layer's filesystem does not keep it (statx(2))."""
        with self._tree:
            return inode.location.birth_time()

    def setattr(
        self, inode: Inode, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        size: int | None = None, atime_ns: int | None = None, mtime_ns: int | None = None,
        handle: FileHandle | None = None, kill_priv: bool = False,
    ) -> Attributes:  # fmt: skip
        """Change what is not None; a time may be files.UTIME_NOW. `kill_priv`: setuid and setgid bits go."""
        if handle is not None and handle.below is not None:
            handle = None
        change = Change(mode, uid, gid, size, atime_ns, mtime_ns, kill_priv)
        change.refuse(inode, handle)
        self._copy_up(inode, size)
        if size is not None and isinstance(inode, FileInode):
            change = self._cut(inode, change)
        with self._data.untouched(inode), self._tree:
            change_attributes(inode, change, handle.fd if handle is not None else None)
            return of(inode, inode.stat())

    def _cut(self, inode: FileInode, change: Change) -> Change:
        """A partly copied file is cut or made longer by its own rules; what is then left to be changed."""
        with self._data.borrowed(inode) as data:
            if data is None or change.size is None:
                return change
            data.truncate(change.size)
        return change._replace(size=None)

    def _copy_up(self, inode: Inode, size: int | None = None) -> None:
        """See that the object is in the upper; of a file that is cut to `size` bytes no more data than that."""
        self._names.refuse_read_only()
        if isinstance(inode, FileInode):
            if inode.in_upper and inode.data is None and size is None:
                return
            self._copyup.file(inode, size, to_write=size is not None)
            with self._tree:
                self._data.unused(inode)
        else:
            with self._tree:
                self._copyup.directory(directory_of(inode))

    def getxattr(self, inode: Inode, name: bytes) -> bytes:
        return self._xattrs.get(inode, name)

    def listxattr(self, inode: Inode) -> list[bytes]:
        return self._xattrs.list(inode)

    def setxattr(self, inode: Inode, name: bytes, value: bytes, flags: int = 0) -> None:
        """Flags: XATTR_CREATE, XATTR_REPLACE."""
        self._xattrs.set(inode, name, value, flags)

    def removexattr(self, inode: Inode, name: bytes) -> None:
        self._xattrs.remove(inode, name)

    # Files

    def may_block(self, inode: Inode, cut: bool = False) -> bool:
        """Whether changing the object, or cutting it, may wait for a copy of its data, or for whoever makes one."""
        return self._waiting.to_change(inode, cut)

    def may_open_wait(self, inode: Inode, flags: int) -> bool:
        return self._waiting.to_open(inode, flags)

    def may_write_wait(self, handle: FileHandle, offset: int, size: int) -> bool:
        return self._waiting.to_write(handle, offset, size)

    @staticmethod
    def set_interrupt_check(check: Callable[[], bool] | None) -> None:
        """For this thread: what a long copy-up asks now and then; when it answers True it ends with EINTR."""
        set_interrupt_check(check)

    def create(
        self, parent: Inode, name: bytes, flags: int, mode: int, caller: Caller, kill_priv: bool = False
    ) -> tuple[Inode, Attributes, FileHandle]:
        """open(2) with O_CREAT. A file that is there already is opened, unless O_EXCL is among the flags."""
        with self._tree:
            there = self._inodes.lookup(directory_of(parent), name)
            if there is None:
                directory = self._names.open_to(parent, name)
                kept = self._file_flags(flags)
                made, fd = self._creation.file(directory, name, kept, stat.S_IMODE(mode), caller)
                return self._opened(made, fd, kept)
            if flags & os.O_EXCL:
                self._inodes.drop_unused(there.inode)
                raise failed(errno.EEXIST, name)
            there.inode.references += 1
        try:
            handle = self.open(there.inode, flags, kill_priv)
            return there.inode, self.getattr(there.inode), handle
        except BaseException:
            self.forget(there.inode)
            raise

    def tmpfile(self, parent: Inode, flags: int, mode: int, caller: Caller) -> tuple[Inode, Attributes, FileHandle]:
        """A regular file without a name (open(2), O_TMPFILE); `link` may give it one unless O_EXCL is given."""
        with self._tree:
            self._names.refuse_read_only()
            kept, directory = self._file_flags(flags), directory_of(parent)
            if directory.removed:
                raise failed(errno.ENOENT)
            made, fd = self._creation.temporary(directory, kept, stat.S_IMODE(mode), caller)
            made[0].temporary = not flags & os.O_EXCL
            return self._opened(made, fd, kept)

    def _opened(self, made: Made, fd: int, flags: int) -> tuple[Inode, Attributes, FileHandle]:
        handle = FileHandle(made[0], fd, flags)
        made[0].opened(handle)
        return *self._node(*made), handle

    def _file_flags(self, flags: int) -> int:
        """What of open(2)'s flags concerns the real file. A volatile union syncs nothing."""
        kept = flags & KEPT_FLAGS
        return kept & ~(os.O_SYNC | os.O_DSYNC) if self.stack.volatile else kept

    def open(self, inode: Inode, flags: int, kill_priv: bool = False) -> FileHandle:
        """Open a regular file. To write means to copy it up, except for what O_TRUNC cuts off anyway.

        `kill_priv`: setuid and setgid bits go, since the caller who cuts it may not keep them (CAP_FSETID).
        """
        if not isinstance(inode, FileInode):
            raise failed(errno.EISDIR)
        if inode.kind != stat.S_IFREG:
            raise failed(errno.ELOOP if inode.kind == stat.S_IFLNK else errno.ENXIO)
        truncate = bool(flags & os.O_TRUNC)
        if flags & os.O_ACCMODE != os.O_RDONLY or truncate:
            self._names.refuse_read_only()
            self._copyup.file(inode, keep=0 if truncate else None, to_write=True)
        if truncate:
            with self._data.borrowed(inode) as data:
                if data is not None:
                    data.truncate(0)
        if kill_priv:
            with self._data.untouched(inode), self._tree:
                change_attributes(inode, Change(kill_priv=True))
        with self._tree:
            kept = self._file_flags(flags)
            handle = FileHandle(inode, inode.location.open(kept | (flags & os.O_TRUNC)), kept)
            self._data.opened(handle)
        try:
            if handle.is_synchronous and inode.in_upper:
                handle.sync()  # its name, if it was copied up just now
        except BaseException:
            self.release(handle)
            raise
        return handle

    def release(self, handle: FileHandle) -> None:
        self._data.release(handle)

    def read(self, handle: FileHandle, offset: int, size: int) -> bytes | bytearray:
        return handle.read(offset, size)

    def read_cached(self, handle: FileHandle, offset: int, size: int) -> bytearray | None:
        """As `read`, if that waits for no disk; else None."""
        return handle.read_cached(offset, size)

    def write(
        self, handle: FileHandle, offset: int, data: bytes | bytearray | memoryview, kill_priv: bool = False
    ) -> int:
        count = handle.write(offset, data)
        if kill_priv:
            with self._data.untouched(handle.inode), self._tree:
                change_attributes(handle.inode, Change(kill_priv=True), handle.fd)
        return count

    def flush(self, handle: FileHandle) -> None:
        """close(2) of one descriptor of several: everything has reached the real file already."""

    def fsync(self, handle: FileHandle, datasync: bool = False) -> None:
        if handle.inode.in_upper and not self.stack.volatile:
            handle.sync(datasync)

    def fallocate(self, handle: FileHandle, mode: int, offset: int, length: int) -> None:
        handle.fallocate(mode, offset, length)

    def lseek(self, handle: FileHandle, offset: int, whence: int) -> int:
        return handle.content().seek(offset, whence)

    def copy_file_range(self, source: FileHandle, start: int, target: FileHandle, to: int, length: int) -> int:
        """At most a gibibyte at once, as write(2) may write less than it was asked for."""
        return target.copy_in(source.readable(), start, to, min(length, _COPIED_AT_ONCE))

    # Directories

    def opendir(self, inode: Inode) -> DirHandle:
        with self._tree:
            handle = DirHandle(directory_of(inode))
            inode.opened(handle)
            return handle

    def readdir(self, handle: DirHandle, offset: int = 0, numbers: bool = True) -> Iterator[Entry]:
        """The entries after `offset`, which is 0 or that of an entry. Without `numbers` st_ino may be 0."""
        inode = handle.inode
        with self._tree:
            items = handle.items
            if items is None or offset == 0:
                items = handle.take(self.stack.dialect)
            parent = inode.dentry.parent if inode.dentry is not None else inode
        if offset <= 0:
            yield Entry(b".", inode.number, stat.S_IFDIR >> 12, 1)
        if offset <= 1:
            yield Entry(b"..", parent.number, stat.S_IFDIR >> 12, 2)
        for position in range(max(0, offset - 2), len(items)):
            name, kind, number = items[position]
            if not number and numbers:
                with self._tree:
                    number = self._inodes.number_in(inode, name)
            yield Entry(name, number, kind, position + 3)

    def fsyncdir(self, handle: DirHandle, datasync: bool = False) -> None:
        inode = handle.inode
        with self._tree:
            if not inode.in_upper or self.stack.volatile:
                return
            fd = inode.upper.open_for_reading()
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def releasedir(self, handle: DirHandle) -> None:
        with self._tree:
            handle.inode.closed(handle)
            self._inodes.drop_unused(handle.inode)

    # The whole

    def statfs(self) -> os.statvfs_result:
        """The filesystem of the topmost layer."""
        found = list(os.fstatvfs(self.stack.layers[0].root.fd))
        found[9] = min(found[9], self.stack.dialect.longest_name)
        return os.statvfs_result(found)

    def tell_of_changes(self, listener: Callable[[FileInode], None]) -> None:
        """Have a listener told of inodes whose attributes were changed by nobody's request; from any thread."""
        self._data.completion.completed = listener

    def syncfs(self) -> None:
        self._data.sync()

    def close(self) -> None:
        """Give all up: locks, descriptors. What is open cannot be used any more."""
        self._data.close()
        self.stack.close()
