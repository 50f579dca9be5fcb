"""Affinity: the thread that answers stays on its client's CPU.

Called by `server.py`. Most of a request's time is the switch from the client to the daemon and back. On one CPU that is
two context switches; to another, idle one it is two interrupts and two wake-ups from idle besides: 10,000 lookups took
five times as long. The scheduler prefers the idle CPU, and there is no asking it not to, so the thread goes by itself,
and gives way (`yielding.py`), so that the client does not go elsewhere.

With one client it goes where that is; with several it goes back to all CPUs, and the scheduler decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from unionfs.fuse.wire import Request
from unionfs.linux.scheduling import CPUS

EVERY = 8
"""Requests between two looks, which take 2 us each. The scheduler moves a client every few hundred requests: with a
look at every 64th, a cold stat took 30 us on average, and takes 17."""

_PROCESSOR = 36
"""The field "processor" of /proc/PID/stat, counted from 0 after the name (proc_pid_stat(5), field 39)."""


class Affinity:
    """Of the thread that makes it. `follow` is called by that thread alone, and `works` by `follow`."""

    told = "follows its client"

    def __init__(self, works: Callable[[], None] = lambda: None) -> None:
        self._client = 0
        self._cpu: int | None = None
        self._stat: BinaryIO | None = None
        """/proc/PID/stat of the client, kept open: that saves two thirds of a look."""
        self._works = works

    def follow(self, request: Request) -> int:
        """Go where the process is that sent `request`, if it sent the one before as well. Called again after so many
        requests as it answers."""
        self._works()
        client = request.pid
        if not client:  # the kernel's own, as RELEASE and FORGET: whose they are is not said
            return 1
        if client == self._client and len(CPUS) > 1:
            self._go(self._cpu_of_client())
        else:
            self._client = client
            self._forget()
            self._go(None)
        return EVERY

    def _cpu_of_client(self) -> int | None:
        """On which CPU it (a thread) runs or ran last; None: it is gone, or in another PID namespace (0)."""
        try:
            if self._stat is None:
                self._stat = open(f"/proc/{self._client}/stat", "rb", 0)
            self._stat.seek(0)
            return int(self._stat.read().rpartition(b")")[2].split(None, _PROCESSOR + 1)[_PROCESSOR])
        except (OSError, ValueError, IndexError):
            self._forget()
            return None

    def _forget(self) -> None:
        if self._stat is not None:
            self._stat.close()
            self._stat = None

    def _go(self, cpu: int | None) -> None:
        if cpu == self._cpu:
            return
        with suppress(OSError):  # a CPU that is not allowed any more, or was taken away
            os.sched_setaffinity(0, CPUS if cpu is None else {cpu} & CPUS or CPUS)
            self._cpu = cpu


class Yielding(Affinity):
    """It also gives way: `works` wakes who looks after the thread (`yielding.py`)."""

    told = "follows its client and gives way"


class Staying(Affinity):
    """The scheduler decides (`scheduling=normal`)."""

    told = "normal"

    def follow(self, request: Request) -> int:
        return EVERY

