"""Export: the merged tree, or a directory of it, as a directory of its own, with nothing left of layers.

Called by the command `apply --to`, and for volumes that begin with what the image has. It promises: the directory is
there whole or not at all; type, owner, mode, times, attributes, ACLs, holes and hard links are those of the union; no
layer is changed.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from unionfs.changes.transplant import Translation, copy_attributes, transplant
from unionfs.errors import UnionfsError, failed
from unionfs.layer.layer import Directory, Layer, remove_tree
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.inode import DirInode, FileInode, Inodes
from unionfs.union.listing import merge
from unionfs.union.source import Sources

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SUFFIX = b".unionfs-apply"


def export(
    stack: Stack, target: bytes, translation: Translation | None = None, path: bytes = b""
) -> tuple[int, int]:
    """Copy the merged tree, or its directory `path`, to `target`, an absolute path of nothing or of an empty directory.

    Returns how many names and bytes that was. `translation` gives the attributes their names in the copy; by default
    those that the union shows. `path` is taken as it is: no symbolic link in it is followed.
    """
    parent, name = os.path.split(target)
    aside = b"." + name + _SUFFIX
    place = Layer(parent, os.open(parent, _OPEN_FLAGS), 0, 0, True)
    try:
        remove_tree(place.root, aside)
        place.root.mkdir(aside, 0o700)
        try:
            copy = _Copy(stack, translation or _shown(stack))
            copy.directory_at(path, place.root.child(aside))
            _finish(place.root, aside, name, target)
        except BaseException:
            with suppress(OSError):
                remove_tree(place.root, aside)
            raise
    finally:
        place.close()
    return copy.names, copy.bytes


def _finish(parent: Directory, aside: bytes, name: bytes, target: bytes) -> None:
    """rename(2) takes the place of an empty directory, of nothing else."""
    try:
        parent.move(aside, parent, name)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        hint = "name a new directory, or an empty one that is no mount"
        raise UnionfsError(os.fsdecode(target), why, hint) from error


def _shown(stack: Stack) -> Translation:
    dialect = stack.dialect
    return lambda xattr: None if dialect.is_mark(xattr) else dialect.shown(xattr)


class _Copy:
    def __init__(self, stack: Stack, translation: Translation) -> None:
        self.inodes = Inodes(stack)
        self.sources = Sources(stack)
        self.dialect = stack.dialect
        self.translation = translation
        self.names = self.bytes = 0
        self._linked: dict[tuple[int, int], Location] = {}
        """Where the first name of each object with several names was copied to, by its device and inode number."""

    def directory_at(self, path: bytes, target: Directory) -> None:
        inode = self.inodes.root
        for name in filter(None, path.split(b"/")):
            dentry = self.inodes.lookup(inode, name)
            if dentry is None or not isinstance(dentry.inode, DirInode):
                raise failed(errno.ENOTDIR if dentry else errno.ENOENT, path)
            inode = dentry.inode
        self._directory(inode, target)

    def _directory(self, inode: DirInode, target: Directory) -> None:
        inode.references += 1
        for name in sorted(merge(self.dialect, inode.directories)):
            dentry = self.inodes.lookup(inode, name)
            if dentry is None:
                continue
            self.names += 1
            if isinstance(dentry.inode, DirInode):
                made = target.mkdir(name, 0o700)
                self._directory(dentry.inode, made)
                made.close()
            elif isinstance(dentry.inode, FileInode):
                self._file(dentry.inode.location, target, name)
            self.inodes.drop_unused(dentry.inode)
        copy_attributes(inode.location, inode.location.stat(), target.here, self.translation)
        self.inodes.forget(inode, 1)

    def _file(self, source: Location, target: Directory, name: bytes) -> None:
        st = source.stat()
        first = self._linked.get((st.st_dev, st.st_ino))
        if first is not None:
            first.link(target, name)
            return
        transplant(self.sources, source, st, target, name, self.translation)
        if stat.S_ISREG(st.st_mode):
            self.bytes += st.st_size
        if st.st_nlink > 1:
            self._linked[st.st_dev, st.st_ino] = Location(target, name)
