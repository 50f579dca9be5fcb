"""How the threads of this process are scheduled (sched(7)): where they may run, and by which policy.

Called by the FUSE floor, whose main thread is scheduled in its own way, and by whoever makes threads.
"""

from __future__ import annotations

import os
from contextlib import suppress

CPUS = os.sched_getaffinity(0)
"""Where the process may run, as it was started."""


def begin_thread() -> None:
    """Called first in each new thread: it is scheduled as any other, whatever the thread that made it is. Affinity and
    policy are inherited (sched_setaffinity(2), sched(7))."""
    with suppress(OSError):
        os.sched_setaffinity(0, CPUS)
        if os.sched_getscheduler(0) == os.SCHED_IDLE:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
