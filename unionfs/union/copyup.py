"""Copy-up: what happens at the first change of a lower object.

Called by `operations.py` and the files of changes. It promises: type, owner, mode, times to the nanosecond, extended
attributes, ACLs, holes and hard links survive; parents come first; the copy is built in the work directory and
published by one rename, so that a crash leaves the old state or the new one; only the object's own lock is held while
data is copied, so that nothing else waits. How much of a file's data is copied is the union's choice (`Amount`).

Lock order: the inode's lock, then the tree lock (see `operations.py`). `directory` and `name` are called under the tree
lock; `file` is not, and takes both itself.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from typing import NamedTuple

from unionfs import events
from unionfs.errors import UnionfsError, did_you_mean, failed
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.whiteout import Overlay
from unionfs.layer.workdir import WorkDirectory
from unionfs.linux import files
from unionfs.union.content import Content
from unionfs.union.dentry import Dentry
from unionfs.union.handle import FileHandle
from unionfs.union.inode import DirInode, FileInode, Inodes
from unionfs.union.partial import PartialFile
from unionfs.union.source import LONGEST_REDIRECT, Sources

COPYUP = ("auto", "whole", "block")
THRESHOLD = 256 << 10
"""Bytes of data from which "auto" copies by block, chosen by benchmarks/copyup_threshold.py."""


class Amount(NamedTuple):
    """How much of a file's data the first change copies. By dialect, `how` means

                aufs                                                  overlay
        whole   all of it                                             all of it
        block   nothing; writing copies blocks (`partial.py`)         refused when the union is opened
        auto    all, by reflink or if it is shorter than              the same; nothing, for a change of attributes
                `threshold` bytes; else as block                      alone (metacopy); to be written to, all of it
    """

    how: str = "auto"
    threshold: int = THRESHOLD

    @classmethod
    def of(cls, dialect: str, how: str | None, threshold: int = THRESHOLD) -> Amount:
        """`how` is None for the dialect's default: auto in the aufs dialect; whole in the overlay dialect, since the
        kernel refuses a file without data unless it is mounted with metacopy=on. Raises UnionfsError."""
        if how is None:
            return cls("whole" if dialect == Overlay.name else "auto", threshold)
        if how not in COPYUP:
            hint = did_you_mean(how, COPYUP) or f"one of {', '.join(COPYUP)}"
            raise UnionfsError(f"copyup={how}", "there is no such copyup", hint)
        if how == "block" and dialect == Overlay.name:
            why = "the overlay dialect has no block maps: the kernel would read zeros"
            raise UnionfsError("copyup=block", why, "write copyup=auto, or dialect=aufs")
        if threshold < 0:
            raise UnionfsError(f"copyup_threshold={threshold}", "is less than 0", "give a number of bytes")
        return cls(how, threshold)


class Copied:
    """How many objects were copied up, and how many bytes of data with that; blocks that came later not counted."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0


class Data(NamedTuple):
    """What a copy-up did with a file's data: `how` is whole (copied), clone (the filesystem shares its blocks) or map
    (an empty block map, or metacopy); `bytes` were copied."""

    how: str
    bytes: int


class _NoRoomForMap(Exception):
    """The filesystem has room for the map or for the file's other attributes, not for both."""


class CopyUp:
    def __init__(self, inodes: Inodes, tree: threading.RLock, amount: Amount) -> None:
        self.inodes = inodes
        self.stack = inodes.stack
        self.tree = tree
        self.amount = amount
        self.sources = Sources(inodes.stack)
        self.copied = Copied()

    @property
    def work(self) -> WorkDirectory:
        if self.stack.work is None:
            raise failed(errno.EROFS)
        return self.stack.work

    # Directories

    def directory(self, inode: DirInode) -> Directory:
        """The upper's directory of a merged one, made if need be, its parents first. Under the tree lock."""
        if inode.in_upper:
            return inode.directories[0]
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
        inode.in_upper = True
        if events.listeners:
            events.emit("copy-up", path=dentry.path(), how="directory", bytes=0)

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

    def file(self, inode: FileInode, keep: int | None = None, to_write: bool = False) -> None:
        """Copy an object up, unless it is already; of a regular file's data the first `keep` bytes only. `to_write`: it
        is about to be opened, or cut.

        A copy that is shorter for that is a change, and has the present time.
        """
        if inode.in_upper and not (to_write and isinstance(self.stack.dialect, Overlay)):
            return
        with self.tree:
            lock = inode.lock
        with lock:
            if inode.in_upper:
                if to_write:
                    self._complete_metacopy(inode, keep)
                return
            try:
                copied = self._copy(inode, keep, to_write, self.amount)
            except _NoRoomForMap:
                copied = self._copy(inode, keep, to_write, Amount("whole"))
            self.copied.files += 1
            self.copied.bytes += copied.bytes
            if events.listeners:
                path = inode.dentry.path() if inode.dentry is not None else None
                events.emit("copy-up", path=path, how=copied.how, bytes=copied.bytes)

    def _copy(self, inode: FileInode, keep: int | None, to_write: bool, amount: Amount) -> Data:
        """What that took."""
        with self.tree:
            source = inode.location
            st = source.stat()
            redirect = None if to_write else self._redirect(inode)
            aside, data = self._begin(source, st)
        copy, part, copied = Location(self.work.area, aside), None, Data("whole", 0)
        try:
            if data is not None:
                part, copied = self._copy_data(data, source, st, keep, redirect, amount)
            with self.tree:
                self._copy_all_attributes(source, copy, st, part)
                if keep is not None and keep != st.st_size:
                    copy.set_times(None, files.UTIME_NOW)
                self._publish(inode, copy, st, part)
        except BaseException:
            with self.tree, suppress(OSError):
                self.work.area.unlink(aside)
            raise
        finally:
            if data is not None:
                os.close(data[1])
        return copied

    def _begin(self, source: Location, st: os.stat_result) -> tuple[bytes, tuple[Content, int] | None]:
        """A new object of the same type in the work directory; of a regular file, the source's content and the target's
        descriptor."""
        area, aside = self.work.area, self.work.temporary_name()
        if stat.S_ISREG(st.st_mode):
            content = self.sources.open(source)
            return aside, (content, area.create(aside, os.O_RDWR, 0o600))
        if stat.S_ISLNK(st.st_mode):
            area.symlink(aside, source.readlink())
        else:
            area.mknod(aside, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev)
        return aside, None

    def _copy_data(
        self, data: tuple[Content, int], source: Location, st: os.stat_result, keep: int | None,
        redirect: bytes | None, amount: Amount,
    ) -> tuple[PartialFile | None, Data]:  # fmt: skip
        """Copy data, or not: what knows where the bytes are in the second case, and what was copied."""
        content, target = data
        length = st.st_size if keep is None else min(keep, st.st_size)
        how, threshold = amount
        if keep is None and how != "block" and content.clone_into(target):
            return None, Data("clone", 0)
        if length and how != "whole" and (how == "block" or length >= threshold):
            part = self._make_partial(content, target, source, st, length, redirect)
            if part is not None:
                return part, Data("map", 0)
        os.ftruncate(target, length)
        content.copy(target, 0, length)
        if not self.stack.volatile and length:
            os.fsync(target)
        return None, Data("whole", length)

    def _make_partial(
        self, content: Content, target: int, source: Location, st: os.stat_result, length: int,
        redirect: bytes | None,
    ) -> PartialFile | None:  # fmt: skip
        """In the overlay dialect only with a redirect, and there is none for what is about to be written to."""
        if isinstance(self.stack.dialect, Overlay):
            if redirect is None:
                return None
            return self.sources.make_metacopy(content, target, source, st, redirect)
        return self.sources.make_mapped(content, target, source, st, length)

    def _redirect(self, inode: FileInode) -> bytes | None:
        """The path under which the lower layers know a file, if the dialect has such a mark and it fits into one."""
        if inode.dentry is None or not isinstance(self.stack.dialect, Overlay):
            return None
        parent = self.inodes.lower_path(inode.dentry.parent)
        path = os.path.join(parent, inode.dentry.name) if parent is not None else b""
        return path if 0 < len(path) <= LONGEST_REDIRECT else None

    def _complete_metacopy(self, inode: FileInode, keep: int | None) -> None:
        """All data, or the first `keep` bytes, before anybody writes to a file that was copied up without: no map could
        say what is there."""
        with self.tree:
            data = inode.data = inode.data or self.sources.open_partial(inode.location)
            if data is None:
                return
            inode.borrowers += 1
        try:
            if keep is not None and keep < data.blocks.watermark:
                data.truncate(keep)
            data.complete()
        finally:
            with self.tree:
                inode.borrowers -= 1
                if data.is_finished or not (inode.handles or inode.borrowers):
                    inode.forget_data(data)

    def keep_findable(self, inode: FileInode) -> None:
        """Before a file gets another name: one that goes on below under its own must say so. Under the tree lock."""
        dialect = self.stack.dialect
        if not isinstance(dialect, Overlay) or not inode.in_upper or inode.kind != stat.S_IFREG:
            return
        if inode.is_whole:
            return
        mark = dialect.base + b"redirect"
        if inode.location.find_xattr(dialect.metacopy) is None:
            inode.is_whole = True
            return
        redirect = inode.location.find_xattr(mark)
        if redirect is not None and redirect.startswith(b"/"):
            return
        path = self._redirect(inode)
        if path is None:
            raise failed(errno.EXDEV, inode.location.path)
        inode.location.setxattr(mark, os.path.join(os.path.dirname(path), redirect or os.path.basename(path)))

    def _copy_all_attributes(
        self, source: Location, copy: Location, st: os.stat_result, part: PartialFile | None = None
    ) -> None:
        """And the origin. The mode comes after all that it may forbid its owner, the times last."""
        self._note_origin(source, copy, st)
        try:
            self.copy_attributes(source, copy, st)
        except OSError as error:
            if part is not None and error.errno in (errno.ENOSPC, errno.E2BIG):
                raise _NoRoomForMap from error
            raise
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

    def _publish(self, inode: FileInode, copy: Location, st: os.stat_result, part: PartialFile | None) -> None:
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
            copy.link(hardlinks.index, key, inode.kind)
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
        self._switch(inode, location, part)

    def name(self, inode: FileInode, dentry: Dentry) -> None:
        """Give a copied-up hard link its name in the upper, which a lower layer alone had. Under the tree lock."""
        parent, aside = self.directory(dentry.parent), self.work.temporary_name()
        inode.location.link(self.work.area, aside, inode.kind)
        self._put(Location(self.work.area, aside), parent, dentry)
        inode.nlink_extra -= 1
        self.inodes.hardlinks.write(inode.location, inode.nlink_extra)

    def _switch(self, inode: FileInode, location: Location, part: PartialFile | None) -> None:
        """From here on the object is its copy, for open descriptors too but snapshots: dup2(2) replaces each at once.

        A reader that finds the new descriptor finds out, afterwards at the latest, where the bytes are.
        """
        if part is not None:
            inode.data = part
        for handle in inode.handles or ():
            if isinstance(handle, FileHandle) and handle.below is None:
                handle.switch(location)
        if part is None:
            inode.data = None
        inode.location, inode.in_upper = location, True
        self.inodes.copied_up(inode, location.stat())
