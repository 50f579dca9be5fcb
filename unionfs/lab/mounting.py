"""A student's file system, really mounted: served by a process of its own, unmounted whatever happens.

Used by the checks of labs 7 and 8, as root. `functions` are the student's; the loop over /dev/fuse is their serve.py.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unionfs.linux import fusedev, mounts


@contextmanager
def mounted(place: Path, serve: Callable[[int], object]) -> Iterator[Path]:
    """The directory where it is mounted, read-only; `serve` is called with the descriptor of /dev/fuse, in a child."""
    point = place / "mounted"
    point.mkdir()
    device = fusedev.open_device()
    flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
    fusedev.mount_direct(device, os.fsencode(point), b"lab", b"lab", flags, [b"default_permissions"])
    child = os.fork()
    if not child:
        status = 1
        try:
            serve(device)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)  # not to undo here what is the parent's
    os.close(device)
    try:
        yield point
    finally:
        with suppress(OSError):
            mounts.unmount(os.fsencode(point), mounts.MNT_DETACH)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
