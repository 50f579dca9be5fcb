"""Hard links that stay links across copy-up.

Called by `inode.py` (lookup) and `copyup.py`/`change.py` (link counts). When a lower object with several names is
copied up, its copy gets a further name in an *index* in the work directory; a lookup of another of the lower names
finds the copy there. The idea and, in the overlay dialect, the format are the kernel's (overlayfs.rst, "Index").

On disk. Overlay dialect: `index/HANDLE`, HANDLE being the hexadecimal of the lower's `overlay.origin`, and the xattr
`overlay.nlink` on the copy, "U+N" or "U-N": the union's link count is the copy's own plus N. Aufs dialect: `links/L-I`
(layer from the bottom, inode number) and the same xattr as `unionfs.nlink`. How many names of a lower object that is
not copied up were deleted is a symbolic link `nlink/L-I` to "-N": a deletion never copies a file up.
"""

from __future__ import annotations

import os
from contextlib import suppress

from unionfs.layer.layer import Directory, Layer
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import Overlay
from unionfs.union.identity import Origins


class HardLinks:
    """The index of one union. `active`: there is an upper, so that links can be broken at all."""

    def __init__(self, stack: Stack, origins: Origins) -> None:
        self.stack = stack
        self.origins = origins
        self.active = stack.work is not None
        if stack.work is not None:
            overlay = isinstance(stack.dialect, Overlay)
            self.index = stack.work.folder(b"index" if overlay else b"links")
            self.counts = stack.work.folder(b"nlink")

    @staticmethod
    def plain_key(layer: Layer, ino: int) -> bytes:
        return b"%d-%d" % (layer.number, ino)

    def key(self, lower: Location, ino: int) -> bytes | None:
        """The name of a lower object in the index; None in a read-only union or where it cannot have one."""
        if not self.active:
            return None
        if not isinstance(self.stack.dialect, Overlay):
            return self.plain_key(lower.directory.layer, ino)
        return self.origins.kernel_form(lower).hex().encode() or None

    def location(self, key: bytes) -> Location:
        return Location(self.index, key)

    def find(self, key: bytes | None) -> Location | None:
        """Where the copy of a lower object is, if it was copied up."""
        return self.location(key) if key is not None and self.index.has(key) else None

    def entry_of(self, upper: Location) -> bytes | None:
        """The index entry that is the same object as `upper`, by the origin that it names."""
        dialect = self.stack.dialect
        if isinstance(dialect, Overlay):
            origin = upper.find_xattr(dialect.kernel_origin)
            key = origin.hex().encode() if origin else None
        else:
            text = upper.find_xattr(dialect.origin)
            key = text[2:].replace(b":", b"-") if text else None
        return key if key and self.index.has(key) else None

    # Link counts

    @staticmethod
    def parse(text: bytes) -> int:
        """The N of "U+N"."""
        with suppress(ValueError):
            return int(text[1:]) if text[:1] == b"U" else 0
        return 0

    def write(self, upper: Location, extra: int) -> None:
        with suppress(OSError):
            upper.setxattr(self.stack.dialect.nlink, b"U%+d" % extra)

    def deleted(self, lower: Location, ino: int) -> int:
        """Minus the number of names of a lower object that were deleted."""
        if not self.active:
            return 0
        name = self.plain_key(lower.directory.layer, ino)
        if not self.counts.has(name):
            return 0
        with suppress(ValueError):
            return int(os.readlink(name, dir_fd=self.counts.fd))
        return 0

    def write_deleted(self, lower: Location, ino: int, extra: int) -> None:
        name = self.plain_key(lower.directory.layer, ino)
        self._replace(self.counts, name, b"%d" % extra)

    def drop_deleted(self, lower: Location, ino: int) -> None:
        name = self.plain_key(lower.directory.layer, ino)
        if self.counts.has(name):
            self.counts.unlink(name)

    def _replace(self, directory: Directory, name: bytes, target: bytes) -> None:
        assert self.stack.work is not None
        aside = self.stack.work.temporary_name()
        self.stack.work.area.symlink(aside, target)
        self.stack.work.area.move(aside, directory, name)
