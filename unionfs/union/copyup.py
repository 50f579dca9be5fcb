"""Copy-up: what happens at the first change of a lower object.

Called by `operations.py` and the files of changes. It promises: type, owner, mode, times to the nanosecond, extended
attributes, ACLs, holes and hard links survive; parents come first; the copy is built in the work directory and
published by one rename, so that a crash leaves the old state or the new one; only the object's own lock is held while
data is copied, so that nothing else waits.

Lock order: the inode's lock, then the tree lock (see `operations.py`). `directory` and `name` are called under the tree
lock; `file` is not, and takes both itself.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress

from unionfs import events
from unionfs.errors import failed
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.whiteout import Overlay
from unionfs.layer.workdir import WorkDirectory
from unionfs.linux import files
from unionfs.union.dentry import Dentry
from unionfs.union.handle import FileHandle
from unionfs.union.inode import DirInode, FileInode, Inodes

_CHUNK = 8 << 20
"""Bytes copied between two looks at the interrupt check."""
_NO_SUCH_WAY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_thread = threading.local()


def set_interrupt_check(check: Callable[[], bool] | None) -> None:
    """For this thread: what a long copy-up asks between chunks; when it answers True, the copy-up ends with EINTR."""
    _thread.interrupted = check


def _stop_if_interrupted() -> None:
    check = getattr(_thread, "interrupted", None)
    if check is not None and check():
        raise OSError(errno.EINTR, "interrupted while the file was copied up")


class CopyUp:
    def __init__(self, inodes: Inodes, tree: threading.RLock) -> None:
        self.inodes = inodes
        self.stack = inodes.stack
        self.tree = tree

    @property
    def work(self) -> WorkDirectory:
        if self.stack.work is None:
            raise failed(errno.EROFS)
        return self.stack.work

    # Directories

    def directory(self, inode: DirInode) -> Directory:
        """The upper's directory of a merged one, made if need be, its parents first. Under the tree lock."""
        missing = [inode]
        while not missing[-1].in_upper:
            dentry = missing[-1].dentry
            if missing[-1].removed or dentry is None:
                raise failed(errno.ENOENT)
            missing.append(dentry.parent)
        for one in reversed(missing[:-1]):
            self._copy_directory(one)
        return inode.upper

    def _copy_directory(self, inode: DirInode) -> None:
        work, dentry, source = self.work, inode.dentry, inode.directories[0]
        assert dentry is not None
        aside = work.temporary_name()
        made = work.area.mkdir(aside, 0o700)
        copy = Location(work.area, aside)
        try:
            self._copy_all_attributes(source.here, copy, source.own_stat())
            self._put(copy, dentry.parent.upper, dentry)
        except BaseException:
            with suppress(OSError):
                work.area.rmdir(aside)
            raise
        made.relocate(dentry.parent.upper, dentry.name)
        inode.directories.insert(0, made)

    def _put(self, copy: Location, parent: Directory, dentry: Dentry) -> None:
        """Publish a copy under its name. The parent's times are not those of a change that a user made."""
        before = parent.own_stat()
        with parent.let_in():
            copy.directory.move(copy.name, parent, dentry.name)
        parent.here.set_times(before.st_atime_ns, before.st_mtime_ns)
        dentry.in_upper = True
        self.mark_impure(dentry.parent)

    def mark_impure(self, parent: DirInode) -> None:
        """overlayfs.rst: a directory that holds copied-up objects says so, for the kernel's readdir."""
        dialect = self.stack.dialect
        if isinstance(dialect, Overlay) and not parent.impure:
            parent.impure = True
            with suppress(OSError):
                parent.upper.here.setxattr(dialect.base + b"impure", b"y")

    # Everything else

    def file(self, inode: FileInode, keep: int | None = None) -> None:
        """Copy an object up, unless it is already; of a regular file's data the first `keep` bytes only.

        A copy that is shorter for that is a change, and has the present time.
        """
        if inode.in_upper:
            return
        with self.tree:
            lock = inode.lock
        with lock:
            if inode.in_upper:
                return
            with self.tree:
                source = inode.location
                st = source.stat()
                aside, data = self._begin(source, st)
            copy = Location(self.work.area, aside)
            try:
                if data is not None:
                    self._copy_data(data, st, keep)
                with self.tree:
                    self._copy_all_attributes(source, copy, st)
                    if keep is not None and keep != st.st_size:
                        copy.set_times(None, files.UTIME_NOW)
                    self._publish(inode, copy, st)
            except BaseException:
                with self.tree, suppress(OSError):
                    self.work.area.unlink(aside)
                raise
            finally:
                if data is not None:
                    os.close(data[0])
                    os.close(data[1])
            if events.listeners:
                size = st.st_size if keep is None else min(keep, st.st_size)
                events.emit("copy-up", inode=inode.number, bytes=size if data is not None else 0)

    def _begin(self, source: Location, st: os.stat_result) -> tuple[bytes, tuple[int, int] | None]:
        """A new object of the same type in the work directory; for a regular file (source, target) descriptors too."""
        area, aside = self.work.area, self.work.temporary_name()
        if stat.S_ISREG(st.st_mode):
            data = self.open_data(source, os.O_RDONLY)
            try:
                return aside, (data, area.create(aside, os.O_RDWR, 0o600))
            except BaseException:
                os.close(data)
                raise
        if stat.S_ISLNK(st.st_mode):
            area.symlink(aside, source.readlink())
        else:
            area.mknod(aside, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev)
        return aside, None

    def open_data(self, location: Location, flags: int) -> int:
        """A descriptor of a regular file. Raises EIO for one that the kernel copied up without its data (metacopy): it
        would be read as zeros."""
        if self.stack.dialect.lacks_data(location):
            shown = os.fsdecode(location.path)
            events.error(f"{shown} has no data of its own (metacopy): write to it once through the kernel's overlayfs")
            raise failed(errno.EIO, location.path)
        return location.open(flags)

    def _copy_data(self, data: tuple[int, int], st: os.stat_result, keep: int | None) -> None:
        source, target = data
        if keep is None and files.clone_data(target, source):
            return
        length = st.st_size if keep is None else min(keep, st.st_size)
        os.ftruncate(target, length)
        copy_ranges(source, target, length)
        if not self.stack.volatile and length:
            os.fsync(target)

    def _copy_all_attributes(self, source: Location, copy: Location, st: os.stat_result) -> None:
        """And the origin. The mode comes after all that it may forbid its owner, the times last."""
        self._note_origin(source, copy, st)
        self.copy_attributes(source, copy, st)
        copy.set_times(st.st_atime_ns, st.st_mtime_ns)

    def copy_attributes(self, source: Location, copy: Location, st: os.stat_result | None = None) -> None:
        """Owner, extended attributes and mode: the owner first, since a change of it takes modes and capabilities."""
        st = st or source.stat()
        made = copy.stat()
        if (made.st_uid, made.st_gid) != (st.st_uid, st.st_gid):
            self._chown(copy, st)
        self._copy_xattrs(source, copy)
        if not stat.S_ISLNK(st.st_mode):
            copy.chmod(stat.S_IMODE(st.st_mode))

    def _chown(self, copy: Location, st: os.stat_result) -> None:
        try:
            copy.chown(st.st_uid, st.st_gid)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL) or os.geteuid() == 0 == st.st_uid:
                raise
            events.info(f"the copy of an object of user {st.st_uid} belongs to user {os.geteuid()}: no right to chown")

    def _copy_xattrs(self, source: Location, copy: Location) -> None:
        for name in source.listxattr():
            if self.stack.dialect.is_mark(name):
                continue
            value = source.find_xattr(name)
            if value is None:
                continue
            try:
                copy.setxattr(name, value)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                    raise
                events.info(f"the attribute {os.fsdecode(name)} was not copied up: {error.strerror}")

    def _note_origin(self, source: Location, copy: Location, st: os.stat_result) -> None:
        if not self.stack.xattrs:
            return
        dialect = self.stack.dialect
        with suppress(OSError):
            copy.setxattr(dialect.origin, self.inodes.origins.text(source, st.st_ino))
        if isinstance(dialect, Overlay):
            with suppress(OSError):
                copy.setxattr(dialect.kernel_origin, self.inodes.origins.kernel_form(source))

    def _publish(self, inode: FileInode, copy: Location, st: os.stat_result) -> None:
        """Give the finished copy its name, or none when all its names were deleted meanwhile."""
        names = st.st_nlink + inode.nlink_extra
        dentry, extra = inode.dentry, 0
        key = inode.index_key if names > 0 else None
        hardlinks = self.inodes.hardlinks
        if key is not None:
            # Counted from here as if the index were its only name: a crash may leave too high a count, never one that
            # lets the index entry go while names still need it.
            extra = names - 1
            hardlinks.write(copy, extra)
            copy.link(hardlinks.index, key)
        if dentry is None:
            location = hardlinks.location(key) if key is not None else copy
            if key is None:
                copy.hold()
            self.work.area.unlink(copy.name)
        else:
            parent = self.directory(dentry.parent)
            self._put(copy, parent, dentry)
            location = Location(parent, dentry.name)
            if key is not None:
                location, extra = hardlinks.location(key), names - 2
                hardlinks.write(location, extra)
        if key is not None:
            hardlinks.drop_deleted(inode.location, st.st_ino)
        inode.nlink_extra = extra
        self._switch(inode, location)

    def name(self, inode: FileInode, dentry: Dentry) -> None:
        """Give a copied-up hard link its name in the upper, which a lower layer alone had. Under the tree lock."""
        parent, aside = self.directory(dentry.parent), self.work.temporary_name()
        inode.location.link(self.work.area, aside)
        self._put(Location(self.work.area, aside), parent, dentry)
        inode.nlink_extra -= 1
        self.inodes.hardlinks.write(inode.location, inode.nlink_extra)

    def _switch(self, inode: FileInode, location: Location) -> None:
        """From here on the object is its copy, for open descriptors too: dup2(2) replaces each at once."""
        for handle in inode.handles or ():
            if isinstance(handle, FileHandle):
                handle.switch(location)
        inode.location, inode.in_upper = location, True
        self.inodes.copied_up(inode, location.stat())


def copy_ranges(source: int, target: int, length: int) -> None:
    """Copy the first `length` bytes between two descriptors, holes left as holes (lseek(2), SEEK_DATA)."""
    position = 0
    while position < length:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
            end = min(os.lseek(source, start, os.SEEK_HOLE), length)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            start, end = position, length
        if start < length:
            copy_range(source, target, start, end)
        position = max(end, position + 1)


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy the bytes from `start` to `end` to the same place, in the kernel where it can."""
    in_kernel = True
    while start < end:
        _stop_if_interrupted()
        size = min(end - start, _CHUNK)
        if in_kernel:
            try:
                done = os.copy_file_range(source, target, size, start, start)
            except OSError as error:
                if error.errno not in _NO_SUCH_WAY:
                    raise
                in_kernel = False
                continue
            if done == 0:
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(size, 1 << 20), start)
            if not data:
                return
            done = os.pwrite(target, data, start)
        start += done
