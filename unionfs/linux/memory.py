"""Memory that a long-lived process needed for its start alone, given back: malloc_trim(3), madvise(2).

Called by processes that wait from then on: a container's monitor, and the daemon that serves its root.
"""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress

from unionfs.linux.libc import libc

_MADV_DONTNEED = 4
_CODE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) r-xp [0-9a-f]+ [0-9a-f:]+ [1-9][0-9]* +/")
"""A line of /proc/self/maps: an executable, read-only and private mapping of a file (proc_pid_maps(5)). Nothing is ever
written to one, so a page that leaves is read again, from the page cache, when it is used again."""

libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def give_back() -> None:
    """Free heap goes to the kernel, and code leaves that was run once. It takes a millisecond, and a page fault for
    each piece of code that is run again."""
    if hasattr(libc, "malloc_trim"):  # musl has none
        libc.malloc_trim(0)
    with suppress(OSError), open("/proc/self/maps", "rb") as maps:
        for first, end in _CODE.findall(maps.read()):
            libc.madvise(int(first, 16), int(end, 16) - int(first, 16), _MADV_DONTNEED)
