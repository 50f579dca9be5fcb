"""Content: the bytes of a file, wherever they lie, and copying them.

Used by whatever reads or copies the data of a layer's file. `Content` is the interface and the plain case, one
descriptor; `partial.py` has the other, a file that goes on in a lower layer. Offsets and sizes are bytes.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from unionfs.linux import files

_CHUNK = 8 << 20
"""Bytes copied between two looks at the interrupt check."""
_NO_SUCH_WAY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_thread = threading.local()


def set_interrupt_check(check: Callable[[], bool] | None) -> None:
    """For this thread: what a long copy asks between chunks; when it answers True, the copy ends with EINTR."""
    _thread.interrupted = check


def _stop_if_interrupted() -> None:
    check = getattr(_thread, "interrupted", None)
    if check is not None and check():
        raise OSError(errno.EINTR, "interrupted while the file was copied")


class Content:
    """All bytes in one file, open as `fd`, which this object owns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._data = (0, 0)
        """Bytes that were found to be in no hole, as far as it matters where holes are."""

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def read(self, buffer: memoryview, offset: int, flags: int = 0) -> int:
        """Fill the buffer from `offset` on; fewer bytes at the end of the file. `flags`: those of preadv2(2)."""
        return os.preadv(self.fd, [buffer], offset, flags)

    def seek(self, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE (lseek(2)). Raises ENXIO where there is none before the end."""
        return os.lseek(self.fd, offset, whence)

    def copy_range(self, start: int, target: int, to: int, length: int) -> int:
        """copy_file_range(2) into the descriptor `target`; how many bytes that were."""
        return os.copy_file_range(self.fd, target, length, start, to)

    def copy(self, target: int, start: int, end: int, quick: bool = False) -> int:
        """Copy the bytes from `start` to `end` to the same place in `target`, holes as holes, whatever was there. How
        many were copied that were in no hole. The file must not change while this object is used to copy from it.

        `quick`: a few bytes, to be copied without asking where there are holes behind the first data."""
        copied = 0
        while start < end:
            data, stop = self._next_data(start, end, quick)
            if data > start:
                make_hole(target, start, data)
            if data < stop:
                copy_range(self.fd, target, data, stop)
                copied += stop - data
            start = stop
        return copied

    def _next_data(self, start: int, end: int, quick: bool) -> tuple[int, int]:
        """The first bytes that are in no hole, among those from `start` to `end`; (end, end) when there are none.

        lseek(2), SEEK_HOLE walks all pages of a file on tmpfs: it is asked once for each stretch of data.
        """
        if self._data[0] <= start < self._data[1]:
            return start, min(self._data[1], end)
        try:
            data = min(os.lseek(self.fd, start, os.SEEK_DATA), end)
            if quick:
                return data, end
            self._data = (data, os.lseek(self.fd, data, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end, end
            if error.errno != errno.EINVAL:  # a filesystem that cannot tell
                raise
            return start, end
        return data, min(self._data[1], end)

    def clone_into(self, target: int) -> bool:
        """Share all data with the empty file `target`; False where the filesystem cannot (ioctl_ficlone(2))."""
        return files.clone_data(target, self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()


def make_hole(target: int, start: int, end: int) -> None:
    """See that the bytes from `start` to `end` are read as zeros, without taking space where that is possible."""
    size = os.fstat(target).st_size
    if end > size:
        os.ftruncate(target, end)
    if start >= size:
        return
    try:
        files.fallocate(target, files.FALLOC_PUNCH_HOLE | files.FALLOC_KEEP_SIZE, start, end - start)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        for position in range(start, end, 1 << 20):
            os.pwrite(target, bytes(min(1 << 20, end - position)), position)


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy the bytes from `start` to `end` to the same place, in the kernel where it can. Raises EIO when the source
    ends before that."""
    in_kernel = True
    while start < end:
        _stop_if_interrupted()
        size = min(end - start, _CHUNK)
        if in_kernel:
            try:
                done = os.copy_file_range(source, target, size, start, start)
            except OSError as error:
                if error.errno not in _NO_SUCH_WAY:
                    raise
                done = 0
            in_kernel = done > 0
        else:
            data = os.pread(source, min(size, 1 << 20), start)
            if not data:
                raise OSError(errno.EIO, "the file that is copied became shorter meanwhile")
            done = os.pwrite(target, data, start)
        start += done
