"""Inodes: the objects of the merged tree, and the table of those that somebody holds.

Called by `operations.py` and the files of changes, under the tree lock. It promises: one real object is one `Inode` as
long as anybody refers to it, whatever name it was reached by; its number stays the same (see `identity.py`).

References. Each lookup's answer adds one; `forget` gives back. An inode without references, open handles or known
children leaves the table, and its dentries with it.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.dentry import Dentry
from unionfs.union.hardlinks import HardLinks
from unionfs.union.identity import Origins, identity, number
from unionfs.union.lookup import Found, find

if TYPE_CHECKING:
    from unionfs.union.handle import Handle
    from unionfs.union.partial import PartialFile


class Inode:
    """What the engines hold. `number` is st_ino, `kind` the type bits of the mode."""

    __slots__ = ("_lock", "dentry", "handles", "in_upper", "kind", "number", "references")

    def __init__(self, number: int, kind: int, in_upper: bool) -> None:
        self.number = number
        self.kind = kind
        self.in_upper = in_upper
        """Whether the upper has the object, or one of the directories that are merged. Once it has, it always will."""
        self.references = 0
        self.dentry: Dentry | None = None
        """A name of the object; None for the root and for what has no known name."""
        self.handles: dict[Handle, None] | None = None
        """The open handles; None when there never was one, which saves memory for the many."""
        self._lock: threading.RLock | None = None

    @property
    def location(self) -> Location:
        """The real object that gives the attributes now."""
        raise NotImplementedError

    def stat(self) -> os.stat_result:
        """The attributes of the real object."""
        return self.location.stat()

    @property
    def is_copied(self) -> bool:
        """Whether it is a copy of a lower object, or a directory merged with one."""
        raise NotImplementedError

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR

    @property
    def lock(self) -> threading.RLock:
        """Held while the object is copied up. Made when first asked for, under the tree lock."""
        if self._lock is None:
            self._lock = threading.RLock()
        return self._lock

    def opened(self, handle: Handle) -> None:
        if self.handles is None:
            self.handles = {}
        self.handles[handle] = None

    def closed(self, handle: Handle) -> None:
        if self.handles is not None:
            self.handles.pop(handle, None)


class DirInode(Inode):
    """A merged directory: `directories` are the real ones, topmost first."""

    __slots__ = ("children", "directories", "impure", "inherited", "removed")

    def __init__(self, number: int, directories: list[Directory]) -> None:
        super().__init__(number, stat.S_IFDIR, directories[0].layer.writable)
        self.directories = directories
        self.children: dict[bytes, Dentry] = {}
        self.removed = False
        self.impure = False
        self.inherited: tuple[bytes | None, int | None] | None = None
        """What new objects in it inherit: the POSIX default ACL, and the group (setgid); None: not read yet."""

    @property
    def location(self) -> Location:
        return self.directories[0].here

    def stat(self) -> os.stat_result:
        return self.directories[0].own_stat()

    @property
    def is_copied(self) -> bool:
        return bool(self.lowers)

    @property
    def upper(self) -> Directory:
        """The upper's real directory. Precondition: the directory was copied up."""
        assert self.in_upper
        return self.directories[0]

    @property
    def lowers(self) -> list[Directory]:
        return self.directories[1:] if self.in_upper else self.directories


class FileInode(Inode):
    """Anything but a directory."""

    location: Location  # a plain attribute, which also holds the data
    __slots__ = (
        *("borrowers", "data", "has_no_capabilities", "has_origin", "identity", "index_key", "is_changing"),
        *("is_whole", "location", "lower_identity", "more_dentries", "nlink_extra", "temporary"),
    )

    def __init__(self, number: int, kind: int, location: Location, in_upper: bool) -> None:
        super().__init__(number, kind, in_upper)
        self.location = location
        self.has_origin = False
        """Whether it is a copy of a lower object."""
        self.is_whole = False
        """Whether the upper is known to have all its data; once it has, it always will. False says nothing."""
        self.has_no_capabilities = False
        """It is known to have no attribute security.capability. False says nothing."""
        self.is_changing = False
        """Its data is about to be changed, so that no open file may stay with the lower one (`snapshot.py`)."""
        self.temporary = False
        """Made without a name (O_TMPFILE), so that it may be given one."""
        self.data: PartialFile | None = None
        """Its bytes while it is open, if some of them are in another file than `location`."""
        self.borrowers = 0
        """How many calls use `data` just now, besides the open handles."""
        self.identity = 0
        self.lower_identity = 0
        self.more_dentries: list[Dentry] | None = None
        self.index_key: bytes | None = None
        """Its name in the index of hard links, when the lower object has several names."""
        self.nlink_extra = 0
        """What is added to the real object's link count to give the union's."""

    @property
    def is_copied(self) -> bool:
        return self.has_origin

    def forget_data(self, data: PartialFile) -> None:
        """All bytes are at `location` now, or nobody needs them any more."""
        if self.data is data:
            self.data = None

    def dentries(self) -> list[Dentry]:
        if self.dentry is None:
            return []
        return [self.dentry, *self.more_dentries] if self.more_dentries else [self.dentry]

    def add_dentry(self, dentry: Dentry) -> None:
        if self.dentry is None:
            self.dentry = dentry
        elif self.more_dentries is None:
            self.more_dentries = [dentry]
        else:
            self.more_dentries.append(dentry)

    def remove_dentry(self, dentry: Dentry) -> None:
        if self.more_dentries is None:
            if self.dentry is dentry:
                self.dentry = None
            return
        rest = [other for other in self.dentries() if other is not dentry]
        self.dentry = rest[0] if rest else None
        self.more_dentries = rest[1:] or None

    def is_at(self, directory: Directory, name: bytes) -> bool:
        """Whether `location` is that name."""
        return self.location.fd < 0 and self.location.directory is directory and self.location.name == name

    def settle(self, location: Location) -> None:
        """It has a name again: a descriptor for each object would be too many."""
        self.location.release()
        self.location = location

    def link_count(self) -> int:
        return max(0, self.location.stat().st_nlink + self.nlink_extra)


class Inodes:
    """The table. `root` is always there."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.origins = Origins(stack)
        self.hardlinks = HardLinks(stack, self.origins)
        self.by_identity: dict[int, FileInode] = {}
        top = stack.layers[0]
        self.root = DirInode(number(top, top.root.own_stat().st_ino), [layer.root for layer in stack.layers])
        self.root.references = 1
        self._stop_at_opaque_root()

    def _stop_at_opaque_root(self) -> None:
        for position, directory in enumerate(self.root.directories):
            if self.stack.dialect.is_opaque(directory):
                del self.root.directories[position + 1 :]
                return

    # Names

    def lookup(self, parent: DirInode, name: bytes) -> Dentry | None:
        """The dentry of `name`, from the table or from the layers; None: there is no such name."""
        return self.find(parent, name)[0]

    def find(self, parent: DirInode, name: bytes) -> tuple[Dentry | None, os.stat_result | None]:
        """The same, with what the search found out of the object's attributes, if it is that of its location."""
        dentry = parent.children.get(name)
        if dentry is not None or parent.removed:
            return dentry, None
        found = find(self.stack, parent.directories, name)
        if found is None:
            return None, None
        in_upper = found.where.layer.writable
        if found.directories:
            shown = self._shown_number(found, Location(found.where, found.name))
            return self.enter(parent, name, DirInode(shown, found.directories), in_upper), found.stat
        inode = self._file(found)
        dentry = self.enter(parent, name, inode, in_upper)
        return dentry, found.stat if inode.is_at(found.where, found.name) else None

    def number_in(self, parent: DirInode, name: bytes) -> int:
        """The number of what has a name in the upper, which may be a copy; any will do for a name that is gone."""
        dentry = self.lookup(parent, name)
        if dentry is None:
            return parent.number
        number = dentry.inode.number
        self.drop_unused(dentry.inode)
        return number

    def enter(self, parent: DirInode, name: bytes, inode: Inode, in_upper: bool) -> Dentry:
        """Note that `name` in `parent` is `inode`."""
        dentry = Dentry(parent, name, inode, in_upper)
        parent.children[name] = dentry
        if isinstance(inode, FileInode):
            inode.add_dentry(dentry)
        else:
            inode.dentry = dentry
        return dentry

    def leave(self, dentry: Dentry) -> None:
        """Note that the name is gone; its inode lives on while somebody holds it."""
        dentry.parent.children.pop(dentry.name, None)
        if isinstance(dentry.inode, FileInode):
            dentry.inode.remove_dentry(dentry)
        else:
            dentry.inode.dentry = None
        self.drop_unused(dentry.inode)
        self.drop_unused(dentry.parent)

    def move(self, dentry: Dentry, parent: DirInode, name: bytes) -> None:
        """Note that the name was renamed, in the upper. What had the new name has left before."""
        old = dentry.parent
        if old.children.get(dentry.name) is dentry:
            del old.children[dentry.name]
        dentry.parent, dentry.name, dentry.in_upper = parent, name, True
        parent.children[name] = dentry
        if old is not parent:
            self.drop_unused(old)

    # Objects

    def _file(self, found: Found) -> FileInode:
        layer, st = found.where.layer, found.stat
        key = identity(layer, st.st_ino)
        inode = self.by_identity.get(key)
        if inode is not None and inode.kind == stat.S_IFMT(st.st_mode):
            if inode.location.fd >= 0 and layer.writable:
                inode.settle(Location(found.where, found.name))
            return inode
        location, in_upper = Location(found.where, found.name), layer.writable
        index_key = None
        if not in_upper and st.st_nlink > 1:
            index_key = self.hardlinks.key(location, st.st_ino)
            indexed = self.hardlinks.find(index_key)
            if indexed is not None:
                known = self.by_identity.get(identity(indexed.directory.layer, indexed.stat().st_ino))
                if known is not None:
                    known.lower_identity = key
                    self.by_identity[key] = known
                    return known
                location, in_upper = indexed, True
        inode = FileInode(number(layer, st.st_ino), stat.S_IFMT(st.st_mode), location, in_upper)
        inode.index_key = index_key
        if in_upper:
            self._join_upper(inode, found, location)
        elif index_key is not None:
            inode.nlink_extra = self.hardlinks.deleted(location, st.st_ino)
        self.register(inode, key)
        return inode

    def _join_upper(self, inode: FileInode, found: Found, location: Location) -> None:
        """A copied-up hard link is reached by its index entry, which keeps its place whatever its names do."""
        origin = self.origins.number(location) if self.stack.xattrs else None
        if origin is not None:
            inode.number, inode.has_origin = origin, True
        may_be_indexed = self.hardlinks.active and found.stat.st_nlink > 1
        text = location.find_xattr(self.stack.dialect.nlink) if may_be_indexed else None
        if text is None:
            return
        inode.nlink_extra = self.hardlinks.parse(text)
        if inode.index_key is None:
            inode.index_key = self.hardlinks.entry_of(location)
        if inode.index_key is not None:
            inode.location = self.hardlinks.location(inode.index_key)
        upper = inode.location.stat()
        self.register(inode, identity(inode.location.directory.layer, upper.st_ino))

    def _shown_number(self, found: Found, location: Location) -> int:
        if location.directory.layer.writable and self.stack.xattrs:
            origin = self.origins.number(location)
            if origin is not None:
                return origin
        return number(found.where.layer, found.stat.st_ino)

    def register(self, inode: FileInode, key: int) -> None:
        self.by_identity[key] = inode
        if inode.identity:
            inode.lower_identity = inode.identity
        inode.identity = key

    def copied_up(self, inode: FileInode, st: os.stat_result) -> None:
        """The object was copied up: it is known by its upper's inode too."""
        assert self.stack.upper is not None
        inode.has_origin = True
        self.register(inode, identity(self.stack.upper, st.st_ino))

    def new_file(self, location: Location, st: os.stat_result) -> FileInode:
        """The inode of an object that was just made in the upper."""
        layer = location.directory.layer
        inode = FileInode(number(layer, st.st_ino), stat.S_IFMT(st.st_mode), location, True)
        inode.is_whole = inode.has_no_capabilities = True
        self.register(inode, identity(layer, st.st_ino))
        return inode

    def new_directory(self, directory: Directory, st: os.stat_result) -> DirInode:
        return DirInode(number(directory.layer, st.st_ino), [directory])

    # Lower paths

    def lower_path(self, inode: DirInode) -> bytes | None:
        """Under which path the lower layers alone know this directory; None when they do not have it."""
        names: list[bytes] = []
        while inode is not self.root:
            if not inode.lowers or inode.dentry is None:
                return None
            redirect = self.stack.dialect.redirect(inode.upper) if inode.in_upper else None
            names.append(redirect or inode.dentry.name)
            if names[-1].startswith(b"/"):
                break
            inode = inode.dentry.parent
        return os.path.join(b"/", *reversed(names))

    # References

    def forget(self, inode: Inode, count: int) -> None:
        inode.references -= count
        self.drop_unused(inode)

    def drop_unused(self, inode: Inode) -> None:
        """Take an inode that nobody needs out of the table, and then its parents."""
        while inode.references <= 0 and not inode.handles and inode is not self.root:
            if isinstance(inode, DirInode):
                if inode.children:
                    return
                dentries = [inode.dentry] if inode.dentry else []
                inode.dentry = None
                for directory in inode.directories:
                    directory.close()
            else:
                assert isinstance(inode, FileInode)
                dentries = inode.dentries()
                inode.dentry = inode.more_dentries = None
                self._unregister(inode)
            if not dentries:
                return
            for dentry in dentries:
                if dentry.parent.children.get(dentry.name) is dentry:
                    del dentry.parent.children[dentry.name]
            for dentry in dentries[1:]:
                self.drop_unused(dentry.parent)
            inode = dentries[0].parent

    def _unregister(self, inode: FileInode) -> None:
        for key in (inode.identity, inode.lower_identity):
            if self.by_identity.get(key) is inode:
                del self.by_identity[key]
        inode.location.release()
