"""Create: new objects in the upper layer, and further names.

Called by `operations.py`, under the tree lock. It promises: a new object is there complete, with its owner, mode and
inherited ACL, or not at all; a whiteout of its name goes in the same step or after it; a new directory over a deleted
one is opaque. Where no owner has to be set and no whiteout is in the way, it is made in place by one system call; else
in the work directory, and published by one rename.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from unionfs.errors import failed
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.whiteout import Overlay
from unionfs.union.attributes import Caller
from unionfs.union.copyup import CopyUp
from unionfs.union.inode import DirInode, FileInode, Inodes

_DEFAULT_ACL = b"system.posix_acl_default"

Made = tuple[FileInode, os.stat_result]
"""A new object, and its attributes: nobody asks for them again."""
Built = TypeVar("Built")
Build = Callable[[Directory, bytes, int], Built]
"""Makes the object: called with a directory, a name and a mode (permission bits)."""


class Wanted(NamedTuple):
    """What a new object should be: type and permission bits, owner, and the default ACL that it inherits. `ours`: what
    this process makes in the upper directory has that owner from the start."""

    mode: int
    uid: int
    gid: int
    acl: bytes | None
    ours: bool


class Creation:
    def __init__(self, inodes: Inodes, copyup: CopyUp) -> None:
        self.inodes = inodes
        self.dialect = inodes.stack.dialect
        self.copyup = copyup
        self._user, self._group = os.geteuid(), os.getegid()

    # One method for each kind

    def file(self, parent: DirInode, name: bytes, flags: int, mode: int, caller: Caller) -> tuple[Made, int]:
        """A regular file, open with `flags`, and its descriptor."""

        def build(directory: Directory, called: bytes, bits: int) -> int:
            return directory.create(called, flags, bits)

        fd, location, st = self._make(parent, name, stat.S_IFREG | mode, caller, build)
        return self._entered(parent, location, st), fd

    def node(self, parent: DirInode, name: bytes, mode: int, rdev: int, caller: Caller) -> Made:
        """A fifo, socket, device or regular file (mknod(2))."""
        if self.dialect.is_reserved_node(mode, rdev):
            raise failed(errno.EPERM, name)

        def build(directory: Directory, called: bytes, bits: int) -> None:
            directory.mknod(called, stat.S_IFMT(mode) | bits, rdev)

        _, location, st = self._make(parent, name, mode, caller, build)
        return self._entered(parent, location, st)

    def symlink(self, parent: DirInode, name: bytes, target: bytes, caller: Caller) -> Made:
        def build(directory: Directory, called: bytes, bits: int) -> None:
            directory.symlink(called, target)

        _, location, st = self._make(parent, name, stat.S_IFLNK | 0o777, caller, build)
        return self._entered(parent, location, st)

    def directory(self, parent: DirInode, name: bytes, mode: int, caller: Caller) -> tuple[DirInode, os.stat_result]:
        """overlayfs marks every new directory inside a merged one; aufs only one that hides something."""
        deleted = self.dialect.hides(self.copyup.directory(parent), name)
        opaque = deleted or (isinstance(self.dialect, Overlay) and bool(parent.lowers))

        def build(directory: Directory, called: bytes, bits: int) -> Directory:
            made = directory.mkdir(called, bits | (0o700 if opaque else 0))
            if opaque:
                self.dialect.set_opaque(made)
            return made

        made, location, st = self._make(parent, name, stat.S_IFDIR | mode, caller, build)
        made.relocate(location.directory, name)
        inode = self.inodes.new_directory(made, st)
        self.inodes.enter(parent, name, inode, True)
        return inode, st

    def temporary(self, parent: DirInode, flags: int, mode: int, caller: Caller) -> tuple[Made, int]:
        """A regular file without a name (O_TMPFILE), on the upper."""
        upper = self.copyup.directory(parent)
        wanted = self._wanted(parent, stat.S_IFREG | mode, caller)
        fd = upper.temporary_file(flags, stat.S_IMODE(wanted.mode))
        try:
            held = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
            location = Location(upper, b"", held)
            st = self._own(location, wanted) or location.stat()
            inode = self.inodes.new_file(location, st)
        except BaseException:
            os.close(fd)
            raise
        inode.temporary = True
        return (inode, st), fd

    def link(self, inode: FileInode, parent: DirInode, name: bytes) -> None:
        """A further name for an object of the upper, or the first one for a file without."""
        self.copyup.keep_findable(inode)
        upper = self.copyup.directory(parent)
        if self.dialect.in_place and self.dialect.hides(upper, name):
            work = self.copyup.work
            aside = work.temporary_name()
            inode.location.link(work.area, aside, inode.kind)
            self.dialect.publish(work.area, aside, upper, name, False)
        else:
            inode.location.link(upper, name, inode.kind)
            self.dialect.unhide(upper, name)
        if inode.temporary:
            inode.location.release()
            inode.location, inode.temporary = Location(upper, name), False
        self.inodes.enter(parent, name, inode, True)
        if inode.has_origin:
            self.copyup.mark_impure(parent)

    # How they are made

    def _entered(self, parent: DirInode, location: Location, st: os.stat_result) -> Made:
        inode = self.inodes.new_file(location, st)
        self.inodes.enter(parent, location.name, inode, True)
        return inode, st

    def _make(
        self, parent: DirInode, name: bytes, mode: int, caller: Caller, build: Build[Built]
    ) -> tuple[Built, Location, os.stat_result]:
        """Build the object, in place or aside; what `build` returned, where the object is, and its attributes."""
        upper = self.copyup.directory(parent)
        hidden = self.dialect.hides(upper, name)
        wanted = self._wanted(parent, mode, caller)
        location = Location(upper, name)
        if (hidden and self.dialect.in_place) or not wanted.ours:
            made, st = self._aside(location, wanted, hidden, build)
            return made, location, st
        made = build(upper, name, stat.S_IMODE(wanted.mode))
        try:
            st = self._own(location, wanted) or location.stat()
        except BaseException:
            self._undo(made, upper, name)
            raise
        if hidden:
            self.dialect.unhide(upper, name)
        return made, location, st

    def _aside(
        self, place: Location, wanted: Wanted, hidden: bool, build: Build[Built]
    ) -> tuple[Built, os.stat_result]:
        """Build the object in the work directory and give it its place."""
        work = self.copyup.work
        if wanted.acl is None:
            return self._published(work.area, place, wanted, hidden, build)
        with work.room(wanted.acl) as room:
            return self._published(room, place, wanted, hidden, build)

    def _published(
        self, room: Directory, place: Location, wanted: Wanted, hidden: bool, build: Build[Built]
    ) -> tuple[Built, os.stat_result]:
        """Its attributes are asked for at the end: to be given its place is a change too, and has its time."""
        upper, name, aside = place.directory, place.name, self.copyup.work.temporary_name()
        made = build(room, aside, stat.S_IMODE(wanted.mode))
        try:
            self._own(Location(room, aside), wanted)
            if hidden:
                self.dialect.publish(room, aside, upper, name, stat.S_ISDIR(wanted.mode))
            else:
                room.move(aside, upper, name)
            return made, place.stat()
        except BaseException:
            self._undo(made, room, aside)
            raise

    def _undo(self, made: object, directory: Directory, name: bytes) -> None:
        if isinstance(made, int):
            os.close(made)
        with suppress(OSError):
            if isinstance(made, Directory):
                self.copyup.work.retire(directory, name)
            else:
                directory.unlink(name)

    # Owner, mode, ACL

    def _inherited(self, parent: DirInode) -> tuple[bytes | None, int | None]:
        """The default ACL of a directory that was copied up, and its group if it passes that on (inode(7), setgid)."""
        if parent.inherited is None:
            st = parent.upper.own_stat()
            acl = parent.upper.here.find_xattr(_DEFAULT_ACL)
            parent.inherited = acl, st.st_gid if st.st_mode & stat.S_ISGID else None
        return parent.inherited

    def _wanted(self, parent: DirInode, mode: int, caller: Caller) -> Wanted:
        """A default ACL takes the umask's place (acl(5))."""
        acl, group = self._inherited(parent)
        if acl is None and not stat.S_ISLNK(mode):
            mode &= ~caller.umask
        if group is not None and stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
        ours = caller.uid == self._user and (group is not None or caller.gid == self._group)
        return Wanted(mode, caller.uid, caller.gid if group is None else group, acl, ours)

    def _own(self, location: Location, wanted: Wanted) -> os.stat_result | None:
        """Set what the making left different; chown(2) takes setuid bits away, so the mode comes last. The object's
        attributes, if nothing was different."""
        st = location.stat()
        owned = (st.st_uid, st.st_gid) == (wanted.uid, wanted.gid)
        if owned and st.st_mode == wanted.mode:
            return st
        if not owned:
            location.chown(wanted.uid, wanted.gid)
        mode = self._mode(st, wanted)
        taken = 0 if owned else mode & (stat.S_ISUID | stat.S_ISGID)
        if stat.S_ISLNK(st.st_mode) or (stat.S_IMODE(st.st_mode) == mode and not taken):
            return st if owned else None
        location.chmod(mode)
        return None

    @staticmethod
    def _mode(st: os.stat_result, wanted: Wanted) -> int:
        """Where an ACL was inherited the kernel has worked out the bits; it can only have taken some away."""
        special = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
        if wanted.acl is None:
            return stat.S_IMODE(wanted.mode)
        return (st.st_mode & 0o777 & wanted.mode) | (wanted.mode & special)
