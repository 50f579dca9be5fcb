"""The block map: which blocks of a partly copied file are in the upper layer.

Used by `partial.py`; it does no I/O. A file that was copied up in part is a sparse file of full size in the upper and
this map. What the map says of a byte at `offset`:

    offset >= watermark             the upper has it: the file was made longer, or shorter and longer again
    its block is in the map         the upper has it
    else                            the lower file has it

SEEK_HOLE of the upper is never asked what was copied: a copied hole is a hole too.

On disk: the extended attribute `unionfs.blocks` of the upper file, little-endian, of the same size from the first
write to the last, so that a later one cannot fail for want of room:

    u8  version, 1                         u64 size of the lower file, bytes
    u8  log2 of the block size             u64 watermark, bytes; never above the file's size
    u16 length of the path                 i64 modification time of the lower file, ns since the epoch
    u32 CRC-32 of all, this field as 0     u64 bytes copied from the lower file so far
    u32 lower layer, from the bottom       u64 bytes that were asked to be written so far
                                           16 bytes boot id
    the path of the lower file in its layer
    bitmap of the blocks that are surely on disk, one bit a block, the first block lowest
    bitmap of those that are there: those that are new since the last sync count only under the same boot id

The second bitmap is what makes a crash of the machine harmless: a journaling filesystem may keep the attribute and lose
data that was not synced, and a block without its data would be read as zeros.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

VERSION = 1
SMALLEST_SHIFT = 12
"""Blocks are pages at least."""
MOST_BLOCKS = 8192
"""Blocks of one file at most: two bitmaps of 1 KiB. ext4 has about 4 KiB for all attributes of a file."""
LONGEST_PATH = 1024
_HEADER = struct.Struct("<BBHIIQQqQQ16s")
_CRC_AT = 4


class Origin(NamedTuple):
    """The lower file that a partly copied one goes on in: `layer` counts from the bottom, `path` starts there."""

    layer: int
    path: bytes
    size: int
    mtime_ns: int


class Run(NamedTuple):
    """Bytes from `start` to `end` that one file has: the upper one or the lower one."""

    start: int
    end: int
    in_upper: bool


class BlockMap:
    """`watermark` and the counters are bytes; `have` and `synced` are sets of blocks, as the bits of an integer."""

    __slots__ = ("asked", "copied", "have", "origin", "shift", "synced", "watermark")

    def __init__(self, origin: Origin, watermark: int) -> None:
        """Of a file that was just copied up: no block is there yet, its first `watermark` bytes are the lower's."""
        self.origin = origin
        self.shift = shift_for(origin.size)
        self.watermark = min(watermark, origin.size)
        self.have = self.synced = 0
        self.copied = self.asked = 0

    @property
    def block_size(self) -> int:
        return 1 << self.shift

    @property
    def count(self) -> int:
        """Blocks that the lower file could give something of: those below the watermark."""
        return _blocks(self.watermark, self.shift)

    @property
    def is_complete(self) -> bool:
        wanted = (1 << self.count) - 1
        return self.have & wanted == wanted

    @property
    def is_synced(self) -> bool:
        return not (self.have ^ self.synced) & (1 << self.count) - 1

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Who has the bytes from `start` to `end`, in few long runs."""
        limit = min(end, self.watermark)
        rest = self.have >> (start >> self.shift)
        block = start >> self.shift
        while start < limit:
            in_upper = bool(rest & 1)
            if in_upper:
                length = _trailing_ones(rest)
            elif rest:
                length = _trailing_ones(~rest)
            else:
                length = self.count - block
            block, rest = block + length, rest >> length
            stop = min(block << self.shift, limit)
            if in_upper and stop == limit:
                stop = end
            yield Run(start, stop, in_upper)
            start = stop
        if start < end:
            yield Run(start, end, True)

    def missing(self, start: int, end: int) -> Iterator[Run]:
        """What must be copied so that the blocks which hold the bytes from `start` to `end` are there."""
        start, end = self._down(start), self._up(end)
        return (run for run in self.runs(start, min(end, self.watermark)) if not run.in_upper)

    def torn(self, start: int, end: int) -> list[Run]:
        """What must be copied before the bytes from `start` to `end` are replaced: blocks that are replaced in part."""
        first, last = self._down(start), self._down(end)
        runs = list(self.missing(first, first + 1)) if start > first else []
        if end > last and end < self.watermark and not (runs and last == first):
            runs += self.missing(last, last + 1)
        return runs

    def parts_unsynced(self, start: int, end: int) -> bool:
        """Whether the watermark parts a block that is not surely on disk, and the bytes from `start` to `end` lie on
        both sides of it."""
        mark = self.watermark
        return start < mark < end and mark != self._down(mark) and not self.synced >> (mark >> self.shift) & 1

    def add(self, start: int, end: int) -> bool:
        """The upper has all bytes from `start` to `end` now. Counts the blocks that lie wholly in that, or are cut off
        by the watermark; True when there are new ones."""
        first = self._up(start) >> self.shift
        last = (_blocks(end, self.shift) if end >= self.watermark else end >> self.shift) - first
        before = self.have
        if last > 0:
            self.have |= ((1 << last) - 1) << first
            self.have &= (1 << _blocks(self.origin.size, self.shift)) - 1
        return self.have != before

    def cut(self, size: int) -> None:
        """The file is now `size` bytes long at most: what it may get behind that is its own."""
        self.watermark = min(self.watermark, size)

    def _down(self, offset: int) -> int:
        return offset >> self.shift << self.shift

    def _up(self, offset: int) -> int:
        return _blocks(offset, self.shift) << self.shift

    # On disk

    def pack(self, boot_id: bytes) -> bytes:
        """The attribute's value. `boot_id`, 16 bytes: that of the running machine."""
        origin, length = self.origin, _bitmap_size(self.origin.size, self.shift)
        value = bytearray(
            _HEADER.pack(
                VERSION, self.shift, len(origin.path), 0, origin.layer, origin.size, self.watermark, origin.mtime_ns,
                self.copied, self.asked, boot_id,
            )
            + origin.path
            + self.synced.to_bytes(length, "little")
            + self.have.to_bytes(length, "little")
        )  # fmt: skip
        struct.pack_into("<I", value, _CRC_AT, zlib.crc32(value))
        return bytes(value)

    @classmethod
    def parse(cls, value: bytes, boot_id: bytes) -> BlockMap:
        """Raises ValueError, whose text says what is wrong with the value."""
        if value and value[0] != VERSION:
            raise ValueError(f"of version {value[0]}, and this unionfs knows version {VERSION}")
        if len(value) < _HEADER.size:
            raise ValueError("damaged: it is too short")
        _, shift, path_length, crc, layer, size, watermark, mtime_ns, copied, asked, boot = _HEADER.unpack_from(value)
        plain = bytearray(value)
        struct.pack_into("<I", plain, _CRC_AT, 0)
        if zlib.crc32(plain) != crc:
            raise ValueError("damaged: its checksum is wrong")
        length = _bitmap_size(size, shift) if SMALLEST_SHIFT <= shift < 64 else -1
        start = _HEADER.size + path_length
        if len(value) != start + 2 * length or watermark > size:
            raise ValueError("damaged: its parts do not fit together")
        made = cls(Origin(layer, value[_HEADER.size : start], size, mtime_ns), watermark)
        made.shift, made.copied, made.asked = shift, copied, asked
        made.synced = int.from_bytes(value[start : start + length], "little")
        made.have = made.synced
        if boot == boot_id:
            made.have |= int.from_bytes(value[start + length :], "little")
        return made


def shift_for(size: int) -> int:
    """The logarithm of the block size of a file: it grows with the file, so that its map does not."""
    shift = SMALLEST_SHIFT
    while _blocks(size, shift) > MOST_BLOCKS:
        shift += 1
    return shift


def _blocks(size: int, shift: int) -> int:
    return (size + (1 << shift) - 1) >> shift


def _bitmap_size(size: int, shift: int) -> int:
    return (_blocks(size, shift) + 7) // 8


def _trailing_ones(bits: int) -> int:
    return (~bits & (bits + 1)).bit_length() - 1
