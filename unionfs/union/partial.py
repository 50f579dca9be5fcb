"""A partly copied file: some blocks in the upper layer, the others still in the lower file.

Made by `origin.py`, used through the inode by `operations.py`. It promises: a write copies no more than the blocks that
it replaces in part; the map is never ahead of the data, and is written before a change is acknowledged, so that a
killed daemon loses nothing; after a power cut a block is what was synced last, or newer, never zeros and never half of
either. A failed write (a full disk) changes no byte that it does not report.

Order of steps, each of which leaves the old content or the new:

    write, punch, zero     copy the torn blocks; replace the bytes; add the blocks to the map
    make shorter           ftruncate(2); lower the watermark. In between, the watermark is above the size, and counts as
                           the size: it is lowered before the file may grow
    sync                   sync the data; say in the map that its blocks are on disk; sync the map
    the last block         as sync, but the map goes

Reading takes no lock: blocks are only ever added, and a block's bytes are there before the map says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from unionfs import events
from unionfs.errors import failed
from unionfs.linux import files
from unionfs.union.blockmap import BlockMap, Run
from unionfs.union.content import Content

_MOVING = files.FALLOC_COLLAPSE | files.FALLOC_INSERT
_ZEROING = files.FALLOC_PUNCH_HOLE | files.FALLOC_ZERO
BUSY = 64
"""Reads and writes after which a file is in use so much that completing it pays."""
_QUICK = 256 << 10
"""Bytes that are copied in no time, if they are in the page cache."""
_CAPABILITY = "security.capability"


class Record(Protocol):
    """Where the map of a file is kept."""

    def write(self, blocks: BlockMap) -> None:
        """Write it down; raises OSError, and what was written before still stands."""

    def remove(self) -> None:
        """The file is an ordinary one from here on."""


class PartialFile(Content):
    """`fd`: the upper file, open for reading and writing. `below`: the lower file's content. Both end with this."""

    def __init__(self, fd: int, blocks: BlockMap, below: Content, record: Record, durable: bool = True) -> None:
        """`durable`: blocks count after a crash of the machine only when they were synced."""
        self.fd = fd
        self.upper = Content(fd)
        self.blocks = blocks
        self.below = below
        self.is_finished = False
        """All blocks are there and the map is gone: nobody needs this object to find the file's bytes."""
        self.lock = threading.Lock()
        """Held while the file is changed; its place in the order of locks is told in `operations.py`."""
        self.on_busy: Callable[[], object] | None = None
        """Called once, when the file has been read and written BUSY times."""
        self.uses = 0
        self.mtime_ns: int | None = None
        """When the file was modified last, while its real time is that of a copy."""
        self._record = record
        self._durable = durable
        size = os.fstat(fd).st_size
        self._is_stale = blocks.watermark > size
        """What is written down is not all that is known: it is written before anything else is changed."""
        blocks.cut(size)

    # Reading

    def read(self, buffer: memoryview, offset: int, flags: int = 0) -> int:
        """As preadv2(2); with RWF_NOWAIT, BlockingIOError where part of the bytes would have to be waited for."""
        self._note_use()
        done, end = 0, offset + len(buffer)
        for start, stop, in_upper in self.blocks.runs(offset, end):
            content = self.upper if in_upper else self.below
            count = content.read(buffer[done : done + stop - start], start, flags)
            done += count
            if count == stop - start:
                continue
            if in_upper and start + count >= self.size:
                break
            if flags & os.RWF_NOWAIT:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if in_upper:
                return done + (self.read(buffer[done:], offset + done, flags) if count else 0)
            raise OSError(errno.EIO, "the lower file became shorter while it was in use")
        return done

    def seek(self, offset: int, whence: int) -> int:
        size = self.size
        if not 0 <= offset < size:
            raise failed(errno.ENXIO)
        for start, stop, in_upper in self.blocks.runs(offset, size):
            try:
                found = (self.upper if in_upper else self.below).seek(start, whence)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                continue
            if found < stop:
                return found
        if whence == os.SEEK_DATA:
            raise failed(errno.ENXIO)
        return size

    def copy_range(self, start: int, target: int, to: int, length: int) -> int:
        """As far as the bytes lie in one file."""
        length = min(length, self.size - start)
        if length <= 0:
            return 0
        run = next(self.blocks.runs(start, start + length))
        return (self.upper if run.in_upper else self.below).copy_range(start, target, to, run.end - run.start)

    def copy(self, target: int, start: int, end: int, quick: bool = False) -> int:
        runs = self.blocks.runs(start, end)
        return sum((self.upper if run.in_upper else self.below).copy(target, run.start, run.end, quick) for run in runs)

    def clone_into(self, target: int) -> bool:
        return False

    def _note_use(self) -> None:
        self.uses += 1
        if self.uses == BUSY and self.on_busy is not None:
            self.on_busy()

    # Changing

    def may_wait(self, offset: int, size: int) -> bool:
        """Whether a write must wait: for somebody else who changes the file, for a sync, or for bytes that are to be
        copied first and are not in the page cache."""
        if self.lock.locked() or (self._durable and self.blocks.parts_unsynced(offset, offset + size)):
            return True
        torn = self.blocks.torn(offset, offset + size)
        return bool(torn) and not all(map(self._is_cached, torn))

    def _is_cached(self, run: Run) -> bool:
        buffer = bytearray(min(run.end - run.start, _QUICK + 1))
        try:
            with memoryview(buffer) as view:
                return len(buffer) <= _QUICK and self.below.read(view, run.start, os.RWF_NOWAIT) == len(buffer)
        except OSError:
            return False

    def write(self, data: bytes | bytearray | memoryview, offset: int, sync: bool = False) -> int:
        self._note_use()
        size = len(data)
        if not size:
            return 0
        with self._changing():
            self._prepare(offset, offset + size)
            count = os.pwrite(self.fd, data, offset)
            count = self._replaced(offset, count, size)
        if sync:
            self.sync()
        return count

    def copy_in(self, source: Content, start: int, to: int, length: int) -> int:
        """copy_file_range(2) into this file; how many bytes were copied, which may be fewer."""
        length = min(length, source.size - start)
        if length <= 0:
            return 0
        with self._changing():
            self._prepare(to, to + length)
            done = 0
            try:
                while done < length:
                    count = source.copy_range(start + done, self.fd, to + done, length - done)
                    if not count:
                        break
                    done += count
            except OSError:
                if not self._whole(to, done):
                    raise
            return self._replaced(to, done, length) if done else 0

    def truncate(self, size: int) -> None:
        with self._changing():
            os.ftruncate(self.fd, size)
            if size < self.blocks.watermark:
                self.blocks.cut(size)
                self._is_stale = True

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        if offset < 0 or length <= 0:
            raise failed(errno.EINVAL)
        if mode & _MOVING:
            self.complete()
        with self._changing():
            if mode & _ZEROING:
                self._prepare(offset, offset + length)
            elif mode & files.FALLOC_UNSHARE:
                self._copy_up(self.blocks.missing(offset, offset + length))
            files.fallocate(self.fd, mode, offset, length)
            if mode & _ZEROING:
                self.blocks.add(offset, offset + length)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock; afterwards the map is written if it has changed."""
        with self.untouched():
            if self._is_stale:
                self._write_map()
            before = self.blocks.have
            try:
                yield
            finally:
                if self._is_stale or self.blocks.have != before:
                    self._write_map()

    def _prepare(self, start: int, end: int) -> None:
        """Before the bytes from `start` to `end` are replaced."""
        torn = self.blocks.torn(start, end)
        if torn:
            self._copy_up(torn)
        if self._durable and self.blocks.parts_unsynced(start, end):
            self._sync_seam()

    def _sync_seam(self) -> None:
        """What lies behind the watermark is the upper's at once, what lies before it in the same block only when that
        was synced: bytes on both sides that are replaced together must not come apart in a power cut."""
        seam = self.blocks.watermark
        self._copy_up(self.blocks.missing(seam - 1, seam))
        os.fdatasync(self.fd)
        self.blocks.synced |= self.blocks.have
        self._write_map()
        os.fsync(self.fd)

    def _copy_up(self, runs: Iterable[Run]) -> None:
        for run in list(runs):
            copied = self.below.copy(self.fd, run.start, run.end, quick=run.end - run.start <= _QUICK)
            self.blocks.copied += copied
            self.blocks.add(run.start, run.end)
            if events.listeners:
                events.emit(
                    "copy-up", how="blocks", offset=run.start, bytes=copied, block_size=self.blocks.block_size
                )

    def _replaced(self, start: int, count: int, wanted: int) -> int:
        """Add the blocks of `count` bytes that were replaced. Where fewer were than `wanted`, the last block may be old
        in part and new in part: it still counts as the lower's, and its bytes as not replaced. Raises ENOSPC: none
        were."""
        if count < wanted:
            count = self._whole(start, count)
            if not count:
                raise failed(errno.ENOSPC)
        self.blocks.asked += count
        self.blocks.add(start, start + count)
        return count

    def _whole(self, start: int, count: int) -> int:
        """The part of `count` replaced bytes that the map can hold: up to the end of a whole block."""
        end, size = start + count, self.blocks.block_size
        if end >= self.blocks.watermark or next(self.blocks.runs(end, end + 1)).in_upper:
            return count
        return max(0, end // size * size - start)

    def _write_map(self) -> None:
        if self.is_finished:
            return
        self._is_stale = True
        if not self._durable:
            self.blocks.synced = self.blocks.have
        if self.blocks.is_complete and self.blocks.is_synced:
            self._record.remove()
            self.is_finished = True
        else:
            self._record.write(self.blocks)
        self._is_stale = False

    # Syncing and completing

    @property
    def is_writable(self) -> bool:
        return fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY

    @property
    def missing(self) -> int:
        """Bytes that only the lower file has."""
        return sum(run.end - run.start for run in self.blocks.missing(0, self.blocks.watermark))

    @property
    def is_synced(self) -> bool:
        """Whether all that was written counts after a crash of the machine, and a map without use is gone."""
        return self.is_finished or (self.blocks.is_synced and not self.blocks.is_complete)

    def sync(self) -> None:
        """fsync(2), the map included."""
        with self.lock:
            is_synced, have = self.is_synced, self.blocks.have
        if is_synced:
            os.fsync(self.fd)
            return
        os.fdatasync(self.fd)
        self.note_synced(have)
        os.fsync(self.fd)

    def note_synced(self, have: int) -> None:
        """The data of the blocks `have` has been synced; the map that says so is not, when this returns."""
        with self.lock:
            self.blocks.synced |= have
            self._write_map()

    def complete(self, on_piece: Callable[[int], None] = lambda copied: None, piece: int = 64 << 20) -> None:
        """Copy all that is missing, sync it, and let the map go. Between pieces others may change the file."""
        while copied := self.complete_piece(piece):
            on_piece(copied)
        if not self.is_finished:
            self.sync()

    def complete_piece(self, piece: int) -> int:
        """Copy up to `piece` bytes of what is missing; how many that were, 0: nothing is.

        Nobody wrote to the file: its time of modification, mode and capabilities stay, which a write changes.
        """
        with self._changing(), self._copying():
            run = next(self.blocks.missing(0, self.blocks.watermark), None)
            if run is None:
                return 0
            end = min(run.end, run.start + max(piece, self.blocks.block_size))
            end = end if end == run.end else end // self.blocks.block_size * self.blocks.block_size
            self._copy_up([Run(run.start, end, False)])
            return end - run.start

    @contextmanager
    def _copying(self) -> Iterator[None]:
        before = os.fstat(self.fd)
        capability = _capability(self.fd)
        self.mtime_ns = before.st_mtime_ns
        try:
            yield
        finally:
            after = os.fstat(self.fd)
            if after.st_mode != before.st_mode:
                os.fchmod(self.fd, before.st_mode & 0o7777)
            if capability is not None and _capability(self.fd) is None:
                os.setxattr(self.fd, _CAPABILITY, capability)
            if after.st_mtime_ns != before.st_mtime_ns:
                os.utime(self.fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Nobody else changes the file meanwhile, neither its data nor, to copy, its attributes."""
        with self.lock:
            self.mtime_ns = None
            yield

    def close(self) -> None:
        self.upper.close()
        self.below.close()


def _capability(fd: int) -> bytes | None:
    with suppress(OSError):
        return os.getxattr(fd, _CAPABILITY)
    return None
