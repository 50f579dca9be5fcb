"""Passthrough: the kernel reads and writes an open file's data by itself, in the file of the upper layer.

Called by `calls.py` when a file is opened and closed. Linux 6.9 and CAP_SYS_ADMIN in the first user namespace; where
that is missing, or the upper lies on a stacked filesystem, every file's data goes through this process as before.

Files of the upper alone, and only those that hold all of their bytes. A lower file is not passed through: after its
copy-up the kernel would go on writing to the lower one, or refuse to open it (EIO). The rule that the kernel enforces
(fs/fuse/iomode.c): as long as a file is open anywhere, every further descriptor is passed through to the same backing
file, or none is. So the first one decides, for all until the last close.

Setuid and setgid bits. When others write, they have to go; the kernel leaves that to the daemon (HANDLE_KILLPRIV_V2),
which sees none of these writes. So a file that has them is not passed through; and since the kernel writes with the
rights of whoever registered the backing file, it is registered without CAP_FSETID: bits that come later go with the
next write, whoever writes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from threading import Lock

from unionfs import events
from unionfs.fuse import protocol
from unionfs.linux import fusedev
from unionfs.linux.capabilities import CAP_FSETID, without

_CACHED = 0
_NEVER = (errno.EPERM, errno.ELOOP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


class _Opened:
    __slots__ = ("backing", "count")

    def __init__(self, backing: int) -> None:
        self.backing = backing
        self.count = 0


class Passthrough:
    """`connection` is the descriptor of /dev/fuse; None: there is no passthrough. Safe to call from several threads."""

    def __init__(self) -> None:
        self.connection: int | None = None
        self._lock = Lock()
        self._opened: dict[int, _Opened] = {}

    def opened(self, nodeid: int, backing: Callable[[], int | None]) -> int:
        """A file was opened: the id of its backing file, 0 for none. `backing` gives a descriptor of that, open for
        reading and writing, which is closed here; None where there is none."""
        with self._lock:
            file = self._opened.get(nodeid)
            if file is None:
                file = self._opened[nodeid] = _Opened(self._register(backing))
            file.count += 1
            return file.backing

    def closed(self, nodeid: int) -> None:
        with self._lock:
            file = self._opened.get(nodeid)
            if file is None:
                return
            file.count -= 1
            if not file.count:
                del self._opened[nodeid]
                if file.backing != _CACHED and self.connection is not None:
                    fusedev.backing_close(self.connection, file.backing)

    def _register(self, backing: Callable[[], int | None]) -> int:
        if self.connection is None:
            return _CACHED
        descriptor = backing()
        if descriptor is None:
            return _CACHED
        try:
            with without(CAP_FSETID):
                return fusedev.backing_open(self.connection, descriptor)
        except OSError as error:
            if error.errno in _NEVER:
                events.info(f"data goes through the daemon: the kernel allows no passthrough here ({error.strerror})")
                self.connection = None
            return _CACHED
        finally:
            os.close(descriptor)


def flags(backing: int, cached: int) -> int:
    """The flags of an open reply: `cached` belong to a file whose data goes through the daemon and the page cache."""
    return protocol.FOPEN_NOFLUSH | (protocol.FOPEN_PASSTHROUGH if backing else cached)
