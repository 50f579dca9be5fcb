"""Inodes: the objects of the merged tree, and the table of those that somebody holds.

Called by `operations.py`, under the tree lock. It promises: one real object is one `Inode` as long as anybody refers to
it, whatever name it was reached by; its number (st_ino) stays the same across copy-up and remount.

Numbers. An object is known by the number of its *origin*, the lower object that it was copied up from, else by its own.
A copied-up object keeps its origin as the xattr `unionfs.origin`, text "1:LAYER:INO" (format version, lower layer
counted from the bottom so that new layers on top change nothing, inode number there); uppers written by the kernel's
overlayfs have its file handle in `overlay.origin` instead. Layers on one filesystem as the top layer give their
numbers unchanged; further filesystems get theirs moved up by 2**48.

References. Each lookup's answer adds one; `forget` gives back. An inode without references, open handles or known
children leaves the table, and its dentries with it.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from contextlib import suppress

from unionfs.layer.layer import Directory, Layer, Location
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import Overlay
from unionfs.linux import files
from unionfs.union.dentry import Dentry
from unionfs.union.hardlinks import HardLinks
from unionfs.union.lookup import Found, find, resolve

_FILESYSTEM_SHIFT = 48


class Inode:
    """What the engines hold. `number` is st_ino, `kind` the type bits of the mode."""

    __slots__ = ("_lock", "dentry", "handles", "kind", "number", "references")

    def __init__(self, number: int, kind: int) -> None:
        self.number = number
        self.kind = kind
        self.references = 0
        self.dentry: Dentry | None = None
        """A name of the object; None for the root and for what has no known name."""
        self.handles: list[object] = []
        self._lock: threading.RLock | None = None

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR

    @property
    def mode_type(self) -> int:
        return self.kind

    @property
    def lock(self) -> threading.RLock:
        """Held while the object is copied up or its block map changes. Made when first asked for, under the tree lock."""
        if self._lock is None:
            self._lock = threading.RLock()
        return self._lock


class DirInode(Inode):
    """A merged directory: `directories` are the real ones, topmost first."""

    __slots__ = ("children", "default_acl", "directories", "impure", "removed")

    def __init__(self, number: int, directories: list[Directory]) -> None:
        super().__init__(number, stat.S_IFDIR)
        self.directories = directories
        self.children: dict[bytes, Dentry] = {}
        self.removed = False
        self.impure = False
        self.default_acl: bytes | None | bool = False
        """The POSIX default ACL that new objects inherit; False: not read yet."""

    @property
    def in_upper(self) -> bool:
        return self.directories[0].layer.writable

    @property
    def upper(self) -> Directory:
        """The upper's real directory. Precondition: the directory was copied up."""
        assert self.in_upper
        return self.directories[0]

    @property
    def lowers(self) -> list[Directory]:
        return self.directories[1:] if self.in_upper else self.directories


class FileInode(Inode):
    """Anything but a directory. `location` is the real object that holds its data now."""

    __slots__ = ("identity", "in_upper", "index_key", "location", "lower_identity", "more_dentries", "nlink_extra")

    def __init__(self, number: int, kind: int, location: Location, in_upper: bool) -> None:
        super().__init__(number, kind)
        self.location = location
        self.in_upper = in_upper
        self.identity = 0
        self.lower_identity = 0
        self.more_dentries: list[Dentry] | None = None
        self.index_key: bytes | None = None
        """Its name in the index of hard links, when the lower object has several names."""
        self.nlink_extra = 0
        """What is added to the real object's link count to give the union's."""

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
        rest = [other for other in self.dentries() if other is not dentry]
        self.dentry = rest[0] if rest else None
        self.more_dentries = rest[1:] or None


class Inodes:
    """The table. `root` is always there."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.hardlinks = HardLinks(stack)
        self.by_identity: dict[int, FileInode] = {}
        top = stack.layers[0]
        self.root = DirInode(self._number(top, top.root.own_stat().st_ino), [layer.root for layer in stack.layers])
        self.root.references = 1
        self._stop_at_opaque_root()

    def _stop_at_opaque_root(self) -> None:
        for position, directory in enumerate(self.root.directories):
            if self.stack.dialect.is_opaque(directory):
                del self.root.directories[position + 1 :]
                return

    # Names

    def lookup(self, parent: DirInode, name: bytes) -> Dentry | None:
        """The dentry of `name`, from the table or from the layers."""
        dentry = parent.children.get(name)
        if dentry is not None or parent.removed:
            return dentry
        found = find(self.stack, parent.directories, name)
        if found is None:
            return None
        if found.directories:
            number = self._number_of(found, Location(found.where, found.name))
            return self.enter(parent, name, DirInode(number, found.directories), found.where.layer.writable)
        return self.enter(parent, name, self._file(found), found.where.layer.writable)

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
        """Note that the name was renamed."""
        old = dentry.parent
        old.children.pop(dentry.name, None)
        dentry.parent, dentry.name, dentry.in_upper = parent, name, True
        parent.children[name] = dentry
        if old is not parent:
            self.drop_unused(old)

    # Objects

    def _file(self, found: Found) -> FileInode:
        layer, st = found.where.layer, found.stat
        identity = self._identity(layer, st.st_ino)
        inode = self.by_identity.get(identity)
        if inode is not None and inode.kind == stat.S_IFMT(st.st_mode):
            return inode
        location, in_upper = Location(found.where, found.name), layer.writable
        key = None
        if not in_upper and st.st_nlink > 1:
            key = self.hardlinks.key(location, st.st_ino)
            indexed = self.hardlinks.find(key)
            if indexed is not None:
                location, in_upper = indexed, True
        number = self._number_of(found, location) if in_upper else self._number(layer, st.st_ino)
        inode = FileInode(number, stat.S_IFMT(st.st_mode), location, in_upper)
        inode.index_key = key
        if in_upper:
            self._join_index(inode, location)
        elif key is not None:
            inode.nlink_extra = self.hardlinks.deleted(location, st.st_ino)
        self.register(inode, identity)
        return inode

    def _join_index(self, inode: FileInode, location: Location) -> None:
        """A copied-up hard link is reached by its index entry, which keeps its place whatever its names do."""
        if not self.hardlinks.active:
            return
        text = location.find_xattr(self.stack.dialect.nlink)
        if text is None:
            return
        inode.nlink_extra = self.hardlinks.parse(text)
        if inode.index_key is None:
            inode.index_key = self.hardlinks.entry_of(location)
        if inode.index_key is not None:
            inode.location = self.hardlinks.location(inode.index_key)
        upper = inode.location.stat()
        self.register(inode, self._identity(inode.location.directory.layer, upper.st_ino))

    def register(self, inode: FileInode, identity: int) -> None:
        self.by_identity[identity] = inode
        if inode.identity:
            inode.lower_identity = inode.identity
        inode.identity = identity

    def copied_up(self, inode: FileInode, st: os.stat_result) -> None:
        """The object was copied up: it is known by its upper's inode too."""
        assert self.stack.upper is not None
        self.register(inode, self._identity(self.stack.upper, st.st_ino))

    def new_file(self, directory: Directory, name: bytes, st: os.stat_result, fd: int = -1) -> FileInode:
        """The inode of an object that was just made in the upper."""
        kind = stat.S_IFMT(st.st_mode)
        inode = FileInode(self._number(directory.layer, st.st_ino), kind, Location(directory, name, fd), True)
        self.register(inode, self._identity(directory.layer, st.st_ino))
        return inode

    def new_directory(self, directory: Directory) -> DirInode:
        return DirInode(self._number(directory.layer, directory.own_stat().st_ino), [directory])

    # Numbers

    def _identity(self, layer: Layer, ino: int) -> int:
        """A key that no two real objects share, unlike a number that was folded into 64 bits."""
        return (layer.filesystem << 64 | ino) + 1

    def _number(self, layer: Layer, ino: int) -> int:
        if not layer.filesystem:
            return ino
        return (ino & (1 << _FILESYSTEM_SHIFT) - 1) | layer.filesystem << _FILESYSTEM_SHIFT

    def _number_of(self, found: Found, location: Location) -> int:
        if location.directory.layer.writable and self.stack.xattrs:
            number = self.origin_number(location)
            if number is not None:
                return number
        return self._number(found.where.layer, found.stat.st_ino)

    def origin_number(self, location: Location) -> int | None:
        """The number that the origin of an upper object had, None when it has no origin or that cannot be read."""
        dialect = self.stack.dialect
        text = location.find_xattr(dialect.origin)
        if text is not None:
            version, layer_number, ino = (*text.split(b":"), b"", b"")[:3]
            if version == b"1" and layer_number.isdigit() and ino.isdigit():
                layer = self.stack.from_bottom(int(layer_number))
                return self._number(layer, int(ino)) if layer is not None else None
        elif isinstance(dialect, Overlay):
            handle = location.find_xattr(dialect.kernel_origin)
            return self._number_of_handle(handle) if handle else None
        return None

    def _number_of_handle(self, origin: bytes) -> int | None:
        """Ask the lower filesystems for the inode behind overlayfs's origin (FUSE notes: u8 0, u8 0xfb, len, flags, type,
        uuid, handle). Needs CAP_DAC_READ_SEARCH."""
        if len(origin) < 22 or origin[:2] != b"\x00\xfb":
            return None
        for layer in self.stack.layers[1:]:
            with suppress(OSError):
                anchor = layer.root.open_for_reading()
                try:
                    fd = files.open_handle(anchor, origin[4], origin[21:])
                finally:
                    os.close(anchor)
                try:
                    return self._number(layer, os.fstat(fd).st_ino)
                finally:
                    os.close(fd)
        return None

    def origin_text(self, location: Location, ino: int) -> bytes:
        """What `unionfs.origin` says of a copy of the lower object `location`."""
        return b"1:%d:%d" % (location.directory.layer.number, ino)

    def kernel_origin(self, location: Location) -> bytes:
        """What `overlay.origin` says: the lower's file handle, or nothing (origin unknown) where it has none."""
        handle = files.file_handle(location.directory.fd, location.name)
        if handle is None:
            return b""
        kind, raw = handle
        uuid = self.hardlinks.uuid(location.directory.layer)
        return struct.pack("<BBBBB", 0, 0xFB, 21 + len(raw), 0, kind) + uuid + raw

    # Lower paths

    def lower_path(self, inode: DirInode) -> bytes | None:
        """Under which path the lower layers alone know this directory; None when they do not have it."""
        if inode is self.root:
            return b"/"
        if not inode.lowers:
            return None
        if inode.in_upper:
            redirect = self.stack.dialect.redirect(inode.directories[0])
            if redirect is not None and redirect.startswith(b"/"):
                return redirect
        else:
            redirect = None
        assert inode.dentry is not None
        above = self.lower_path(inode.dentry.parent)
        return None if above is None else os.path.join(above, redirect or inode.dentry.name)

    def resolve_lower(self, path: bytes) -> list[Directory]:
        lowers = self.stack.layers[1:] if self.stack.upper else self.stack.layers
        return resolve(self.stack, [layer.root for layer in lowers], path)

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
                dentry.parent.children.pop(dentry.name, None)
            for dentry in dentries[1:]:
                self.drop_unused(dentry.parent)
            inode = dentries[0].parent

    def _unregister(self, inode: FileInode) -> None:
        for identity in (inode.identity, inode.lower_identity):
            if self.by_identity.get(identity) is inode:
                del self.by_identity[identity]
        inode.location.release()
