"""Identity: which number an object shows (st_ino), and how it keeps that across copy-up and remount.

Called by `inode.py` and `copyup.py`. An object is known by the number of its *origin*, the lower object that it was
copied up from, else by its own. On disk: a copied-up object keeps its origin as the xattr `unionfs.origin`, text
"1:LAYER:INO" (format version, lower layer counted from the bottom so that new layers on top change nothing, inode
number there). In the overlay dialect the kernel's own form stands beside it, `overlay.origin`: u8 0, u8 0xfb, u8 size,
u8 flags, u8 type of the handle, 16 bytes UUID, file handle (fs/overlayfs/overlayfs.h, struct ovl_fb); uppers that the
kernel wrote have that alone.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from unionfs.layer.layer import Layer
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import Overlay
from unionfs.linux import files

_HEADER = struct.Struct("<BBBBB")
_MAGIC = 0xFB
_UUID_SIZE = 16


def identity(layer: Layer, ino: int) -> int:
    """A key that no two real objects share, unlike a number that was folded into 64 bits. Never 0."""
    return (layer.filesystem << 64 | ino) + 1


def number(layer: Layer, ino: int) -> int:
    """What the union, which shows one device, shows for the inode number `ino` of a layer."""
    return (ino + layer.number_offset) & 0xFFFF_FFFF_FFFF_FFFF


class Origins:
    """Reads and writes origins for one stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._uuids: dict[int, bytes] = {}

    def number(self, upper: Location) -> int | None:
        """The number that the origin of an upper object had; None when it has no origin or that cannot be read."""
        dialect = self.stack.dialect
        text = upper.find_xattr(dialect.origin)
        if text is not None:
            return self._number_of_text(text)
        if isinstance(dialect, Overlay):
            handle = upper.find_xattr(dialect.kernel_origin)
            return self._number_of_handle(handle) if handle else None
        return None

    def _number_of_text(self, text: bytes) -> int | None:
        version, layer_number, ino = (*text.split(b":"), b"", b"")[:3]
        if version != b"1" or not layer_number.isdigit() or not ino.isdigit():
            return None
        layer = self.stack.from_bottom(int(layer_number))
        return number(layer, int(ino)) if layer is not None else None

    def _number_of_handle(self, origin: bytes) -> int | None:
        """Ask the lower filesystems for the inode behind the kernel's form. Needs CAP_DAC_READ_SEARCH."""
        start = _HEADER.size + _UUID_SIZE
        if len(origin) <= start or origin[0] != 0 or origin[1] != _MAGIC:
            return None
        for layer in self.stack.layers[1:]:
            with suppress(OSError):
                anchor = layer.root.open_for_reading()
                try:
                    fd = files.open_handle(anchor, origin[4], origin[start:])
                finally:
                    os.close(anchor)
                try:
                    return number(layer, os.fstat(fd).st_ino)
                finally:
                    os.close(fd)
        return None

    def text(self, lower: Location, ino: int) -> bytes:
        """What `unionfs.origin` says of a copy of `lower`, whose inode number is `ino`."""
        return b"1:%d:%d" % (lower.directory.layer.number, ino)

    def kernel_form(self, lower: Location) -> bytes:
        """What `overlay.origin` says: the lower's file handle, or nothing (origin unknown) where it has none."""
        handle = files.file_handle(lower.directory.fd, lower.name)
        if handle is None:
            return b""
        kind, raw = handle
        header = _HEADER.pack(0, _MAGIC, _HEADER.size + _UUID_SIZE + len(raw), 0, kind)
        return header + self._uuid(lower.directory.layer) + raw

    def _uuid(self, layer: Layer) -> bytes:
        if layer.filesystem not in self._uuids:
            fd = layer.root.open_for_reading()
            try:
                self._uuids[layer.filesystem] = files.filesystem_uuid(fd)
            finally:
                os.close(fd)
        return self._uuids[layer.filesystem]
