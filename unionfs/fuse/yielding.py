"""Yielding: the thread that answers gives way to everybody, so that its client goes on at once, and on the same CPU.

Started by `mount.py`, told of work by `affinity.py`. Where it is allowed (CAP_SYS_NICE), the thread has the policy
SCHED_IDLE (sched(7)) while requests come. To the scheduler a CPU that runs nothing else is as good as an idle one: the
client that an answer wakes up runs there, before the daemon does, and not on another CPU, which had to be woken first.
On a virtual machine of two CPUs that made a request of 15 us out of one of 80.

The price is that such a thread hardly runs where somebody computes. So somebody else, with a `Watch`, looks every few
milliseconds whether it is ready to run and does not; then it gets the usual policy back, for a time that is longer each
time. It has to be another process, since the thread that it looks after may have the interpreter: a container's
monitor, which is there anyhow, or one made for this, the guard. A `Bell` wakes it when there is work.
"""

from __future__ import annotations

import gc
import mmap
import os
import select
import signal
import threading
import time
from contextlib import suppress
from typing import BinaryIO

from unionfs import events
from unionfs.linux import scheduling
from unionfs.linux.capabilities import CAP_SYS_NICE, rules_the_machine

POLL = 0.004
"""Seconds between two looks while requests come: a request waits that long at most, and the guard itself takes about
half a percent of a CPU."""
_STARVED = 0.1
"""Who is ready to run and got less than this part of the time between two looks is starved."""
_QUIET = 64
"""After so many looks without work the guard sleeps, until there is some."""
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds with the usual policy after a thread was starved: the first time, and at most."""
_CALM = 1.0
"""Seconds without that, after which the next pause is a short one again."""


def allowed() -> bool:
    """Whether a thread of ours may leave SCHED_IDLE again, and there is a CPU for somebody who looks after it."""
    usual = os.sched_getscheduler(0) == os.SCHED_OTHER and len(scheduling.CPUS) > 1
    return usual and os.path.exists("/proc/self/schedstat") and rules_the_machine(CAP_SYS_NICE)


def start() -> Guard | None:
    """A guard for the calling thread; None where it could not give way, or nobody could look after it."""
    if not allowed() or threading.active_count() > 1:  # of several threads a fork takes one along
        return None
    try:
        return Guard()
    except OSError as error:
        events.warning(f"the daemon does not give way to its clients: {error.strerror}")
        return None


class Bell:
    """What the daemon has of who looks after it. Made before the fork that parts the two; then one of them calls `wake`
    and `close`, the other is a Watch."""

    def __init__(self) -> None:
        self.is_awake = mmap.mmap(-1, 1)
        """Shared by the two: nobody rings for one who is awake."""
        self.is_awake[0] = 0
        self.rings, self._pipe = os.pipe()

    def wake(self) -> None:
        """There is work: called every few requests."""
        if not self.is_awake[0]:
            self.is_awake[0] = 1
            with suppress(BrokenPipeError):  # it was killed
                os.write(self._pipe, b"\0")

    def close(self) -> None:
        """The calling thread is the daemon's, and is looked after no more: it has the usual policy."""
        os.close(self._pipe)
        scheduling.begin_thread()

    def hand_over(self) -> None:
        """In the one that watches: the daemon alone can ring."""
        os.close(self._pipe)


class Guard(Bell):
    """A process that looks after the main thread of the one that makes it. It ends with that, or by `close`. To be
    made before any thread is."""

    def __init__(self) -> None:
        super().__init__()
        gc.freeze()  # the collector writes to each object, and so parts the memory of the two
        self._process = os.fork()
        if self._process == 0:
            try:  # whatever happens, nothing goes on into the frames of the daemon
                _leave_alone(self.rings)
                _watch(Watch(os.getppid(), self))
            finally:
                os._exit(0)
        os.close(self.rings)
        self._before = signal.signal(signal.SIGCHLD, self._ended)

    def close(self) -> None:
        signal.signal(signal.SIGCHLD, self._before)
        if self._process:
            os.kill(self._process, signal.SIGKILL)  # it may sleep for a while, and has nothing to lose
            os.waitpid(self._process, 0)
        super().close()

    def _ended(self, number: int, frame: object) -> None:
        """Without a guard nobody gives way. (Or another child ended.)"""
        if self._process and os.waitpid(self._process, os.WNOHANG)[0]:
            self._process = 0
            scheduling.begin_thread()


def _leave_alone(pipe: int) -> None:
    """Nothing of what the daemon has open stays open here, and no signal for it ends this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()
    os.closerange(0, pipe)
    os.closerange(pipe + 1, os.sysconf("SC_OPEN_MAX"))


def _watch(watch: Watch) -> None:
    """Raises OSError when the daemon is gone."""
    while True:
        seconds = watch.seconds()
        if seconds is None:
            select.select([watch.rings], [], [])
        else:
            time.sleep(seconds)
        watch.turn()


class Watch:
    """Looks after the main thread of a process that has a bell: call `turn` when `seconds` have passed, or, where these
    are None, when `rings` can be read. Any method but `seconds` raises OSError when that process is gone."""

    def __init__(self, process: int, bell: Bell) -> None:
        self.rings = bell.rings
        self._is_awake = bell.is_awake
        self._thread = _Watched(process)
        self._gives_way = False
        self._next: float | None = None
        """When the next turn is; None: when the bell rings."""
        self._pause, self._calm_since, self._quiet = _PAUSE, 0.0, 0

    def seconds(self) -> float | None:
        return None if self._next is None else max(self._next - time.monotonic(), 0.0)

    def turn(self) -> None:
        now = time.monotonic()
        if self._next is None:
            if not os.read(self.rings, 64):
                raise ProcessLookupError
            self._pause, self._calm_since, self._quiet = _PAUSE, now, 0
            self._give_way(True)
        elif not self._gives_way:
            self._calm_since = now
            self._give_way(True)
        else:
            used, is_starved = self._thread.look()
            self._quiet = 0 if used or is_starved else self._quiet + 1
            if is_starved:
                self._leave_it_alone(now)
                return
            if self._quiet == _QUIET:
                self.end()
                self._is_awake[0] = 0
                return
        self._next = now + POLL

    def end(self) -> None:
        """The thread has the usual policy, until the bell rings again."""
        self._give_way(False)
        self._next = None

    def _leave_it_alone(self, now: float) -> None:
        self._give_way(False)
        self._pause = self._pause if now - self._calm_since < _CALM else _PAUSE
        self._next = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _give_way(self, does: bool) -> None:
        self._gives_way = does
        self._thread.give_way(does)


class _Watched:
    """The main thread of a process. Any method raises OSError when it is gone."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._stat: BinaryIO = open(f"/proc/{process}/task/{process}/stat", "rb", 0)
        self._schedstat: BinaryIO = open(f"/proc/{process}/task/{process}/schedstat", "rb", 0)
        self._ran = 0
        self._at = time.monotonic_ns()

    def give_way(self, does: bool) -> None:
        """Have it give way, or not; the time for `look` starts anew."""
        self.look()
        os.sched_setscheduler(self._process, os.SCHED_IDLE if does else os.SCHED_OTHER, os.sched_param(0))

    def look(self) -> tuple[int, bool]:
        """How many nanoseconds it ran since the last look, and whether it would have liked to run and could not.

        proc_pid_stat(5): the state, after the name; Documentation/scheduler/sched-stats.rst: the time on a CPU first.
        """
        self._stat.seek(0)
        state = self._stat.read().rpartition(b")")[2].split(None, 1)[0]
        if state in b"ZX":
            raise ProcessLookupError
        self._schedstat.seek(0)
        ran, now = int(self._schedstat.read().split()[0]), time.monotonic_ns()
        used, passed = ran - self._ran, now - self._at
        self._ran, self._at = ran, now
        return used, state == b"R" and used < _STARVED * passed
