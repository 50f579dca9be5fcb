"""A container's merged tree as a tar: all of it, a part of it, or what its upper layer changes.

Called by the command `export` and by `commit.py`. It reads the layers by the union library, in this process: nothing is
mounted, and it works whatever the state of the container. What is of our own bookkeeping (a directory that was renamed,
a file copied in part) is written out as what it means, so that other tools read it.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

from unionfs.container.storage import DIALECTS, Place
from unionfs.image.overlay import OPAQUE, WHITEOUT
from unionfs.image.packing import Object, add_object
from unionfs.layer.layer import Directory
from unionfs.union.inode import DirInode
from unionfs.union.operations import FileHandle, Inode, Operations

_CHUNK = 1 << 20


@contextmanager
def opened(place: Place, storage: str) -> Iterator[Operations]:
    """The union of a container's layers, its upper one too, to be read."""
    layers = [os.fsencode(path) for path in (place.upper, *place.lower)]
    union = Operations(layers, dialect=DIALECTS[storage], overlaps=True)
    try:
        yield union
    finally:
        union.close()


class Packer:
    """Writes objects of a union to a tar."""

    def __init__(self, union: Operations, tar: tarfile.TarFile) -> None:
        self.union = union
        self.tar = tar
        self.dialect = union.stack.dialect
        self.upper = union.stack.layers[0]
        self._linked: dict[tuple[int, int], str] = {}

    def tree(self, inode: Inode, path: str) -> None:
        """An object under a name, with all that is below it."""
        self._add(inode, path)
        if isinstance(inode, DirInode):
            for name in self._names(inode):
                with self._child(inode, name) as child:
                    self.tree(child, _join(path, name))

    def changes(self) -> None:
        """What the topmost layer changes of those below: a layer in OCI's words."""
        self._changes(self.union.root, "")

    def _changes(self, inode: DirInode, path: str) -> None:
        """Precondition: the topmost layer has this directory."""
        if path:
            self._add(inode, path)
        own = inode.directories[0]
        if path and self._stands_alone(own):
            self._mark(_join(path, os.fsencode(OPAQUE)))
            for name in self._names(inode):
                with self._child(inode, name) as child:
                    self.tree(child, _join(path, name))
            return
        visible, deleted = self.dialect.read(own)
        for name in sorted(deleted - visible.keys()):
            self._mark(_join(path, WHITEOUT.encode() + name))
        for name in sorted(visible):
            with self._child(inode, name) as child:
                if isinstance(child, DirInode):
                    self._changes(child, _join(path, name))
                else:
                    self._add(child, _join(path, name))

    def _stands_alone(self, own: Directory) -> bool:
        """What the layers below have at its path has no part in it: it is opaque, or it was elsewhere (a redirect)."""
        return self.dialect.is_opaque(own) or self.dialect.redirect(own) is not None

    def _names(self, inode: DirInode) -> list[bytes]:
        handle = self.union.opendir(inode)
        try:
            return sorted(entry.name for entry in self.union.readdir(handle) if entry.name not in (b".", b".."))
        finally:
            self.union.releasedir(handle)

    @contextmanager
    def _child(self, inode: DirInode, name: bytes) -> Iterator[Inode]:
        child = self.union.lookup(inode, name)[0]
        try:
            yield child
        finally:
            self.union.forget(child)

    def _mark(self, path: str) -> None:
        add_object(self.tar, Object(path, stat.S_IFREG | 0o644), None, self._linked)

    def _add(self, inode: Inode, path: str) -> None:
        union, st = self.union, self.union.getattr(inode)
        is_link = stat.S_ISLNK(st.mode)
        attributes = {name: union.getxattr(inode, name) for name in union.listxattr(inode)}
        target = os.fsdecode(union.readlink(inode)) if is_link else ""
        found = Object(
            path, st.mode, st.uid, st.gid, st.size, st.mtime_ns, st.rdev, (0, st.ino) if st.nlink > 1 else None, target,
            attributes,
        )  # fmt: skip
        if not stat.S_ISREG(st.mode):
            add_object(self.tar, found, None, self._linked)
            return
        handle = union.open(inode, os.O_RDONLY)
        try:
            add_object(self.tar, found, _Reader(union, handle), self._linked)
        finally:
            union.release(handle)


class _Reader:
    """A file of the union as a stream."""

    def __init__(self, union: Operations, handle: FileHandle) -> None:
        self._union = union
        self._handle = handle
        self._offset = 0

    def read(self, size: int = -1) -> bytes:
        data = bytes(self._union.read(self._handle, self._offset, _CHUNK if size < 0 else size))
        self._offset += len(data)
        return data


def _join(path: str, name: bytes) -> str:
    return f"{path}/{os.fsdecode(name)}" if path and path != "." else os.fsdecode(name)
