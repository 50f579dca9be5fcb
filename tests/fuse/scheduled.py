"""A mount whose daemon's scheduling is looked at from outside: its policy, what it is asked, CPUs that are busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unionfs.linux import fusedev
from unionfs.linux.capabilities import CAP_SYS_NICE, rules_the_machine
from unionfs.linux.scheduling import CPUS

NEEDS = [
    pytest.mark.skipif(not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs access to /dev/fuse"),
    pytest.mark.skipif(not rules_the_machine(CAP_SYS_NICE), reason="needs CAP_SYS_NICE, to leave SCHED_IDLE again"),
    pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs"),
]


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


def processes_below(parent: int) -> list[int]:
    """What its main thread has forked (proc_pid_task_children(5))."""
    return list(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))


class Served:
    """A directory that a daemon serves."""

    def __init__(self, path: Path, daemon: int) -> None:
        self.path = path
        self.daemon = daemon
        self._made = 0

    def work(self, count: int = 200) -> None:
        for _ in range(count):
            self._made += 1
            os.mkdir(self.path / str(self._made))

    def gives_way(self) -> bool:
        return os.sched_getscheduler(self.daemon) == os.SCHED_IDLE

    def works_until(self, condition: Callable[[], bool]) -> bool:
        def step() -> bool:
            self.work()
            return condition()

        return eventually(step)


@contextmanager
def busy_cpu() -> Iterator[None]:
    """This process runs on one CPU, and two others compute there: who serves it only runs if it is given its turn."""
    cpu = min(CPUS)
    computing = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for process in (*(one.pid for one in computing), 0):
            os.sched_setaffinity(process, {cpu})
        yield
    finally:
        os.sched_setaffinity(0, CPUS)
        for one in computing:
            one.kill()
            one.wait()
