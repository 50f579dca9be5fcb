"""Rename: files and directories of any layer, also over another name, and exchange.

Called by `operations.py`, under the tree lock; a file that has to be copied up first is returned, to be tried again.
It promises: at no moment does the tree show anything but the old state or the new one; a directory that has lower parts
takes a *redirect* along, the path under which they go on (no EXDEV, no recursive copy); a directory without lower parts
that comes to where the layers below have something is made opaque first.
"""

from __future__ import annotations

import errno
import stat

from unionfs.errors import failed
from unionfs.layer.location import Location
from unionfs.layer.whiteout import Overlay
from unionfs.linux import files
from unionfs.union.copyup import CopyUp
from unionfs.union.dentry import Dentry
from unionfs.union.inode import DirInode, FileInode, Inode
from unionfs.union.lookup import find
from unionfs.union.names import Names
from unionfs.union.remove import Removal

_BOTH = files.RENAME_NOREPLACE | files.RENAME_EXCHANGE


class Renaming:
    def __init__(self, names: Names, copyup: CopyUp, removal: Removal) -> None:
        self.names = names
        self.inodes = names.inodes
        self.stack = names.stack
        self.dialect = names.dialect
        self.copyup = copyup
        self.removal = removal

    def renameat2(
        self, parent: Inode, name: bytes, new_parent: DirInode, new_name: bytes, flags: int
    ) -> FileInode | None:
        """Rename as `flags` say; or do nothing and return the file that has to be copied up first, which takes long: it
        has one more reference."""
        old, new = self.names.existing(parent, name), None
        try:
            new = self.inodes.lookup(new_parent, new_name)
            if new is None and not flags & files.RENAME_EXCHANGE:
                self.names.refuse(new_name)
            waiting = self._rename(old, new_parent, new_name, new, flags)
            if waiting is not None:
                waiting.references += 1
            return waiting
        finally:
            self.inodes.drop_unused(old.inode)
            if new is not None:
                self.inodes.drop_unused(new.inode)

    def _rename(
        self, old: Dentry, parent: DirInode, name: bytes, new: Dentry | None, flags: int
    ) -> FileInode | None:
        if flags & ~(files.RENAME_NOREPLACE | files.RENAME_EXCHANGE) or flags == _BOTH:
            raise failed(errno.EINVAL, name)
        exchange = bool(flags & files.RENAME_EXCHANGE)
        if parent.removed or (exchange and new is None):
            raise failed(errno.ENOENT, name)
        if flags & files.RENAME_NOREPLACE and new is not None:
            raise failed(errno.EEXIST, name)
        if new is not None and new.inode is old.inode:
            return None
        self._refuse(old, parent, new, exchange)
        for dentry in (old, new if exchange else None):
            if dentry is not None and isinstance(dentry.inode, FileInode) and not dentry.inode.in_upper:
                return dentry.inode
        if exchange and new is not None:
            self.exchange(old, new)
        else:
            self.rename(old, parent, name, new)
        return None

    def rename(self, old: Dentry, parent: DirInode, name: bytes, replaced: Dentry | None) -> None:
        """Give `old` the name `name` in `parent`, in place of `replaced`."""
        source, target = self.copyup.directory(old.parent), self.copyup.directory(parent)
        self._bring_up(old)
        below = self.removal.is_below(old)
        is_dir = old.inode.is_dir
        if is_dir:
            self._mark(old, parent, name)
        if replaced is not None:
            self.removal.hold(replaced)
            if isinstance(replaced.inode, DirInode) and replaced.inode.in_upper:
                self._clear(replaced)
        self.dialect.move((source, old.name), (target, name), is_dir, below, self.copyup.work)
        if replaced is not None:
            self.removal.gone(replaced)
        self._moved(old, parent, name)

    def exchange(self, one: Dentry, other: Dentry) -> None:
        """RENAME_EXCHANGE: both names stay, their objects change places."""
        first, second = self.copyup.directory(one.parent), self.copyup.directory(other.parent)
        for dentry in (one, other):
            self._bring_up(dentry)
        for dentry, there in ((one, other), (other, one)):
            if dentry.inode.is_dir:
                self._mark(dentry, there.parent, there.name)
        first.move(one.name, second, other.name, files.RENAME_EXCHANGE)
        parent, name = one.parent, one.name
        self._moved(one, other.parent, other.name)
        self._moved(other, parent, name)

    # What is refused (rename(2))

    def _refuse(self, old: Dentry, parent: DirInode, new: Dentry | None, exchange: bool) -> None:
        """Raise what cannot be done at all, before anything is copied up for it."""
        self._refuse_loop(old, parent, errno.EINVAL)
        if new is not None:
            self._refuse_loop(new, old.parent, errno.EINVAL if exchange else errno.ENOTEMPTY)
            if not exchange:
                self._refuse_replacing(old, new)

    def _refuse_loop(self, dentry: Dentry, parent: DirInode, number: int) -> None:
        """A directory cannot become its own ancestor, nor give way to what lies in it."""
        inode: Inode | None = parent if dentry.inode.is_dir else None
        while inode is not None:
            if inode is dentry.inode:
                raise failed(number, dentry.name)
            inode = inode.dentry.parent if inode.dentry is not None else None

    def _refuse_replacing(self, old: Dentry, replaced: Dentry) -> None:
        if not old.inode.is_dir:
            if replaced.inode.is_dir:
                raise failed(errno.EISDIR, replaced.name)
            return
        self.removal.empty_directory(replaced)

    # Steps

    def _bring_up(self, dentry: Dentry) -> None:
        """See that the upper has the name itself. Precondition: a file's object has been copied up."""
        inode = dentry.inode
        if isinstance(inode, DirInode):
            self.copyup.directory(inode)
        elif isinstance(inode, FileInode):
            self.copyup.keep_findable(inode)
            if not dentry.in_upper:
                self.copyup.name(inode, dentry)

    def _mark(self, old: Dentry, parent: DirInode, name: bytes) -> None:
        """Say in the directory where it goes on below, or that it does not. True already where it still is."""
        inode = old.inode
        assert isinstance(inode, DirInode)
        if inode.lowers:
            self._redirect(inode, old, parent)
        elif self._may_hide(parent, name):
            self.dialect.set_opaque(inode.upper)

    def _may_hide(self, parent: DirInode, name: bytes) -> bool:
        """overlayfs marks every directory that comes into a merged one; aufs only one that hides something."""
        if isinstance(self.dialect, Overlay):
            return bool(parent.lowers)
        return bool(parent.lowers) and find(self.stack, parent.lowers, name) is not None

    def _redirect(self, inode: DirInode, old: Dentry, parent: DirInode) -> None:
        """The old name where the parent stays the same, else the path; one that says enough already is kept."""
        if isinstance(self.dialect, Overlay) and self.dialect.prefix == b"user.":
            raise failed(errno.EXDEV, old.name)  # overlayfs itself does not follow redirects in user xattrs
        before = self.dialect.redirect(inode.upper)
        same_parent = old.parent is parent
        if before is not None and (same_parent or before.startswith(b"/")):
            return
        path = old.name if same_parent else self.inodes.lower_path(inode)
        assert path is not None
        try:
            self.dialect.set_redirect(inode.upper, path, self.copyup.work)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ENOSPC, errno.E2BIG, errno.ERANGE):
                raise failed(errno.EXDEV, old.name) from error  # too long a path to be kept: mv(1) copies then
            raise

    def _clear(self, replaced: Dentry) -> None:
        """Put an empty directory that hides what is below in the place of one that holds whiteouts: rename(2) wants
        an empty one."""
        inode, work = replaced.inode, self.copyup.work
        assert isinstance(inode, DirInode)
        if not inode.upper.read_names():
            return
        upper = self.copyup.directory(replaced.parent)
        aside = work.temporary_name()
        fresh = work.area.mkdir(aside, stat.S_IMODE(inode.upper.own_stat().st_mode))
        self.copyup.copy_attributes(inode.location, Location(work.area, aside))
        self.dialect.cut_off(upper, replaced.name, fresh, work)
        work.area.move(aside, upper, replaced.name, files.RENAME_EXCHANGE)
        fresh.close()
        work.remove(aside)

    def _moved(self, dentry: Dentry, parent: DirInode, name: bytes) -> None:
        """Keep the table true: the upper's object is at its new name."""
        inode, target = dentry.inode, parent.upper
        if isinstance(inode, DirInode):
            inode.upper.relocate(target, name)
        elif isinstance(inode, FileInode) and inode.is_at(dentry.parent.upper, dentry.name):
            inode.location = Location(target, name)
        self.inodes.move(dentry, parent, name)
        if inode.is_copied:
            self.copyup.mark_impure(parent)
