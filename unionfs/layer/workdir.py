"""The work directory: where objects are built before one rename publishes them, and where what is removed dies.

Called by the union floor. On disk, below the directory the user names (`workdir=`):

    work/        objects under construction and objects being removed; emptied at every mount, so a crash leaves nothing
    index/       overlay dialect: copied-up hard links under the kernel overlayfs's names (hexadecimal file handles)
    links/       aufs dialect: the same, named LAYER-INO of the lower object (LAYER counted from the bottom)
    nlink/       symbolic links LAYER-INO -> number: how many names of a lower hard link were deleted, as -N
    stack.json   the layers of the last mount, for commands that are given the upper alone
    volatile     present while data may be unsynced: the boot id of the mount that left syncs out

It must lie on the upper's filesystem, because rename(2) does not cross filesystems.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from unionfs.layer.layer import Directory, Layer, remove_tree

WhiteoutMaker = Callable[[Directory, bytes], None]
"""How a dialect makes one whiteout object: called with a directory and a name in it."""
_DEFAULT_ACL = b"system.posix_acl_default"


class WorkDirectory:
    """The open work directory of one mount: `area` is work/, `base` the directory that the user named."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.base = layer.root
        self.area = self._folder(b"work", 0o700)
        self._serial = 0
        self._whiteout: bytes | None = None

    def _folder(self, name: bytes, mode: int) -> Directory:
        with suppress(FileExistsError):
            self.base.mkdir(name, mode)
        folder = self.base.child(name)
        if folder.here.find_xattr(_DEFAULT_ACL) is not None:  # what is built there would inherit it
            folder.here.removexattr(_DEFAULT_ACL)
        return folder

    def folder(self, name: bytes) -> Directory:
        """A lasting directory of the work directory (index, links, nlink), made on demand."""
        directory = self._folder(name, 0o700)
        directory.read_names()
        return directory

    def sweep(self) -> int:
        """Remove what a crash left under construction; how many objects that was. `work/incompat` is not ours."""
        left = [name for name in list(self.area.read_names()) if name != b"incompat"]
        for name in left:
            remove_tree(self.area, name)
        return len(left)

    def temporary_name(self) -> bytes:
        self._serial += 1
        return b"#%x" % self._serial

    def remove(self, name: bytes) -> None:
        """Remove what was built or put aside here."""
        remove_tree(self.area, name)

    def retire(self, directory: Directory, name: bytes) -> None:
        """Take a directory tree out of a layer in one step, then remove it."""
        aside = self.temporary_name()
        directory.move(name, self.area, aside)
        self.remove(aside)

    @contextmanager
    def room(self, default_acl: bytes) -> Iterator[Directory]:
        """A directory to create in: what is made there inherits `default_acl`, as it would in its final parent."""
        name = self.temporary_name()
        room = self.area.mkdir(name, 0o700)
        try:
            room.here.setxattr(_DEFAULT_ACL, default_acl)
            yield room
        finally:
            room.close()
            self.remove(name)

    def link_whiteout(self, make: WhiteoutMaker, directory: Directory, name: bytes) -> None:
        """A whiteout at `name`, as a further hard link of one shared object (16 us against 20 for a new inode)."""
        if self._whiteout is None:
            self._new_whiteout(make)
        assert self._whiteout is not None
        try:
            self._link(directory, name)
        except OSError as error:
            if error.errno == errno.EMLINK:
                self.area.unlink(self._whiteout)
                self._new_whiteout(make)
                self._link(directory, name)
            elif error.errno in (errno.EPERM, errno.EOPNOTSUPP):
                make(directory, name)
            else:
                raise

    def _new_whiteout(self, make: WhiteoutMaker) -> None:
        self._whiteout = self.temporary_name()
        make(self.area, self._whiteout)

    def _link(self, directory: Directory, name: bytes) -> None:
        assert self._whiteout is not None
        directory.changing("whiteout", name)
        source, target = self.area.with_other(directory)
        os.link(self._whiteout, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        kind = self.area.names.get(self._whiteout) if self.area.names is not None else None
        if kind is None:
            directory.names = None
        else:
            directory.noted(name, kind << 12)

    def close(self) -> None:
        if self._whiteout is not None:
            with suppress(OSError):
                self.area.unlink(self._whiteout)
        self.area.close()
        self.layer.close()

